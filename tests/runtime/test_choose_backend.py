"""What `--backend auto` chooses on machines with other GPUs and packages than this one has."""

import pytest

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.engines import device as engines_device
from flashvsr_trt.engines.device import Device
from flashvsr_trt.errors import EngineError, UsageError
from flashvsr_trt.runtime import backends as chooser
from flashvsr_trt.runtime.backends import choose_backend, open_executor
from flashvsr_trt.runtime.request import EngineOptions, ExecutorRequest, TorchOptions
from flashvsr_trt.runtime.tensorrt import open as tensorrt_open

STREAM = StreamConfig(find_preset("nano"), Geometry(64, 64, 2), find_schedule("low-latency"))
GPU = Device("a GPU", "8.9", "13.0")

ALL = {"torch", "onnx", "onnxscript", "onnxruntime"}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sets what the machine has."""

    def settle(gpu=None, engines=None, torch_gpu=False, installed=ALL, exported=False, cache=tmp_path):
        def find(request):
            if isinstance(engines, Exception):
                raise engines
            return engines

        monkeypatch.setenv("FLASHVSR_CACHE", str(cache))
        monkeypatch.setattr(engines_device, "current_device", lambda: gpu)
        monkeypatch.setattr(tensorrt_open, "find_matching_engines", find)
        monkeypatch.setattr(chooser, "_torch_has_gpu", lambda: torch_gpu)
        monkeypatch.setattr(chooser, "is_installed", installed.__contains__)
        monkeypatch.setattr(chooser, "find_bundle", lambda *arguments: exported or None)

    return settle


CASES = {
    "engines": ({"gpu": GPU, "engines": "engines", "torch_gpu": True}, {}, "tensorrt", "engines of this"),
    "no engines yet": ({"gpu": GPU, "torch_gpu": True}, {}, "torch", "--backend tensorrt builds them"),
    "damaged engines": (
        {"gpu": GPU, "engines": EngineError("dit.engine is truncated"), "torch_gpu": True},
        {},
        "torch",
        "dit.engine is truncated",
    ),
    "a named GPU": ({"gpu": GPU}, {"device": "cuda:3"}, "torch", "--device cuda:3"),
    "the CPU by name": (
        {"gpu": GPU, "engines": "engines", "torch_gpu": True},
        {"device": "cpu"},
        "onnxruntime",
        "on the CPU",
    ),
    "no GPU": ({}, {}, "onnxruntime", "on the CPU"),
    "no ONNX Runtime": ({"installed": ALL - {"onnxruntime"}}, {}, "torch", r"[cpu]"),
    "no cache": ({"cache": "/dev/null/x"}, {}, "torch", "set FLASHVSR_CACHE"),
    "no cache and none needed": ({"cache": "/dev/null/x", "exported": True}, {}, "onnxruntime", "on the CPU"),
    "no export": ({"installed": ALL - {"onnx"}}, {}, "torch", r"[export]"),
    "exported before": ({"installed": {"onnxruntime"}, "exported": True}, {}, "onnxruntime", "on the CPU"),
    "another dtype": ({}, {"dtype": "bfloat16"}, "torch", "bfloat16"),
    "torch's options": (
        {"gpu": GPU, "engines": "engines"},
        {"torch": TorchOptions(attention="reference")},
        "torch",
        "only it has",
    ),
    "graphs with engines": (
        {"gpu": GPU, "engines": "engines"},
        {"torch": TorchOptions(cuda_graphs=False)},
        "tensorrt",
        "engines of this",
    ),
    "graphs on the CPU": ({}, {"torch": TorchOptions(cuda_graphs=False)}, "torch", "--cuda-graphs"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_choice_is_announced_in_one_line_with_its_reason(machine, name):
    found, asked, backend, reason = CASES[name]
    machine(**found)
    notices = []
    assert choose_backend(ExecutorRequest(STREAM, "random", **asked), notices.append) == backend
    (line,) = notices
    assert line.startswith(f"backend {backend}: ")
    assert reason in line


def test_several_ranks_run_torch(machine, monkeypatch):
    machine()
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert choose_backend(ExecutorRequest(STREAM, "random"), lambda line: None) == "torch"


@pytest.mark.parametrize("options", [EngineOptions(build=False), EngineOptions(profile=True)])
@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_other_backends_refuse_the_options_of_engines(options, backend):
    with pytest.raises(UsageError, match="belong to --backend tensorrt, not to"):
        open_executor(backend, ExecutorRequest(STREAM, "random", engines=options), lambda line: None)


def test_the_engines_backend_refuses_the_options_of_torch():
    request = ExecutorRequest(STREAM, "random", torch=TorchOptions(compile=True))
    with pytest.raises(UsageError, match="belong to --backend torch, not to tensorrt"):
        open_executor("tensorrt", request, lambda line: None)
