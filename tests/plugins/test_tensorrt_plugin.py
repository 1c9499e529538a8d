"""The TensorRT plugins: all of them that can be seen without TensorRT, and registering where it is there."""

import importlib.util
import inspect
from dataclasses import replace
from types import SimpleNamespace

import onnx
import pytest
import torch

from flashvsr_trt.errors import EngineError, MissingDependencyError
from flashvsr_trt.files.folder import NamedFile
from flashvsr_trt.kernels.manifest import Argument
from flashvsr_trt.kernels.ptx import assemble, read_signature
from flashvsr_trt.plugins import tensorrt_plugin
from flashvsr_trt.plugins.op_kernels import OperatorKernels
from flashvsr_trt.plugins.sparse_attention import BLOCK_SPARSE_ATTENTION, DOMAIN, OPERATORS, SELECT_BLOCKS
from flashvsr_trt.plugins.tactics import check_contract, read_tactics
from flashvsr_trt.plugins.tensorrt_plugin import ATTRIBUTE, plugin_functions, plugin_id, register_plugins
from tests.plugins.recorded_plugin import (
    AutoTuneCombination,
    DataType,
    Dimension,
    KernelLaunchParams,
    RecordedPlugin,
    SymExprs,
    TensorDesc,
    attribute,
    described,
    implemented,
    tuned,
    value_of,
)

pytest.importorskip("triton", reason="compiling kernels needs Triton (extra 'kernels')")

KINDS = [("sm_89", 32), ("sm_90", 128)]
"""The portable kernels, and the one for Hopper, which needs scratch memory."""

HAS_TENSORRT = importlib.util.find_spec("tensorrt") is not None

SHAPES = {
    "probability": (3, 1, 6, 30),
    "slot_valid": (4,),
    "q": (768, 3, 128),
    "k": (768, 3, 128),
    "v": (768, 3, 128),
    "ring_k": (4, 768, 3, 128),
    "ring_v": (4, 768, 3, 128),
    "index": (3, 6, 30),
    "count": (3, 6),
}
TOP_K = 17


@pytest.fixture(scope="module")
def compiled(compiled_kernels):
    """(architecture, head_dim) -> the compiled kernels by operator, and where they are."""
    return {
        kind: ({operator: fastest for operator, (fastest, *_) in read.items()}, compiled_kernels)
        for kind in KINDS
        for read in [OperatorKernels(kind[0], "bf16", kind[1]).read(compiled_kernels)]
    }


@pytest.fixture(params=KINDS, ids=["portable", "hopper"])
def kernels(request, compiled):
    return compiled[request.param]


def functions_of(operator, kernels):
    artifacts, folder = kernels
    tactics = read_tactics(operator, (artifacts[operator.name],), folder)
    return plugin_functions(operator, tactics, SimpleNamespace(DataType=DataType), RecordedPlugin())


def arguments_of(operator, head_dim):
    shapes = {name: (*shape[:-1], head_dim) if shape[-1] == 128 else shape for name, shape in SHAPES.items()}
    tensors = [TensorDesc([Dimension(side) for side in shapes[port.name]]) for port in operator.inputs]
    return tensors, {name: attribute(TOP_K) for name in operator.attributes}


def head_dim_of(artifact):
    return artifact.constants.get("HEAD_DIM", 128)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_every_argument_is_annotated_as_tensorrt_asks(operator, kernels):
    functions = functions_of(operator, kernels)
    inputs = [(port.name, TensorDesc) for port in operator.inputs]
    attributes = [(name, ATTRIBUTE) for name in operator.attributes]
    scratch = "scratch" in {argument.role for argument in kernels[0][operator.name].arguments}
    outputs = tuple[(TensorDesc,) * (len(operator.outputs) + scratch)]
    expected = {
        functions.describe: (inputs + attributes, outputs),
        functions.tune: ([*inputs, *attributes, ("outputs", outputs)], list[AutoTuneCombination]),
        functions.implement: (
            [*inputs, *attributes, ("outputs", outputs), ("tactic", int)],
            tuple[str | bytes, str | bytes, KernelLaunchParams, SymExprs],
        ),
    }
    for function, (parameters, returned) in expected.items():
        signature = inspect.signature(function)
        found = [(name, parameter.annotation) for name, parameter in signature.parameters.items()]
        assert found == parameters
        assert signature.return_annotation == returned
        assert all(p.default is inspect.Parameter.empty for p in signature.parameters.values())


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_the_ptx_takes_inputs_ints_and_outputs_as_tensorrt_passes_them(operator, kernels):
    functions, call = functions_of(operator, kernels), arguments_of(operator, 128)
    outputs = described(functions, *call)
    entry, ptx, launch, extra = implemented(functions, *call, outputs, 1)
    name, parameters = read_signature(ptx)
    assert name == entry
    expected = ["u64"] * len(operator.inputs) + ["u32"] * len(extra) + ["u64"] * len(outputs)
    assert [kind for kind, _ in parameters] == expected
    artifact = kernels[0][operator.name]
    assert launch.block_x == artifact.block
    assert launch.shared_mem == artifact.shared_bytes


def test_outputs_have_the_shapes_and_dtypes_of_the_operators(kernels):
    artifacts, _ = kernels
    head_dim = head_dim_of(artifacts["block_sparse_attention"])
    outputs = described(functions_of(SELECT_BLOCKS, kernels), *arguments_of(SELECT_BLOCKS, head_dim))
    found = [([value_of(side) for side in output.shape_expr], output.dtype) for output in outputs]
    assert found == [([3, 6, 30], DataType.INT32), ([3, 6], DataType.INT32)]
    functions = functions_of(BLOCK_SPARSE_ATTENTION, kernels)
    out, *scratch = described(functions, *arguments_of(BLOCK_SPARSE_ATTENTION, head_dim))
    assert [value_of(side) for side in out.shape_expr] == [768, 3, head_dim]
    assert out.dtype == DataType.BF16
    for output in scratch:
        assert output.dtype == DataType.INT32
        (size,) = output.shape_expr
        assert value_of(size) % (3 * 6) == 0


def test_only_hopper_declares_scratch_and_declares_it_last(compiled):
    for kind in KINDS:
        arguments = compiled[kind][0]["block_sparse_attention"].arguments
        assert ("scratch" in {item.role for item in arguments[-1:]}) == (kind[0] == "sm_90")


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_tactics_are_numbered_from_one_with_the_types_of_the_kernel(operator, kernels):
    (combination,) = tuned(functions_of(operator, kernels), *arguments_of(operator, 128), ())
    types = combination.io_types.split(", ")
    artifact = kernels[0][operator.name]
    assert len(types) == sum(argument.role != "int" for argument in artifact.arguments)
    declared = {"float": "FP32", "bool": "BOOL", "int32": "INT32", "T": "BF16"}
    ports = operator.inputs + operator.outputs
    assert types[: len(ports)] == [declared[port.dtype] for port in ports]
    assert combination.layouts == "LINEAR"
    assert combination.tactics == [1]


class RecordedKernel:
    """Stands for a jitted kernel: keeps the grid and the integers of one launch."""

    def __getitem__(self, grid):
        def launch(*arguments, **constants):
            self.grid = grid
            self.ints = [value for value in arguments if isinstance(value, int)]

        return launch


def launch_of(operator, kernels):
    functions = functions_of(operator, kernels)
    head_dim = head_dim_of(kernels[0]["block_sparse_attention"])
    _, _, launch, extra = implemented(functions, *arguments_of(operator, head_dim), (), 1)
    grid = tuple(value_of(size) for size in (launch.grid_x, launch.grid_y, launch.grid_z))
    return grid, [value_of(number) for number in extra]


def test_selection_is_launched_as_its_own_launcher_does(kernels, monkeypatch):
    from flashvsr_trt.kernels import select_blocks_triton
    from flashvsr_trt.kernels.tuning import setting_for

    recorded = RecordedKernel()
    monkeypatch.setattr(select_blocks_triton, "select_blocks", recorded)
    setting = setting_for("select_blocks", kernels[0]["select_blocks"].architecture)
    probability, valid = torch.zeros(SHAPES["probability"]), torch.zeros(SHAPES["slot_valid"], dtype=bool)
    select_blocks_triton.launch_select_blocks(probability, valid, TOP_K, setting)
    grid, ints = launch_of(SELECT_BLOCKS, kernels)
    assert grid == (*recorded.grid, 1)
    assert ints == recorded.ints


@pytest.mark.parametrize("kind", KINDS, ids=["portable", "hopper"])
def test_attention_is_launched_as_its_own_launcher_does(kind, compiled, monkeypatch):
    from flashvsr_trt.kernels import block_sparse_attention_hopper, block_sparse_attention_triton
    from flashvsr_trt.kernels.attention_launch import launch_attention
    from flashvsr_trt.kernels.tuning import setting_for

    architecture, head_dim = kind
    hopper = architecture == "sm_90"
    module = block_sparse_attention_hopper if hopper else block_sparse_attention_triton
    recorded = RecordedKernel()
    name = "block_sparse_attention_hopper" if hopper else "block_sparse_attention"
    monkeypatch.setattr(module, name, recorded)
    tensors = []
    for port in BLOCK_SPARSE_ATTENTION.inputs:
        shape = SHAPES[port.name]
        shape = (*shape[:-1], head_dim) if port.dtype == "T" else shape
        tensors.append(torch.zeros(shape, dtype=torch.bfloat16 if port.dtype == "T" else torch.int32))
    setting = setting_for("block_sparse_attention", architecture, head_dim)
    launch_attention(tuple(tensors), setting)
    grid, ints = launch_of(BLOCK_SPARSE_ATTENTION, compiled[kind])
    assert grid == (*recorded.grid, 1)
    assert ints == recorded.ints


def test_exported_nodes_are_what_the_plugins_declare(sparse_bundle):
    for graph in ("dit", "dit_first"):
        model = onnx.load(sparse_bundle.graph_path(graph), load_external_data=False)
        nodes = [node for node in model.graph.node if node.domain == DOMAIN]
        layers = sparse_bundle.stream.preset.network.dit.layers
        assert len(nodes) == layers * len(OPERATORS)
        for node in nodes:
            operator = next(item for item in OPERATORS if item.name == node.op_type)
            assert plugin_id(operator) == f"{node.domain}::{node.op_type}"
            assert len(node.input) == len(operator.inputs)
            assert all(node.input)
            assert len(node.output) == len(operator.outputs)
            attributes = {item.name: item.type for item in node.attribute}
            assert attributes == dict.fromkeys(operator.attributes, onnx.AttributeProto.INT)


def changed(artifact, position, **fields):
    arguments = list(artifact.arguments)
    arguments[position] = replace(arguments[position], **fields)
    return replace(artifact, arguments=tuple(arguments))


BROKEN = {
    "another operator": (lambda a: replace(a, kernel="other"), "it computes other"),
    "another order": (lambda a: replace(a, arguments=a.arguments[::-1]), "its arguments are in the order"),
    "another input": (lambda a: changed(a, 0, name="query"), "its inputs are query, k"),
    "another dtype": (lambda a: changed(a, 5, type="*i8"), r"its input index is \*i8; the node's is int32"),
    "int8 scratch": (
        lambda a: replace(a, arguments=(*a.arguments, Argument("scratch", "scratch", "*i8", ("8",)))),
        r"its scratch is \*i8; a plugin's is \*i32",
    ),
    "mixed dtypes": (lambda a: changed(a, 1, type="*fp16"), "its tensors of one dtype"),
    "float tensors": (
        lambda a: replace(
            a,
            arguments=tuple(replace(i, type="*fp32" if i.type == "*bf16" else i.type) for i in a.arguments),
        ),
        "its tensors of one dtype",
    ),
    "a long int": (lambda a: changed(a, 7, type="i64"), "its ring_windows is i64"),
    "an unknown size": (lambda a: changed(a, 7, value="other[0]"), "its ring_windows does not follow"),
    "an unknown axis": (lambda a: replace(a, grid=("count[7]", "1", "1")), "its grid x does not follow"),
    "too much shared memory": (lambda a: replace(a, shared_bytes=10**6), "1000000 bytes of shared memory"),
    "clusters": (lambda a: replace(a, cluster=2), "it runs in clusters of 2"),
    "too many threads": (lambda a: replace(a, block=2048), "a program has 2048 threads"),
    "another entry": (lambda a: replace(a, entry="other"), "its manifest names other"),
    "an int more": (
        lambda a: replace(a, arguments=(*a.arguments[:8], a.arguments[7], *a.arguments[8:])),
        "its PTX takes",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_kernel_that_is_not_the_nodes_is_named_with_the_mismatch(name, compiled):
    artifacts, folder = compiled["sm_89", 32]
    artifact = artifacts["block_sparse_attention"]
    ptx = (folder / artifact.ptx.name).read_text()
    check_contract(BLOCK_SPARSE_ATTENTION, artifact, ptx)
    change, message = BROKEN[name]
    with pytest.raises(EngineError, match=message) as error:
        check_contract(BLOCK_SPARSE_ATTENTION, change(artifact), ptx)
    assert artifact.name in str(error.value)


def test_plugins_are_registered_once_and_only_with_the_same_kernels(compiled, monkeypatch):
    recorded = RecordedPlugin()
    modules = {"tensorrt": SimpleNamespace(DataType=DataType), "tensorrt.plugin": recorded}
    monkeypatch.setattr(tensorrt_plugin, "_load", modules.__getitem__)
    monkeypatch.setattr(tensorrt_plugin, "_registered", {})
    artifacts, folder = compiled["sm_89", 32]
    chosen = {name: (artifact,) for name, artifact in artifacts.items()}
    register_plugins(chosen, folder)
    wanted = {
        (plugin_id(operator), part) for operator in OPERATORS for part in ("describe", "tune", "implement")
    }
    assert set(recorded.registered) == wanted
    before = dict(recorded.registered)
    register_plugins(chosen, folder)
    assert recorded.registered == before
    others, other_folder = compiled["sm_90", 128]
    with pytest.raises(EngineError, match="registered with other kernels"):
        register_plugins({name: (artifact,) for name, artifact in others.items()}, other_folder)


def test_tactics_must_have_the_same_outputs(compiled):
    artifacts, folder = compiled["sm_89", 32]
    with pytest.raises(EngineError, match="with the same outputs"):
        read_tactics(SELECT_BLOCKS, (), folder)
    other = replace(artifacts["select_blocks"], name="other", arguments=())
    with pytest.raises(EngineError, match="other"):
        read_tactics(SELECT_BLOCKS, (artifacts["select_blocks"], other), folder)
    missing = replace(artifacts["select_blocks"], ptx=NamedFile("missing.ptx", "0" * 64, 1))
    with pytest.raises(EngineError, match=r"lacks missing\.ptx"):
        read_tactics(SELECT_BLOCKS, (missing,), folder)


def test_tactics_without_scratch_take_the_scratch_of_the_others(compiled_kernels):
    from triton import knobs

    artifacts = OperatorKernels("sm_90", "bf16", 128).read(compiled_kernels)["block_sparse_attention"]
    large, small = read_tactics(BLOCK_SPARSE_ATTENTION, artifacts, compiled_kernels)
    assert [tactic.artifact.arguments[-1].role for tactic in (large, small)] == ["scratch", "scratch"]
    assert "scratch" not in [argument.role for argument in artifacts[1].arguments]
    assert len(read_signature(large.ptx)[1]) == len(read_signature(small.ptx)[1])
    assert assemble(small.ptx, "sm_90a", knobs.nvidia.ptxas.path).spill_bytes == 0
    (alone,) = read_tactics(BLOCK_SPARSE_ATTENTION, artifacts[1:], compiled_kernels)
    assert alone.artifact == artifacts[1]


@pytest.mark.skipif(HAS_TENSORRT, reason="TensorRT is installed here")
def test_without_tensorrt_the_extra_is_named(compiled):
    artifacts, folder = compiled["sm_89", 32]
    with pytest.raises(MissingDependencyError, match=r"\[tensorrt\]"):
        register_plugins({name: (artifact,) for name, artifact in artifacts.items()}, folder)


@pytest.mark.skipif(not HAS_TENSORRT, reason="needs TensorRT with tensorrt.plugin (extra 'tensorrt')")
def test_tensorrt_takes_the_plugins_and_a_network_of_one_node(compiled):
    import tensorrt as trt
    import tensorrt.plugin as plugin

    artifacts, folder = compiled["sm_89", 32]
    register_plugins({name: (artifact,) for name, artifact in artifacts.items()}, folder)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS))
    probability = network.add_input("probability", trt.float32, SHAPES["probability"])
    valid = network.add_input("slot_valid", trt.bool, SHAPES["slot_valid"])
    layer = network.add_plugin(plugin.op.flashvsr.select_blocks(probability, valid, top_k=attribute(TOP_K)))
    assert [tuple(layer.get_output(i).shape) for i in range(2)] == [(3, 6, 30), (3, 6)]
