"""Image sequences by name: a folder, a glob, or a numbered pattern such as `frames/%05d.png`."""

import glob
import itertools
import os
import re

from flashvsr_trt.errors import VideoError

IMAGE_EXTENSIONS = (".bmp", ".dpx", ".exr", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
NUMBER = re.compile(r"%(0\d+)?d")


def is_pattern(path: str) -> bool:
    """Whether the file name holds one `%d` or `%05d`."""
    return len(NUMBER.findall(os.path.basename(path))) == 1


def names_images(path: str) -> bool:
    """Whether a name that no file has is a numbered pattern or a glob."""
    return is_pattern(path) or (glob.has_magic(path) and "://" not in path)


def find_images(path: str) -> list[str] | None:
    """The images `path` means, in order; None when it names no sequence.

    Raises VideoError when a sequence is empty or its numbers have a gap.
    """
    if os.path.isdir(path):
        # A Mac leaves "._00001.png" beside "00001.png" on foreign disks: hidden files are no pictures.
        images = [os.path.join(path, name) for name in os.listdir(path) if not name.startswith(".")]
        return _images_in_order(path, images)
    if os.path.exists(path):
        return None
    if is_pattern(path):
        return _numbered(path)
    if names_images(path):
        return _images_in_order(path, glob_matches(path))
    return None


def glob_matches(path: str) -> list[str]:
    """The files that a glob means, in order of their names.

    Raises VideoError when there is none.
    """
    # A folder that exists is that folder, whatever its name holds.
    folder, name = os.path.split(path)
    found = sorted(glob.glob(os.path.join(glob.escape(folder), name) if os.path.isdir(folder) else path))
    if not found:
        raise VideoError(f"no file matches '{path}'; check the folder and the name")
    return found


def numbered_names(pattern: str) -> re.Pattern[str]:
    """What the file names of a numbered pattern match; the group is the number."""
    name = os.path.basename(pattern)
    number = NUMBER.search(name)
    if number is None:
        raise ValueError(f"'{pattern}' has no number, like %04d")
    width = number.group(1)
    digits = rf"(\d{{{int(width)},}})" if width else r"([1-9]\d*|0)"
    return re.compile(re.escape(name[: number.start()]) + digits + re.escape(name[number.end() :]))


def matching_numbers(pattern: str) -> dict[int, str]:
    """Existing files that a numbered pattern names, by number."""
    folder, expected = os.path.dirname(pattern), numbered_names(pattern)
    if not os.path.isdir(folder or "."):
        return {}
    matches = (expected.fullmatch(entry) for entry in os.listdir(folder or "."))
    return {int(match.group(1)): os.path.join(folder, match.group(0)) for match in matches if match}


def _numbered(pattern: str) -> list[str]:
    found = matching_numbers(pattern)
    if not found:
        raise VideoError(f"no file matches the pattern '{pattern}'; check the folder and the digits")
    numbers = sorted(found)
    for previous, number in itertools.pairwise(numbers):
        if number != previous + 1:
            raise VideoError(
                f"'{pattern}' has no number {previous + 1}, but goes on at {number}; "
                "renumber the images, or name them with a glob"
            )
    return [found[number] for number in numbers]


def _images_in_order(path: str, candidates: list[str]) -> list[str]:
    images = [name for name in candidates if name.lower().endswith(IMAGE_EXTENSIONS)]
    if not images:
        raise VideoError(
            f"'{path}' holds no images; the extensions that count are {', '.join(IMAGE_EXTENSIONS)}"
        )

    def natural(name: str) -> list:  # frame10 comes after frame9
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

    return sorted(images, key=natural)
