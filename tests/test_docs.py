"""Every file that the documents name in code quotes is there, and a frame's way stays short."""

import re
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")),
]

ROOMS = ("flashvsr_trt", "kernels", "plugins", "model", "export", "engines", "runtime")
FOLDERS = (*ROOMS, "bench", "docs", "examples", "tests", "training")
FILES = {
    str(path.relative_to(ROOT).as_posix())
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
PLACES = FILES | {str(folder) for file in FILES for folder in PurePosixPath(file).parents}

MOST_FILES_OF_A_FRAME = 22


def quoted(text: str) -> list[str]:
    """What stands in code quotes on one line."""
    return re.findall(r"`([^`\n]+)`", text)


def is_file_name(name: str) -> bool:
    return bool(re.fullmatch(r"[\w./-]+\.py", name))


def is_there(name: str) -> bool:
    """A path from the root or from a room's folder, or a bare name of some file."""
    return any(file == name or file.endswith(f"/{name}") for file in FILES)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_is_there(document):
    names = quoted((ROOT / document).read_text(encoding="utf-8"))
    paths = [name.rstrip("/") for name in names if re.fullmatch(r"\w+(/[\w.-]+)+/?", name)]
    lost = [name for name in paths if name.split("/")[0] in FOLDERS and name not in PLACES]
    assert lost + [name for name in names if is_file_name(name) and not is_there(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_or_an_address(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    local = [link.partition("#")[0] for link in links if "://" not in link]
    folder = (ROOT / document).parent
    assert [link for link in local if link and not (folder / link).exists()] == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_the_list_of_pages_has_it(page):
    assert page.name == "README.md" or f"]({page.name})" in (ROOT / "docs/README.md").read_text(
        encoding="utf-8"
    )


def rows() -> list[str]:
    return [
        line for line in (ROOT / "docs/map.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"
    ]


def files_of(row: str) -> list[str]:
    """The files of a row; a bare name stands in the folder that was named last."""
    found, folder = [], ""
    for name in quoted(row):
        if is_file_name(name):
            if "/" in name:
                folder = str(PurePosixPath(name).parent)
                found.append(name)
            else:
                found.append(f"{folder}/{name}")
    return found


@pytest.mark.parametrize(
    "row", [row for row in rows() if files_of(row)], ids=lambda row: row.split("|")[1].strip()
)
def test_a_bare_name_in_the_map_stands_beside_the_path_before_it(row):
    assert [file for file in files_of(row) if not is_there(file)] == []


def test_the_way_of_a_frame_is_short():
    text = (ROOT / "docs/map.md").read_text(encoding="utf-8")
    table = text.split("\n\n")[2]
    files = {file for row in table.splitlines() for file in files_of(row)}
    assert 10 < len(files) <= MOST_FILES_OF_A_FRAME
