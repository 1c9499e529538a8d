"""Which sources a module runs, and that a change in any of them is noticed."""

import subprocess
import sys

import pytest

from flashvsr_trt import imported_sources
from flashvsr_trt.imported_sources import sources_digest, sources_of


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package that imports at its top, in a function, and through another module."""
    package = tmp_path / "sample_project"
    (package / "room").mkdir(parents=True)
    sources = {
        "__init__.py": "",
        "room/__init__.py": "raise RuntimeError('nothing runs this')\n",
        "start.py": "from sample_project.room import near\nimport sample_project.plain\n",
        "plain.py": "import json\n",
        "alone.py": "",
        "room/near.py": "def run():\n    from sample_project.room.far import value\n",
        "room/far.py": "from sample_project import start\n\nraise RuntimeError('nothing runs this')\n",
    }
    for name, text in sources.items():
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imported_sources, "PACKAGE", "sample_project")
    _forget()
    yield package
    _forget()


def _forget():
    for name in [name for name in sys.modules if name.startswith("sample_project")]:
        del sys.modules[name]
    for function in (sources_of, sources_digest, imported_sources._spec):
        function.cache_clear()


def names(package, module):
    return [path.relative_to(package).as_posix() for path in sources_of(module)]


def test_imports_are_followed_wherever_they_stand(project):
    assert names(project, "sample_project.start") == [
        "__init__.py",
        "plain.py",
        "room/__init__.py",
        "room/far.py",
        "room/near.py",
        "start.py",
    ]
    assert names(project, "sample_project.alone") == ["alone.py"]


@pytest.mark.parametrize("changed", ["start.py", "plain.py", "room/near.py", "room/far.py"])
def test_a_change_in_any_of_them_is_another_digest(project, changed):
    before = sources_digest("sample_project.start")
    alone = sources_digest("sample_project.alone")
    path = project / changed
    path.write_text(path.read_text() + "# changed\n")
    sources_digest.cache_clear()
    assert sources_digest("sample_project.start") != before
    assert sources_digest("sample_project.alone") == alone


def test_what_cannot_be_followed_is_named(project):
    (project / "alone.py").write_text("from . import plain\n")
    with pytest.raises(ValueError, match=r"sample_project\.alone imports \. relatively"):
        sources_of("sample_project.alone")
    with pytest.raises(ModuleNotFoundError, match="no source of sample_project"):
        sources_of("sample_project.missing")


def test_looking_imports_neither_torch_nor_the_modules():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['triton'] = None\n"
        "from flashvsr_trt.imported_sources import sources_of\n"
        "sources_of('flashvsr_trt.kernels.block_sparse_attention_triton')\n"
        "sources_of('flashvsr_trt.engines.build')\n"
        "assert 'flashvsr_trt.engines.build' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
