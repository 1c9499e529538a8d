"""Both plugins in TensorRT's own Python classes, of the oldest and the newest version that is supported."""

import numpy as np
import onnx
import pytest

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.kernels.manifest import evaluate
from flashvsr_trt.kernels.ptx import read_signature
from flashvsr_trt.kernels.tuning import ARCHITECTURES, PLAIN_SHARED_LIMIT, SHARED_LIMIT
from flashvsr_trt.plugins.op_kernels import OperatorKernels
from flashvsr_trt.plugins.sparse_attention import DOMAIN, OPERATORS
from tests.plugins.stand_in import OLDEST, bindings_folder, run_in_tensorrt, stand_in_libraries

OPERATOR = {operator.name: operator for operator in OPERATORS}
TYPES = {"float": "FLOAT", "bool": "BOOL", "int32": "INT32", "T": "BF16"}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    return stand_in_libraries(tmp_path_factory.mktemp("libraries"))


@pytest.fixture(params=["oldest", "newest"])
def tensorrt(request, libraries, compiled_kernels, tmp_path):
    """Runs nodes in TensorRT's classes: the worker's answer to a job."""
    bindings = bindings_folder(request.param)

    def run(architecture, nodes, head_dim, large, **others):
        job = {"architecture": architecture, "nodes": nodes, "head_dim": head_dim, "large": large, **others}
        job |= {"precision": "bf16", "kernels": str(compiled_kernels)}
        answer = run_in_tensorrt(bindings, libraries, job, tmp_path / "answer.json")
        assert answer["version"].startswith(f"{OLDEST}." if request.param == "oldest" else "11.")
        return answer["nodes"]

    return run


@pytest.fixture(scope="module")
def bundle_nodes(sparse_bundle):
    """The custom nodes of an exported bundle's first and steady step, with their shapes and attributes."""
    nodes = []
    for name in ("dit_first", "dit"):
        model = onnx.load(sparse_bundle.graph_path(name), load_external_data=False)
        graph = onnx.shape_inference.infer_shapes(model).graph
        values = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
        for node in graph.node:
            if node.domain == DOMAIN:
                shapes = [
                    [side.dim_value for side in values[i].type.tensor_type.shape.dim] for i in node.input
                ]
                attributes = {attribute.name: attribute.i for attribute in node.attribute}
                nodes.append(node_job(node.op_type, shapes, attributes))
    return nodes


def full_size_nodes(units):
    """Those of sparse-2.0 at 1280x768, in a step of so many units."""
    stream = StreamConfig(find_preset("sparse-2.0"), Geometry(384, 640, 2), None)
    network, windows = stream.preset.network.dit, stream.geometry.unit_windows
    heads, rows, slots, tokens = network.heads, units * windows, 4, windows * 128
    current = [[units * tokens, heads, network.head_dim]] * 3
    ring = [[slots, tokens, heads, network.head_dim]] * 2
    selected = [[heads, rows, slots * windows + rows], [heads, rows]]
    top_k = stream.geometry.top_k(stream.preset.attention)
    return [
        node_job(
            "select_blocks", [[heads, units, windows, slots * windows + rows], [slots]], {"top_k": top_k}
        ),
        node_job("block_sparse_attention", [*current, *ring, *selected], {}),
    ]


def node_job(name, shapes, attributes):
    ports = OPERATOR[name].inputs
    inputs = {port.name: [TYPES[port.dtype], shape] for port, shape in zip(ports, shapes, strict=True)}
    return {"operator": name, "inputs": inputs, "attributes": attributes}


def expected_of(node, artifacts):
    """What the manifest of the kernels says of a node: outputs of all its tactics, and each launch."""
    shapes = {name: shape for name, (_, shape) in node["inputs"].items()}

    def sizes(expressions):
        return [evaluate(expression, shapes, node["attributes"]) for expression in expressions]

    arguments = {item.name: item for artifact in artifacts for item in artifact.arguments}
    pointers = {"*bf16": "BF16", "*i32": "INT32"}
    outputs = [
        [pointers[item.type], sizes(item.shape)]
        for item in arguments.values()
        if item.role in ("output", "scratch")
    ]
    launches = []
    for artifact in artifacts:
        grid = dict(zip(("grid_x", "grid_y", "grid_z"), sizes(artifact.grid), strict=True))
        block = {"block_x": artifact.block, "block_y": 1, "block_z": 1}
        ints = sizes(item.value for item in artifact.arguments if item.role == "int")
        launches.append((artifact.entry, grid | block | {"shared_mem": artifact.shared_bytes}, ints))
    return outputs, launches


def check_nodes(answers, nodes, kernels):
    assert len(answers) == len(nodes) > 0
    for answer, node in zip(answers, nodes, strict=True):
        artifacts = kernels[node["operator"]]
        outputs, launches = expected_of(node, artifacts)
        assert answer["outputs"] == outputs
        assert answer["aliased"] == [-1] * len(outputs)
        assert answer["tactics"] == list(range(1, len(artifacts) + 1))
        assert [(a["kernel"], a["launch"], a["ints"]) for a in answer["launches"]] == launches
        for launch in answer["launches"]:
            entry, parameters = read_signature(launch["code"])
            assert entry == launch["kernel"]
            # TensorRT passes inputs, integers and outputs, and nothing else.
            passed = ["u64"] * len(node["inputs"]) + ["u32"] * len(launch["ints"]) + ["u64"] * len(outputs)
            assert [kind for kind, _ in parameters] == passed


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nodes_of_a_bundle_are_launched_as_the_kernels_say(
    architecture, tensorrt, bundle_nodes, compiled_kernels
):
    kernels = OperatorKernels(architecture, "bf16", 32).read(compiled_kernels, PLAIN_SHARED_LIMIT)
    check_nodes(tensorrt(architecture, bundle_nodes, 32, large=False), bundle_nodes, kernels)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_full_size_nodes_have_both_tactics_where_large_ones_are_asked_for(
    architecture, tensorrt, compiled_kernels
):
    nodes = [*full_size_nodes(1), *full_size_nodes(3)]
    kernels = OperatorKernels(architecture, "bf16", 128).read(compiled_kernels, SHARED_LIMIT[architecture])
    assert len(kernels["block_sparse_attention"]) == 2
    check_nodes(tensorrt(architecture, nodes, 128, large=True), nodes, kernels)


@pytest.mark.parametrize("architecture", ["sm_90", "sm_100"])
def test_by_default_no_launch_takes_more_than_48_kilobytes(architecture, tensorrt, compiled_kernels):
    nodes = full_size_nodes(1)
    kernels = OperatorKernels(architecture, "bf16", 128).read(compiled_kernels, PLAIN_SHARED_LIMIT)
    answers = tensorrt(architecture, nodes, 128, large=False)
    check_nodes(answers, nodes, kernels)
    shared = [launch["launch"]["shared_mem"] for answer in answers for launch in answer["launches"]]
    assert 0 < max(shared) <= 48 * 1024
    assert [kind for kind, _ in answers[1]["outputs"]] == ["BF16"]


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.4.0", reason="numpy below 2.4 takes int(array)")
def test_the_oldest_tensorrt_cannot_take_an_attribute_declared_as_int(
    libraries, bundle_nodes, compiled_kernels, tmp_path
):
    job = {"architecture": "sm_89", "nodes": bundle_nodes[:1], "head_dim": 32, "large": False}
    job |= {"precision": "bf16", "kernels": str(compiled_kernels), "declare_int": True}
    answer = tmp_path / "answer.json"
    with pytest.raises(RuntimeError, match="TypeError: only 0-dimensional arrays can be converted"):
        run_in_tensorrt(bindings_folder("oldest"), libraries, job, answer)
    assert run_in_tensorrt(bindings_folder("newest"), libraries, job, answer)["nodes"]
