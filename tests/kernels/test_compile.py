import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from flashvsr_trt.cli.kernels import kernels
from flashvsr_trt.errors import UsageError
from flashvsr_trt.files.manifest_reader import dump_manifest
from flashvsr_trt.kernels.compile import build_kernels
from flashvsr_trt.kernels.manifest import MANIFEST, find_artifact, read_manifest
from flashvsr_trt.kernels.ptx import add_parameters, assemble, drop_parameters, read_signature
from flashvsr_trt.kernels.tuning import ARCHITECTURES, PLAIN_SHARED_LIMIT, SHARED_LIMIT
from tests.cli.command import ROOT

triton = pytest.importorskip("triton", reason="compiling kernels needs Triton (extra 'kernels')")

NAMES = (
    "select_blocks",
    "block_sparse_attention_bf16_d32",
    "block_sparse_attention_bf16_d128",
    "block_sparse_attention_bf16_d128_48k",
)
EVERY_KERNEL = [(architecture, name) for architecture in ARCHITECTURES for name in NAMES]


@pytest.fixture(scope="module")
def built(compiled_kernels, tmp_path_factory):
    """A folder that `flashvsr-trt kernels build` says is whole; what another test compiled is kept."""
    directory = tmp_path_factory.mktemp("built") / "kernels"
    shutil.copytree(compiled_kernels, directory)
    options = [part for name in ARCHITECTURES for part in ("--arch", name)]
    result = CliRunner().invoke(
        kernels, ["build", *options, "--dtype", "bf16", "-o", str(directory)], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert result.output.count("\n") == len(EVERY_KERNEL)
    return directory


@pytest.mark.parametrize(("architecture", "name"), EVERY_KERNEL)
def test_signature_is_inputs_ints_outputs_and_nothing_else(built, architecture, name):
    artifact = find_artifact(read_manifest(built), name, architecture)
    entry, parameters = read_signature((built / artifact.ptx.name).read_text())
    assert entry == artifact.entry
    expected = ["u32" if argument.role == "int" else "u64" for argument in artifact.arguments]
    assert [kind for kind, _ in parameters] == expected
    order = ["input", "int", "output", "scratch"]
    roles = [order.index(argument.role) for argument in artifact.arguments]
    assert roles == sorted(roles)
    warp_specialised = (architecture, name) == ("sm_90", "block_sparse_attention_bf16_d128")
    assert ("scratch" in [argument.role for argument in artifact.arguments]) == warp_specialised


@pytest.mark.parametrize(("architecture", "name"), EVERY_KERNEL)
def test_kernel_fits_its_architecture(built, architecture, name):
    artifact = find_artifact(read_manifest(built), name, architecture)
    assert artifact.spill_bytes == 0
    assert artifact.registers * artifact.block <= 65536
    assert artifact.shared_bytes <= SHARED_LIMIT[architecture]
    if name != "block_sparse_attention_bf16_d128":
        assert artifact.shared_bytes <= PLAIN_SHARED_LIMIT
    assert (built / artifact.cubin.name).read_bytes()[:4] == b"\x7fELF"
    assert artifact.cluster == 1


def test_products_of_hopper_attention_do_not_wait_for_each_other(built):
    from triton import knobs

    artifact = find_artifact(read_manifest(built), "block_sparse_attention_bf16_d128", "sm_90")
    ptx = (built / artifact.ptx.name).read_text()
    assert "wgmma" in ptx
    assert not assemble(ptx, "sm_90a", knobs.nvidia.ptxas.path).serialised


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_files_do_not_name_this_machine(built, architecture):
    for artifact in read_manifest(built):
        if artifact.architecture == architecture:
            assert ".py" not in (built / artifact.ptx.name).read_text()


def test_what_is_up_to_date_is_kept_and_what_is_missing_is_made(built, tmp_path):
    directory = tmp_path / "kernels"
    shutil.copytree(built, directory)
    kept = find_artifact(read_manifest(directory), "select_blocks", "sm_80")
    missing = find_artifact(read_manifest(directory), "select_blocks", "sm_86")
    written = (directory / kept.ptx.name).stat().st_mtime_ns
    (directory / missing.cubin.name).unlink()
    # In a script without a guard, which must not run again in the process that compiles.
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from pathlib import Path\nfrom flashvsr_trt.kernels.compile import build_kernels\nprint('run')\n"
        f"build_kernels(('sm_80', 'sm_86'), Path({str(directory)!r}), ('bf16',), workers=1)\n"
    )
    outcome = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    assert outcome.stdout == "run\n"
    assert (directory / kept.ptx.name).stat().st_mtime_ns == written
    assert (directory / missing.cubin.name).read_bytes() == (built / missing.cubin.name).read_bytes()
    wanted = [item for item in read_manifest(built) if item.architecture in ("sm_80", "sm_86")]
    assert read_manifest(directory) == wanted


def test_another_source_is_built_anew(built, tmp_path):
    directory = tmp_path / "kernels"
    shutil.copytree(built, directory)
    manifest = json.loads((directory / MANIFEST).read_text())
    for entry in manifest["kernels"]:
        entry["hash"] = "of another source"
        (directory / entry["ptx"]["name"]).write_text("old")
    (directory / MANIFEST).write_text(dump_manifest(manifest))
    (artifact, *_) = build_kernels(("sm_80",), directory, ("bf16",), workers=1)
    assert (directory / artifact.ptx.name).read_text() == (built / artifact.ptx.name).read_text()


@pytest.mark.parametrize(
    ("architectures", "dtypes", "message"),
    [(("sm_75",), ("bf16",), "sm_75"), ((), ("bf16",), "no architecture"), (("sm_80",), ("fp32",), "fp32")],
)
def test_unknown_choices_are_named(tmp_path, architectures, dtypes, message):
    with pytest.raises(UsageError, match=message):
        build_kernels(architectures, tmp_path, dtypes)


PTX = """.version 8.7
.target sm_80
.address_size 64
.visible .entry add(
\t.param .u64 .ptr .global .align 1 add_param_0,
\t.param .u32 add_param_1,
\t.param .u64 .ptr .global .align 1 add_param_2
)
{
\t.reg .b32 %r<2>;
\tld.param.u32 %r1, [add_param_1];
\tret;
}
"""


def test_unread_parameters_are_dropped():
    assert read_signature(drop_parameters(PTX, keep=2)) == (
        "add",
        [("u64", "add_param_0"), ("u32", "add_param_1")],
    )


def test_parameters_that_nothing_reads_can_be_added():
    from triton import knobs

    ptx = add_parameters(PTX, 2)
    added = [("u64", "add_param_3"), ("u64", "add_param_4")]
    assert read_signature(ptx)[1] == read_signature(PTX)[1] + added
    assert drop_parameters(ptx, keep=3) == PTX
    assert assemble(ptx, "sm_80", knobs.nvidia.ptxas.path).cubin[:4] == b"\x7fELF"


@pytest.mark.parametrize(("keep", "message"), [(1, "reads add_param_1"), (4, "3 parameters")])
def test_parameters_that_are_read_or_absent_cannot_be_dropped(keep, message):
    with pytest.raises(ValueError, match=message):
        drop_parameters(PTX, keep=keep)


def test_ptx_without_exactly_one_kernel_is_refused():
    with pytest.raises(ValueError, match="2 kernels"):
        read_signature(PTX + PTX)


def test_assembler_errors_are_reported():
    from triton import knobs

    with pytest.raises(ValueError, match="ptxas refuses the kernel for sm_80"):
        assemble(PTX.replace("ret;", "return;"), "sm_80", knobs.nvidia.ptxas.path)


@pytest.mark.parametrize("channels", [24, 56, 128, 256])
def test_split_frames_moves_sixteen_bytes_at_once(channels):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from flashvsr_trt.kernels.split_frames import split_frames_kernel

    pixels = 8192 // channels
    fixed = {"FRAMES": 2, "CHANNELS": channels, "RELU": True, "PIXELS": pixels, "VALUES": 8192}
    types = {"grown": "*bf16", "out": "*bf16", "pixels": "i32"} | dict.fromkeys(fixed, "constexpr")
    aligned = {(place,): [["tt.divisibility", 16]] for place in range(2)}
    source = ASTSource(split_frames_kernel, types, fixed, aligned)
    options = {"enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    accesses = re.findall(r"(?:ld|st)\.global[.\w:]*", compiled.asm["ptx"])
    assert accesses
    assert all(access.endswith(".v4.b32") for access in accesses)
