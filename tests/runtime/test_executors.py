"""Sizes one after another: weights are loaded once, and an executor of one size serves all clips of it."""

import pytest

from flashvsr_trt.errors import PresetError, UsageError
from flashvsr_trt.runtime import open_session
from flashvsr_trt.runtime.executors import Executors
from flashvsr_trt.runtime.request import RunOptions, UpscaleOptions, take_precision
from flashvsr_trt.runtime.session import Session

OPTIONS = UpscaleOptions(preset="nano", backend="torch", device="cpu", weights="random:1")


def test_sizes_share_a_network_and_clips_of_one_size_an_executor():
    said = []
    executors = Executors(said.append)
    first = executors.open(OPTIONS, 64, 64)
    assert executors.open(OPTIONS, 64, 64) is first
    other = executors.open(OPTIONS, 64, 96)
    assert other.dit_stage.dit is first.dit_stage.dit
    assert sum("random" in line for line in said) == 1
    assert executors.open(OPTIONS, 64, 64) is first
    del first
    assert executors.open(OPTIONS, 64, 64).dit_stage.dit is other.dit_stage.dit
    executors.close()
    assert executors.open(OPTIONS, 64, 64).dit_stage.dit is not other.dit_stage.dit


def test_a_network_that_is_shared_is_not_changed_by_tiles():
    executors = Executors(lambda line: None)
    whole = executors.open(OPTIONS, 64, 96)
    before = vars(whole.decode_stage.decoder).copy()
    tiled = executors.open(UpscaleOptions(**vars(OPTIONS) | {"tile": (256, 256)}), 128, 160)
    assert len(tiled.plan.tiles) > 1
    assert vars(whole.decode_stage.decoder) == before
    assert tiled.executor.dit_stage.dit is whole.dit_stage.dit


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"color_fix": "red"}, UsageError, "color_fix 'red'.*adain"),
        ({"attention": "flash"}, UsageError, "attention 'flash'"),
        ({"precision": "int4"}, UsageError, "precision 'int4'"),
        ({"scale": 1}, UsageError, "scale 1"),
        ({"preset": "nanoo"}, PresetError, "nano"),
        ({"tile": "big"}, UsageError, "tile 'big'"),
        ({"tile": "256x256"}, UsageError, "tile '256x256'"),
        ({"tile": (256,)}, UsageError, "tile"),
        ({"fit": "stretch"}, UsageError, "stretch"),
        ({"colour_fix": "none"}, TypeError, "colour_fix"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options, error, message):
    with pytest.raises(error, match=message):
        open_session(64, 64, **options)


def test_every_option_of_the_command_is_one_of_a_session_or_of_files():
    of_streams = set(UpscaleOptions.__dataclass_fields__)
    of_files = {"input", "output", "profile", "start", "end", "frames", "duration", "rate", "raw_size"}
    assert of_streams.isdisjoint(of_files)
    assert of_streams | of_files < set(RunOptions.__dataclass_fields__)


@pytest.mark.parametrize(
    ("options", "dtype", "precision"),
    [
        ({}, "auto", "dtype"),
        ({"precision": "auto", "dtype": "float16"}, "float16", "dtype"),
        ({"precision": "bf16"}, "bfloat16", "dtype"),
        ({"precision": "fp8", "dtype": "bfloat16"}, "bfloat16", "fp8"),
        ({"precision": "fp8", "dtype": "bf16"}, "bfloat16", "fp8"),
        ({"precision": "bf16", "dtype": "bf16"}, "bfloat16", "dtype"),
        ({"dtype": "fp16"}, "float16", "dtype"),
    ],
)
def test_precisions_are_spelled_as_by_the_command(options, dtype, precision):
    taken = UpscaleOptions(**take_precision(options))
    taken.check()
    assert (taken.dtype, taken.precision) == (dtype, precision)
    with pytest.raises(UsageError, match="differ"):
        take_precision({"precision": "fp32", "dtype": "float16"})


def test_open_session_takes_them_all():
    with open_session(
        64, 64, **vars(OPTIONS) | {"seed": 3, "color_fix": "none"}, frames_on="device"
    ) as session:
        assert isinstance(session, Session)
        assert session.stream.color_fix == "none"
