import pytest
import torch

from flashvsr_trt.kernels.add_norm import add_norm
from flashvsr_trt.kernels.calls import kernel_calls, reference_kernels, reset_kernel_calls
from flashvsr_trt.kernels.finish_frames import finish_frames
from flashvsr_trt.kernels.norm_rope import norm_rope
from flashvsr_trt.kernels.select_blocks import compact_mask
from flashvsr_trt.kernels.torch_ops import block_sparse_attention, select_blocks

CHECKS = ("test_schema", "test_faketensor")


def operators():
    """Every operator with small arguments."""
    probability, slot_valid = torch.rand(2, 1, 3, 9), torch.tensor([True, False])
    q, k, v = torch.randn(3, 3 * 128, 2, 32)
    ring_k, ring_v = torch.randn(2, 2, 3 * 128, 2, 32)
    index, count = compact_mask(torch.rand(2, 3, 9) < 0.5)
    width = 64
    angle = torch.rand(3 * 128, 16)
    rows = torch.randn(2, 10, width)
    return {
        "select_blocks": (select_blocks, (probability, slot_valid, 7)),
        "block_sparse_attention": (block_sparse_attention, (q, k, v, ring_k, ring_v, index, count)),
        "norm_rope": (
            norm_rope,
            (
                *torch.randn(2, 3 * 128, width),
                *torch.rand(2, width),
                angle.cos(),
                angle.sin(),
                1e-6,
                torch.empty(3 * 128, 2, 32),
                torch.empty(3 * 128, 2, 32),
            ),
        ),
        "add_norm": (add_norm, (*rows, *torch.rand(3, width), 1e-6)),
        "finish_frames": (finish_frames, tuple(torch.randn(2, 1, 3, 8, 8))),
    }


NODES = [name for name, (operator, _) in operators().items() if isinstance(operator, torch._ops.OpOverload)]
"""Operators that a graph has as a node; the others are plain functions."""


@pytest.mark.parametrize("name", NODES)
def test_fake_results_and_mutations_are_as_declared(name):
    operator, arguments = operators()[name]
    torch.library.opcheck(operator, arguments, test_utils=CHECKS)


@pytest.mark.parametrize("name", operators())
def test_every_call_is_counted_by_implementation(name):
    operator, arguments = operators()[name]
    reset_kernel_calls()
    operator(*arguments)
    with reference_kernels():
        operator(*arguments)
    assert kernel_calls() == {f"{name}/reference": 2}


def exported(name: str) -> torch.export.ExportedProgram:
    """An operator of `operators`, traced on its arguments."""
    operator, arguments = operators()[name]

    class Model(torch.nn.Module):
        def forward(self, *arguments):
            return operator(*arguments)

    return torch.export.export(Model(), arguments)


def test_export_sees_one_node():
    program = exported("block_sparse_attention")
    nodes = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert nodes == [torch.ops.flashvsr.block_sparse_attention.default]


@pytest.mark.parametrize("name", sorted(set(operators()) - set(NODES)))
def test_what_is_a_plain_function_is_exported_as_its_reference_and_not_counted(name):
    torch.manual_seed(0)
    operator, arguments = operators()[name]
    reset_kernel_calls()
    program = exported(name)
    assert kernel_calls() == {}
    assert not any("flashvsr" in str(node.target) for node in program.graph.nodes)
    torch.manual_seed(0)
    _, again = operators()[name]
    wanted, made = operator(*arguments), program.module()(*again)
    # What is written in place is written by the graph, too.
    for got, expected in zip((*made, *again), (*wanted, *arguments), strict=True):
        assert got == expected if isinstance(got, float) else torch.equal(got, expected)
