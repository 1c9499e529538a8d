"""Kernels launched between engines: what is worked out once, and what at every launch."""

from types import SimpleNamespace

import pytest

from flashvsr_trt.engines.plan import KernelStep
from flashvsr_trt.files.folder import NamedFile
from flashvsr_trt.kernels import cuda_driver, launch
from flashvsr_trt.kernels.launch import LoadedKernel
from flashvsr_trt.kernels.manifest import Argument, Artifact
from flashvsr_trt.runtime.tensorrt.aot_kernels import AotKernels

ARTIFACT = Artifact(
    name="select",
    kernel="select",
    architecture="sm_90",
    entry="select",
    ptx=NamedFile("select.ptx", "0" * 64, 4),
    cubin=NamedFile("select.cubin", "0" * 64, 4),
    arguments=(
        Argument("x", "input", "*fp32", aligned=True),
        Argument("rows", "int", "i32", value="x[0] * top_k"),
        Argument("out", "output", "*i32", shape=("x[0]",), aligned=True),
        Argument("scratch", "scratch", "*i32", shape=("64 * x[0]",), aligned=True),
    ),
    constants={},
    grid=("x[0]", "x[1] // 2", "1"),
    block=128,
    shared_bytes=512,
    cluster=1,
    registers=32,
    spill_bytes=0,
    triton="3.9.0",
    hash="0",
)


class DriverDouble:
    """The driver's launch, which keeps its arguments; and its one success."""

    CUresult = SimpleNamespace(CUDA_SUCCESS=0)

    def __init__(self):
        self.launches = []

    def cuLaunchKernel(self, function, *arguments):  # noqa: N802
        self.launches.append(arguments)
        return (0,)


def step(graph, output, rows):
    """A plan of one kernel, whose input has so many rows."""
    node = KernelStep("", "select", {"x": "x"}, {"out": output}, {"top_k": 3})
    return SimpleNamespace(graph=graph, tensors={"x": SimpleNamespace(shape=(rows, 8))}), node


@pytest.fixture
def kernels():
    made = AotKernels(SimpleNamespace(manifest=SimpleNamespace(plans={})))
    made.loaded["select"] = LoadedKernel(ARTIFACT, library=None, function=None)
    return made


def test_expressions_are_evaluated_at_the_first_launch_of_a_step_only(kernels, monkeypatch):
    driver, evaluated = DriverDouble(), []
    evaluate = launch.evaluate
    monkeypatch.setattr(cuda_driver, "driver", lambda: driver)
    monkeypatch.setattr(launch, "evaluate", lambda *args: evaluated.append(args) or evaluate(*args))
    steps = [step("dit", "a", 2), step("dit", "b", 4), step("dit_first", "a", 6)]
    for _ in range(3):
        for plan, node in steps:
            kernels.launch(plan, node, {"x": 256, "out": 512}, 1024, 7)
    assert len(evaluated) == 3 * 4
    grids = [arguments[:3] for arguments in driver.launches]
    assert grids == [(2, 4, 1), (4, 4, 1), (6, 4, 1)] * 3
    words = [arguments[-2][0] for arguments in driver.launches]
    assert words == [(256, 6, 512, 1024), (256, 12, 512, 1024), (256, 18, 512, 1024)] * 3


def test_scratch_is_counted_in_bytes(kernels):
    assert kernels.scratch_bytes(*step("dit", "a", 2)) == 64 * 2 * 4
