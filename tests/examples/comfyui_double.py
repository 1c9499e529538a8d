"""ComfyUI's side of a node: how it loads a folder of `custom_nodes`, fills in inputs, calls and cancels.

Written from ComfyUI's `nodes.py` (load_custom_node), `execution.py` and `comfy/utils.py` (ProgressBar).
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch


class InterruptProcessingException(Exception):  # noqa: N818 (the host's name)
    """What the host raises where the user cancels."""


class Host:
    """One ComfyUI: `hook` gets the progress, `cancelled` is what the user asked for."""

    def __init__(self, monkeypatch) -> None:
        self.progress: list[tuple[float, float]] = []
        self.calls: list[str] = []
        self.cancelled = False
        host = self

        class ProgressBar:
            def __init__(self, total, node_id=None):
                self.total, self.current, self.node_id = total, 0, node_id

            def update_absolute(self, value, total=None, preview=None):
                if total is not None:
                    self.total = total
                if value > self.total:
                    value = self.total
                self.current = value
                host.progress.append((self.current, self.total))

            def update(self, value):
                self.update_absolute(self.current + value)

        def throw_exception_if_processing_interrupted():
            if host.cancelled:
                host.cancelled = False
                raise InterruptProcessingException

        management = SimpleNamespace(
            get_torch_device=lambda: torch.device("cpu"),
            unload_all_models=lambda: host.calls.append("unload_all_models"),
            soft_empty_cache=lambda force=False: host.calls.append("soft_empty_cache"),
            throw_exception_if_processing_interrupted=throw_exception_if_processing_interrupted,
        )
        comfy = ModuleType("comfy")
        for name, members in (
            ("model_management", vars(management)),
            ("utils", {"ProgressBar": ProgressBar}),
        ):
            module = ModuleType(f"comfy.{name}")
            vars(module).update(members)
            setattr(comfy, name, module)
            monkeypatch.setitem(sys.modules, f"comfy.{name}", module)
        monkeypatch.setitem(sys.modules, "comfy", comfy)
        self.monkeypatch = monkeypatch

    def load(self, folder: Path) -> ModuleType:
        """A folder of custom_nodes, under the name that the host gives it."""
        name = str(folder).replace(".", "_x_")
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
        module = importlib.util.module_from_spec(spec)
        self.monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    def run(self, node: type, **given) -> tuple:
        """A node with these inputs, others as the interface has them; values are checked as by the host."""
        declared = {name: spec for part in node.INPUT_TYPES().values() for name, spec in part.items()}
        assert not set(given) - set(declared)
        inputs = {}
        for name, (kind, *more) in declared.items():
            facts = more[0] if more else {}
            first = kind[0] if isinstance(kind, list) else facts.get("default")
            value = inputs[name] = given.get(name, first)
            if isinstance(kind, list):
                assert value in kind
            elif kind in ("INT", "FLOAT"):
                assert facts["min"] <= value <= facts["max"]
        result = getattr(node(), node.FUNCTION)(**inputs)
        assert isinstance(result, tuple)
        assert len(result) == len(node.RETURN_TYPES)
        return result
