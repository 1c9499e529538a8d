"""Wheels in parts, to machines that take little at a time. Needs Python alone.

python bench/wheel_parts.py split WHEELS PARTS [--megabytes 40]   folders PARTS/00, PARTS/01, ...
python bench/wheel_parts.py take PARTS/00 WHEELS                  there, once for each folder, in any order
python bench/wheel_parts.py join WHEELS                           there: the wheels, checked
"""

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

LIST = "sha256.txt"
"""Of every wheel: its checksum, its number of pieces, its name. It is in every folder of parts."""


def split(wheels: Path, parts: Path, megabytes: int) -> int:
    """Cut wheels into pieces and share these out, each folder at most so large; how many folders."""
    limit, folder, room, lines = megabytes << 20, -1, 0, []
    for wheel in sorted(wheels.glob("*.whl")):
        content = wheel.read_bytes()
        pieces = [content[at : at + limit] for at in range(0, len(content), limit)]
        lines.append(f"{hashlib.sha256(content).hexdigest()} {len(pieces)} {wheel.name}\n")
        for number, piece in enumerate(pieces):
            if len(piece) > room:
                folder, room = folder + 1, limit
                (parts / f"{folder:02d}").mkdir(parents=True)
            room -= len(piece)
            (parts / f"{folder:02d}" / f"{wheel.name}.{number:03d}").write_bytes(piece)
    for number in range(folder + 1):
        (parts / f"{number:02d}" / LIST).write_text("".join(lines))
    return folder + 1


def take(part: Path, wheels: Path) -> None:
    """Keep a folder's pieces."""
    wheels.mkdir(parents=True, exist_ok=True)
    for piece in part.iterdir():
        shutil.copyfile(piece, wheels / piece.name)


def join(wheels: Path) -> list[str]:
    """Make the wheels whole and remove their pieces; what is missing or damaged, by name."""
    wrong = []
    for line in (wheels / LIST).read_text().splitlines():
        checksum, count, name = line.split(" ", 2)
        if (wheels / name).exists():
            continue
        pieces = [wheels / f"{name}.{number:03d}" for number in range(int(count))]
        if not all(piece.exists() for piece in pieces):
            wrong.append(f"{name}: not all pieces are here")
            continue
        content = b"".join(piece.read_bytes() for piece in pieces)
        if hashlib.sha256(content).hexdigest() != checksum:
            wrong.append(f"{name}: its checksum is another")
            continue
        (wheels / f"{name}.whole").write_bytes(content)
        (wheels / f"{name}.whole").rename(wheels / name)
        for piece in pieces:
            piece.unlink()
    return wrong


def main(words: list[str]) -> str | None:
    """Run one command; what is wrong, or nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, folders in (
        ("split", ("wheels", "parts")),
        ("take", ("part", "wheels")),
        ("join", ("wheels",)),
    ):
        command = commands.add_parser(name)
        for folder in folders:
            command.add_argument(folder, type=Path)
    commands.choices["split"].add_argument("--megabytes", type=int, default=40)
    given = parser.parse_args(words)
    if given.command == "split":
        print(f"{split(given.wheels, given.parts, given.megabytes)} folders in {given.parts}")
    elif given.command == "take":
        take(given.part, given.wheels)
    else:
        return "; ".join(join(given.wheels)) or None
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
