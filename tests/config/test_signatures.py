"""The roles of the stages' tensors: what is given, carried and made, and what an output becomes."""

import pytest

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import PRESETS, SCHEDULES
from flashvsr_trt.config.signatures import (
    DECODE,
    ENCODE,
    Role,
    StreamConfig,
    carried_tensors,
    stage_of,
    stage_signatures,
)


@pytest.fixture(
    params=[(preset, schedule) for preset in PRESETS for schedule in SCHEDULES],
    ids=lambda pair: f"{pair[0].name}-{pair[1].name}",
)
def signatures(request):
    preset, schedule = request.param
    return stage_signatures(StreamConfig(preset, Geometry(64, 96, 2), schedule))


def test_every_carried_tensor_has_an_output_that_becomes_it(signatures):
    for signature in signatures.values():
        following = [spec for spec in signature.graph_outputs if spec.becomes]
        assert [spec.becomes for spec in following] == list(signature.carried)
        for spec in following:
            kept = spec.becomes
            assert (spec.dtype, spec.layout) == (kept.dtype, kept.layout)
            # A state comes out whole; a ring takes some slots of its first axis.
            assert spec.shape[1:] == kept.shape[1:]
            assert spec.shape == kept.shape or kept.role is Role.RING


def test_a_name_is_one_tensor_of_a_graph_and_says_nothing_of_its_role(signatures):
    for signature in signatures.values():
        tensors = (*signature.graph_inputs, *signature.graph_outputs)
        assert len({spec.name for spec in tensors}) == len(tensors)
        assert all(spec.role is Role.OUTPUT for spec in signature.graph_outputs)
        assert all(spec.role is not Role.OUTPUT for spec in signature.graph_inputs)


def test_an_input_that_a_stage_makes_is_a_result_of_that_stage(signatures):
    made = [(g, spec) for g, signature in signatures.items() for spec in signature.inputs if spec.made_by]
    assert {spec.name for _, spec in made} == {"tokens", "latent", "condition"}
    for graph, spec in made:
        (result,) = [result for result in signatures[spec.made_by].results if result.name == spec.name]
        units = spec.shape[0] // result.shape[0]
        assert (spec.dtype, spec.layout, spec.shape[1:]) == (result.dtype, result.layout, result.shape[1:])
        assert units == 1 or stage_of(graph) != graph
    assert [spec.name for spec in signatures[ENCODE].inputs if spec.from_host] == ["frames", "first"]
    assert not any(spec.from_host for spec in signatures[DECODE].inputs)


def test_what_is_carried_is_listed_once_for_all_graphs(signatures):
    carried = carried_tensors(signatures)
    assert len({spec.name for spec in carried}) == len(carried)
    assert set(carried) == {spec for signature in signatures.values() for spec in signature.carried}
