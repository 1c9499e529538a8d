"""What pyproject.toml cannot say: the README for an index, where relative links lead nowhere."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"][
    "Repository"
]
LINK = re.compile(r"(!?)(\[[^\]]*\])\((?!https?://|#)([^)\s]+)\)")


def absolute_links(text: str) -> str:
    """Markdown with links to the repository's files, and pictures as they are stored there."""

    def absolute(link: re.Match) -> str:
        picture, label, path = link.groups()
        return f"{picture}{label}({REPOSITORY}/{'raw' if picture else 'blob'}/main/{path})"

    return LINK.sub(absolute, text)


if __name__ == "__main__":
    setup(
        long_description=absolute_links((ROOT / "README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
