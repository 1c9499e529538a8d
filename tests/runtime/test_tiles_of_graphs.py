"""Exported tiles: one bundle serves frames of every size and scale, in ONNX Runtime and as engines."""

from functools import partial

import numpy as np
import pytest

from flashvsr_trt.config.presets import find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import TilePlan, tile_geometry
from flashvsr_trt.export.export_bundle import WeightsOrigin, export_network
from flashvsr_trt.parity.tensor_error import psnr
from flashvsr_trt.runtime.onnxruntime.executor import OnnxRuntimeExecutor
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.tensorrt.tiles import RingsFromHost
from flashvsr_trt.runtime.tiles import TiledExecutor
from tests.exported import export_once
from tests.runtime.device_double import DeviceDouble
from tests.runtime.engine_double import ComputingRunner
from tests.runtime.tensorrt_double import open_executor
from tests.runtime.test_session import stream_through
from tests.runtime.test_tiles import PRESET, clip, network, stream_of, tiled

TILE = (256, 256)
COMPUTE, DECODING = 2, 3


@pytest.fixture(scope="module")
def export(bundles_folder):
    def export(stream: StreamConfig, name: str):
        origin = WeightsOrigin(None, "golden", "golden", "golden")
        folder = bundles_folder / name
        return export_once(export_network, network(), stream, origin, "fp32", folder=folder)

    return export


@pytest.fixture(scope="module")
def tile_bundle(export):
    return export(StreamConfig(PRESET, tile_geometry(TILE), find_schedule("low-latency")), "tile")


def in_tiles(executor, stream, new_states=None) -> TiledExecutor:
    return TiledExecutor(executor, stream, TilePlan(stream.geometry, TILE), new_states=new_states)


def test_one_tile_that_covers_the_frame_is_the_run_without_tiles(export, tile_bundle):
    stream, frames = stream_of(120, 97, "low-latency"), clip(13, 120, 97)
    whole = OnnxRuntimeExecutor(export(stream, "whole"), threads=1)
    expected = stream_through(Session(whole), frames, push=13)
    executor = in_tiles(OnnxRuntimeExecutor(tile_bundle, threads=1), stream)
    np.testing.assert_array_equal(stream_through(Session(executor), frames, push=13), expected)


@pytest.mark.parametrize(("size", "scale"), [((100, 170), 2), ((40, 70), 4)])
def test_one_bundle_makes_the_frames_of_torch_whatever_their_size(tile_bundle, size, scale):
    stream, frames = stream_of(*size, "low-latency", scale), clip(6, *size)
    expected = stream_through(Session(tiled(stream, TILE)), frames, push=6)
    made = stream_through(Session(in_tiles(OnnxRuntimeExecutor(tile_bundle), stream)), frames, push=6)
    assert made.shape == expected.shape == (6, *stream.geometry.output, 3)
    assert psnr(expected, made) > 60


def test_engines_of_a_tile_whose_rings_wait_on_the_host_make_the_frames_of_its_graphs(tile_bundle):
    stream, frames = stream_of(100, 170, "low-latency"), clip(14, 100, 170)
    expected = stream_through(Session(in_tiles(OnnxRuntimeExecutor(tile_bundle), stream)), frames, push=14)
    device = DeviceDouble(ahead=frozenset({COMPUTE, DECODING}))
    executor = open_executor(tile_bundle, ComputingRunner, device)
    engines = in_tiles(executor, stream, partial(RingsFromHost, executor, 2, 1))
    made = stream_through(Session(engines, overlap=True), frames, push=8)
    assert psnr(expected, made) > 60
