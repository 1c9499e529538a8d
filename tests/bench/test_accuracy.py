"""What `bench.accuracy` records of a clip, on a CPU: every stage's result of every unit."""

import torch

from bench.accuracy import Side, record_clip
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig


def test_a_clip_is_recorded_stage_by_stage():
    stream = StreamConfig(find_preset("nano"), Geometry(64, 64, 2), find_schedule("low-latency"))
    record = record_clip(stream, Side(torch.float32), 2, torch.device("cpu"))
    assert [len(frames) for frames in record.frames] == [8] * len(record.latents)
    assert len(record.latents) == len(record.conditions) == 3
    assert len(record.kept) == len(record.tokens) * stream.preset.network.dit.layers
