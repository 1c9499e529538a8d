"""What nano's page says of its pictures' licences is what its table of pictures and the fetcher have."""

from collections import Counter
from pathlib import Path

import pytest

from training.fetch import CHOICE, chosen

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "model/weights/nano.md").read_text(encoding="utf-8")


def rows(start: str) -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_picture_is_counted_under_its_licence():
    pictures = [row for package in CHOICE for row in rows(package)]
    counted = Counter((row[4], "held out" in row[2]) for row in pictures)
    summary = {row[0]: (int(row[1]), int(row[2])) for start in ("CC-BY", "GPL") for row in rows(start)}
    assert summary == {name: (counted[name, False], counted[name, True]) for name, _ in counted}
    trained = sum(seen for seen, _ in summary.values())
    assert (
        f"of the {trained} pictures that training saw, {summary['GPL-2+'][0]} are under the GNU GPL" in PAGE
    )
    fetched = Counter(licence for patterns in CHOICE.values() for _, licence in patterns)
    assert fetched == {name: sum(both) for name, both in summary.items()}


@pytest.mark.parametrize("licences", [(), ("CC-BY-4.0",), ("CC-BY-4.0", "GPL-2+")])
def test_pictures_are_fetched_by_licence(licences):
    found = Counter(licence for patterns in chosen(licences).values() for _, licence in patterns)
    assert set(found) == set(licences or ("CC-BY-4.0", "CC-BY-SA-4.0", "GPL-2+"))
    assert all(chosen(licences).values())
