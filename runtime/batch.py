"""Several inputs, one after another: which files they are, where each goes, what became of each."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flashvsr_trt.config.presets import SCALES
from flashvsr_trt.errors import DistributedError, FlashVSRError, UsageError, VideoError
from flashvsr_trt.files.image_sequence import (
    IMAGE_EXTENSIONS,
    glob_matches,
    is_pattern,
    matching_numbers,
    names_images,
)
from flashvsr_trt.files.targets import STANDARD_STREAM, identity
from flashvsr_trt.notices import Notify, phase
from flashvsr_trt.runtime.output_names import chosen_output, is_folder_of_videos, is_remote
from flashvsr_trt.runtime.request import RunOptions
from flashvsr_trt.runtime.video.image_output import is_image_output, names_folder, picture_pattern

VIDEO_EXTENSIONS = (
    *(".3gp", ".avi", ".divx", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)
"""What counts as a video in a folder of several."""

MOST_REASONS = 3
"""That the last line holds."""

DONE, DAMAGED, FAILED, SKIPPED = "done", "damaged", "failed", "skipped"


@dataclass(frozen=True)
class Outcome:
    """What became of one input."""

    input: str
    output: str
    state: str
    report: dict[str, Any] | None = None
    error: FlashVSRError | None = None


class BatchError(FlashVSRError):
    """Some of several inputs could not be upscaled, or only a part of them."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def is_batch(inputs: Sequence[str]) -> bool:
    """Whether there are several inputs, or a folder or glob of videos; one of images alone is one video."""
    return len(inputs) > 1 or _videos_of(inputs[0]) != [inputs[0]]


def left_out(inputs: Sequence[str]) -> list[str]:
    """A line for each folder or glob of videos that has pictures too."""
    lines = []
    for name in inputs:
        files = _files_of(name) or []
        videos, pictures = (_with_extension(files, kind) for kind in (VIDEO_EXTENSIONS, IMAGE_EXTENSIONS))
        if videos and pictures:
            those = os.path.join(os.path.dirname(pictures[0]), f"*{Path(pictures[0]).suffix}")
            many = len(pictures)
            lines.append(f"{name} holds videos: its pictures ({many}) are left out; name {those} for them")
    return lines


def jobs_of(inputs: Sequence[str], options: RunOptions) -> list[RunOptions]:
    """The options of each file.

    Outputs go into the folder that `options.output` names, or beside their inputs, as `INPUT_2x`.

    Raises:
        UsageError: an input is a pipe, or two would go to one output.
        VideoError: there is no video.
    """
    if STANDARD_STREAM in inputs:
        raise UsageError("the input - is read once and alone; name files")
    what = f"{inputs[0]} is not one video" if len(inputs) == 1 else "there are several inputs"
    if options.profile:
        raise UsageError(f"--profile is of one input, and {what}; name one")
    folder = options.output
    if folder is not None and (folder == STANDARD_STREAM or not names_folder(folder)):
        raise UsageError(f"-o {folder} is no folder, and {what}; name a folder, as out/")
    held = [_videos_of(name) for name in inputs]
    # An empty folder among others fails, and is listed so, as a file that is not there.
    named = zip(inputs, held, strict=True) if any(held) else ()
    found = [file for name, files in named for file in files or [name]]
    made_here = {
        identity(chosen_output(replace(options, input=name, output=None, side_by_side=split, scale=scale)))
        for name in found
        if not is_remote(name)
        for split in (False, True)
        for scale in SCALES
    }
    found = [name for name in found if name in inputs or identity(name) not in made_here]
    if not found:
        raise VideoError(
            f"{', '.join(inputs)}: no video and no images in there; the extensions of videos that count are "
            f"{', '.join(VIDEO_EXTENSIONS)}"
        )
    jobs = [replace(options, input=name, output=_output(name, options)) for name in found]
    counts = Counter(os.path.normcase(os.path.abspath(job.output or "")) for job in jobs)
    for job in jobs:
        if counts[os.path.normcase(os.path.abspath(job.output or ""))] > 1:
            raise UsageError(f"several inputs would become {job.output}; run those of one name in turn")
    return jobs


def run_batch(
    jobs: Sequence[RunOptions],
    upscale: Callable[[RunOptions], tuple[dict[str, Any], FlashVSRError | None]],
    resume: bool,
    notify: Notify,
) -> list[Outcome]:
    """Each job in turn. One that fails is told at once, and the others go on; Ctrl-C ends all.

    Raises:
        DistributedError: the ranks that share the work are lost.
    """
    outcomes: list[Outcome] = []
    with phase("files", "files") as report:
        for job in jobs:
            report(len(outcomes), len(jobs), os.path.basename(job.input))
            outcomes.append(_run_one(job, upscale, resume, notify))
            report(len(outcomes), len(jobs), os.path.basename(job.input))
    return outcomes


def _run_one(
    job: RunOptions,
    upscale: Callable[[RunOptions], tuple[dict[str, Any], FlashVSRError | None]],
    resume: bool,
    notify: Notify,
) -> Outcome:
    output = chosen_output(job)
    if resume and is_done(job):
        notify(f"{output} is there: skipped")
        return Outcome(job.input, output, SKIPPED)
    try:
        report, damage = upscale(job)
    except DistributedError:
        raise
    except (FlashVSRError, OSError) as error:
        known = error if isinstance(error, FlashVSRError) else FlashVSRError(str(error))
        notify(f"failed: {known}")
        return Outcome(job.input, output, FAILED, error=known)
    return Outcome(job.input, output, DAMAGED if damage else DONE, report, damage)


def is_done(job: RunOptions) -> bool:
    """Whether a run's output is there: it gets its name only when it is whole."""
    output = chosen_output(job)
    if is_image_output(output):
        return bool(matching_numbers(picture_pattern(output)))
    return os.path.isfile(output)


def check_outcomes(outcomes: Sequence[Outcome], notify: Notify) -> None:
    """Say how many became what, and list what went wrong.

    Raises:
        BatchError: with exit code 1 where one failed, 3 where some are only damaged.
    """
    counts = Counter(outcome.state for outcome in outcomes)
    said = [f"{counts[state]} {state}" for state in (DONE, SKIPPED, DAMAGED, FAILED) if counts[state]]
    notify(f"{len(outcomes)} input{'s' * (len(outcomes) != 1)}: {', '.join(said)}")
    wrong = [outcome for outcome in outcomes if outcome.error]
    for outcome in wrong:
        notify(f"  {outcome.state}: {outcome.error}")
    if wrong:
        code = 1 if counts[FAILED] else 3
        # Of many the lines above say why, and this one which.
        few = len(wrong) <= MOST_REASONS
        which = "; ".join(str(outcome.error) if few else outcome.input for outcome in wrong)
        raise BatchError(f"{len(wrong)} of {len(outcomes)} inputs are not whole: {which}", code)


def _videos_of(name: str) -> list[str]:
    """Itself, or the videos of a folder or glob that is not of pictures alone."""
    files = _files_of(name)
    if files is None:
        return [name]
    videos = _with_extension(files, VIDEO_EXTENSIONS)
    return videos if videos or not _with_extension(files, IMAGE_EXTENSIONS) else [name]


def _files_of(name: str) -> list[str] | None:
    """What a folder or glob stands for, in order of names; None for a file, a pattern, a URL or no file."""
    if os.path.isdir(name):
        return sorted(str(path) for path in Path(name).iterdir())
    if os.path.lexists(name) or is_pattern(name) or not names_images(name):
        return None
    try:
        return glob_matches(name)
    except VideoError:  # opening it says so
        return None


def _with_extension(files: Sequence[str], extensions: tuple[str, ...]) -> list[str]:
    shown = [file for file in files if not os.path.basename(file).startswith(".")]
    return [file for file in shown if file.lower().endswith(extensions) and os.path.isfile(file)]


def _output(name: str, options: RunOptions) -> str:
    beside = replace(options, input=name, output=None)
    if options.output is None:
        return chosen_output(beside)
    inside = replace(options, input=name, output=os.path.join(options.output, ""))
    if is_folder_of_videos(inside):
        return chosen_output(inside)
    # The pictures of one input have a folder of their own in there.
    return os.path.join(options.output, os.path.basename(chosen_output(beside).rstrip("/")), "")
