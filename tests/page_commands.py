"""The commands that the pages show, read out of their blocks."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

PAGES = ("README.md", "CONTRIBUTING.md", "training/README.md", "model/weights/nano.md")
PAGES += tuple(sorted(str(path.relative_to(ROOT).as_posix()) for path in (ROOT / "docs").glob("*.md")))

BLOCK = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Line:
    """A line of a block, its continuations joined, without its comment."""

    page: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"

    def commands(self) -> list[list[str]]:
        """The words of each command, as pipes and `&&` part them; redirections are left out."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        found: list[list[str]] = [[]]
        skip = False
        for word in lexer:
            if skip:
                skip = False
            elif set(word) <= set("|&;"):
                found.append([])
            elif set(word) <= set("<>"):
                skip = True
            else:
                found[-1].append(word)
        return [command for command in found if command]


PROGRAM = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def page_programs() -> list[tuple[str, str]]:
    """Each Python block of PAGES, with its page."""
    return [
        (page, program)
        for page in PAGES
        for program in PROGRAM.findall((ROOT / page).read_text(encoding="utf-8"))
    ]


def page_lines() -> Iterator[Line]:
    """Of every shell block of PAGES."""
    for page in PAGES:
        for block in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
            for text in block.replace("\\\n", " ").splitlines():
                text = re.sub(r"(^|\s)#.*", "", text).strip()
                if text:
                    yield Line(page, re.sub(r"\s+", " ", text))
