"""Photographs from Debian packages to a cache that training reads.

    python -m training.fetch [--into build/training-data]

Needs `apt-get` and `dpkg-deb`. The choice below was made by eye: photographs, and a few detailed drawings;
no logos and no gradients. Licences are those of each package's debian/copyright.
"""

import subprocess
from pathlib import Path

import click
from PIL import Image

from training.pictures import PictureSource, split_of, write_manifest

LONG_SIDE = 1024
"""Pixels of a cached picture's longer side at most: larger ones are not sharp at the pixel."""

JPEG_QUALITY = 93

LOMIRI_BY = (
    "aitzgorri_by",
    "friends_by",
    "life_by",
    "picosdeeuropa_by",
    "sunset_by",
    "Picture_0B",
    "Picture_1A",
)
LOMIRI_BY_SA = ("Bridge_by", "Dragonfly_by", "free_by", "greentock_by")
MATE = (
    "Aqua",
    "Blinds",
    "Dune",
    "FreshFlower",
    "Garden",
    "GreenMeadow",
    "LadyBird",
    "RainDrops",
    "Storm",
    "TwoWings",
    "Wood",
    "YellowFlower",
    "Elephants_5640x3172",
)
PLASMA = (
    "Autumn",
    "BytheWater",
    "ColdRipple",
    "ColorfulCups",
    "DarkestHour",
    "EveningGlow",
    "FallenLeaf",
    "Grey",
    "Kite",
    "OneStandsOut",
    "Path",
    "SafeLanding",
    "summer_1am",
)

CHOICE: dict[str, tuple[tuple[str, str], ...]] = {
    "lomiri-wallpapers-16.04": (
        *((f"{name}*.jpg", "CC-BY-4.0") for name in LOMIRI_BY),
        *((f"{name}*.jpg", "CC-BY-SA-4.0") for name in LOMIRI_BY_SA),
    ),
    "mate-backgrounds": tuple((f"{name}.jpg", "GPL-2+") for name in MATE),
    "plasma-workspace-wallpapers": tuple((f"{name}/contents/images/*", "GPL-2+") for name in PLASMA),
}
"""Package -> (pattern of one picture, its licence). Of several sizes the largest is taken."""


def chosen(licences: tuple[str, ...]) -> dict[str, tuple[tuple[str, str], ...]]:
    """Of CHOICE, the pictures under these licences, and the packages that hold any; all for none."""
    kept = {
        package: tuple(picture for picture in pictures if not licences or picture[1] in licences)
        for package, pictures in CHOICE.items()
    }
    return {package: pictures for package, pictures in kept.items() if pictures}


def download(package: str, folder: Path) -> Path:
    """The package's .deb, from the machine's apt sources. Raises CalledProcessError."""
    found = sorted(folder.glob(f"{package}_*.deb"))
    if not found:
        subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
        found = sorted(folder.glob(f"{package}_*.deb"))
    return found[-1]


def unpack(package: Path, folder: Path) -> str:
    """Unpack a .deb into `folder` and return its version."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    field = ["dpkg-deb", "-f", package, "Version"]
    return subprocess.run(field, check=True, capture_output=True, text=True).stdout.strip()


def largest(files: list[Path]) -> Path:
    """The picture with most pixels."""

    def pixels(path: Path) -> int:
        with Image.open(path) as picture:
            return picture.width * picture.height

    return max(files, key=pixels)


def save_bounded(source: Path, target: Path) -> None:
    """At most LONG_SIDE pixels a side, by area averaging, as a JPEG without chroma subsampling."""
    picture = Image.open(source).convert("RGB")
    shrink = max(picture.size) / LONG_SIDE
    if shrink > 1:
        size = tuple(round(side / shrink) for side in picture.size)
        picture = picture.resize(size, Image.Resampling.BOX, reducing_gap=None)
    picture.save(target, quality=JPEG_QUALITY, subsampling=0)


@click.command()
@click.option(
    "--licence",
    "licences",
    multiple=True,
    type=click.Choice(sorted({licence for patterns in CHOICE.values() for _, licence in patterns})),
    help="Only pictures under this one. May be given several times.  [default: all]",
)
@click.option(
    "--into",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("build/training-data"),
    show_default=True,
    help="Downloads go into packages/ and unpacked/, the cache into cache/.",
)
def main(folder: Path, licences: tuple[str, ...]) -> None:
    """Fetch, unpack, choose, and write the cache with its manifest."""
    packages, cache = folder / "packages", folder / "cache"
    for made in (packages, cache):
        made.mkdir(parents=True, exist_ok=True)
    sources = []
    for package, patterns in chosen(licences).items():
        unpacked = folder / "unpacked" / package
        version = unpack(download(package, packages), unpacked)
        for pattern, licence in patterns:
            files = [path for path in unpacked.rglob(pattern) if path.is_file() and not path.is_symlink()]
            if not files:
                raise click.ClickException(f"{package} {version} holds no {pattern}")
            picture = largest(files)
            path = str(picture.relative_to(unpacked))
            # Plasma's pictures are named by their size: the folder says which it is.
            name = path.split("/contents/")[0] if "/contents/" in path else path
            file = f"{package}-{Path(name).stem}.jpg"
            save_bounded(picture, cache / file)
            sources.append(PictureSource(file, package, version, path, licence, split_of(package, name)))
    write_manifest(cache, sources)
    held_out = sum(source.split != "train" for source in sources)
    click.echo(f"{len(sources)} pictures in {cache}, {held_out} of them held out")


if __name__ == "__main__":
    main()
