import subprocess
import sys
from dataclasses import replace

import pytest

from flashvsr_trt.errors import DeviceError, UsageError
from flashvsr_trt.files.folder import NamedFile, describe_file
from flashvsr_trt.kernels.launch import (
    LoadedKernel,
    launch_prepared,
    load_kernel,
    output_shape,
    prepare_launch,
)
from flashvsr_trt.kernels.manifest import (
    MANIFEST,
    Argument,
    Artifact,
    evaluate,
    find_artifact,
    read_manifest,
    write_manifest,
)

ARTIFACT = Artifact(
    name="scale_d32",
    kernel="scale",
    architecture="sm_90",
    entry="scale",
    ptx=NamedFile("scale.ptx", "0" * 64, 4),
    cubin=NamedFile("scale.cubin", "0" * 64, 4),
    arguments=(
        Argument("x", "input", "*bf16", aligned=True),
        Argument("rows", "int", "i32", value="x[0] * 2"),
        Argument("out", "output", "*bf16", shape=("x[0]", "x[1] // 4 + 1"), aligned=True),
    ),
    constants={"HEAD_DIM": 32, "SCALE": 0.5},
    grid=("x[0]", "top_k", "1"),
    block=128,
    shared_bytes=1024,
    cluster=1,
    registers=32,
    spill_bytes=0,
    triton="3.9.0",
    hash="0",
)


def write_kernels(folder, **changes):
    """One kernel with its files."""
    for name in ("scale.ptx", "scale.cubin"):
        (folder / name).write_bytes(b"code")
    files = {name: describe_file(folder / f"scale.{name}") for name in ("ptx", "cubin")}
    artifact = replace(ARTIFACT, **files | changes)
    write_manifest(folder, [artifact])
    return artifact


def test_what_is_written_is_read_back(tmp_path):
    written = write_kernels(tmp_path)
    assert read_manifest(tmp_path) == [written]
    assert {path.name for path in tmp_path.iterdir()} == {MANIFEST, "scale.ptx", "scale.cubin"}


@pytest.mark.parametrize("text", [None, "{", "{}", '{"kernels": [{"name": 1}]}'])
def test_unreadable_manifests_say_how_to_make_one(tmp_path, text):
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(UsageError, match="flashvsr-trt kernels build"):
        read_manifest(tmp_path)


def test_a_kernel_that_was_not_built_is_named_with_those_that_were():
    with pytest.raises(UsageError, match=r"no kernel other for sm_90; built are: scale_d32 \(sm_90\)"):
        find_artifact([ARTIFACT], "other", "sm_90")


def test_output_shapes_follow_from_input_shapes():
    assert output_shape(ARTIFACT, "out", {"x": (3, 8)}) == (3, 3)


@pytest.mark.parametrize(
    ("expression", "value"),
    [("7", 7), ("x[1]", 8), ("x[0] * 2 - 1", 5), ("(x[0] + 1) // 2", 2), ("top_k", 9)],
)
def test_expressions_are_evaluated(expression, value):
    assert evaluate(expression, {"x": (3, 8)}, {"top_k": 9}) == value


@pytest.mark.parametrize("expression", ["y[0]", "x", "x[0] / 2", "__import__('os')", "x[top_k]", "limit"])
def test_other_expressions_are_refused(expression):
    with pytest.raises(ValueError, match="unknown"):
        evaluate(expression, {"x": (3, 8)}, {"top_k": 9})


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        " * ".join(["9999999999"] * 40),
        "(" * 250 + "1" + ")" * 250,
        "1 + " * 149 + "1",
        "1 + " * 10**6 + "1",
        "1 // 0",
        "x[7]",
        "1 +",
        "\0",
    ],
)
def test_an_expression_is_bounded(expression):
    try:
        assert evaluate(expression, {"x": (3, 8)}) < 2**63
    except ValueError:
        return
    assert expression.startswith("1 + 1")


def test_loading_without_a_usable_driver_names_the_kernel(tmp_path):
    artifact = write_kernels(tmp_path)
    with pytest.raises(DeviceError, match=r"kernel scale_d32 \(sm_90\)"):
        load_kernel(artifact, tmp_path)


def test_an_argument_without_address_is_named():
    kernel = LoadedKernel(ARTIFACT, library=None, function=None)
    with pytest.raises(ValueError, match="no address for argument 'out'"):
        launch_prepared(prepare_launch(kernel, {"x": (3, 8)}, {"top_k": 1}), 0, {"x": 256})


def test_an_address_that_is_not_aligned_is_named():
    kernel = LoadedKernel(ARTIFACT, library=None, function=None)
    with pytest.raises(ValueError, match="x is 264, which is no multiple of 16"):
        launch_prepared(prepare_launch(kernel, {"x": (3, 8)}, {"top_k": 1}), 0, {"x": 264, "out": 512})


@pytest.mark.parametrize("module", ["launch", "manifest", "catalogue"])
def test_launching_needs_neither_torch_nor_triton(module):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['triton'] = None; "
        f"import flashvsr_trt.kernels.{module}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
