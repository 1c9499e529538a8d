"""The newest of what the package and its tests need without torch: requirements, one a line."""

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
tools = [need for need in extras["dev"] if need.startswith(("hypothesis", "pytest"))]
needed = [need for need in project["dependencies"] if not need.startswith("torch")]
print("\n".join([*needed, *extras["cpu"], *extras["demo"], *extras["vapoursynth"], *tools]))
