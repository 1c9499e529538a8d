"""Frames as tensors of the executor's device: in without numpy, out as tensors, the same bytes."""

import itertools

import numpy as np
import pytest
import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import UsageError
from flashvsr_trt.runtime.frames import NumpyArrays
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.frames import as_tensor
from flashvsr_trt.runtime.torch.whole_frames import TorchFrames
from tests.runtime.test_session import HEIGHT, WIDTH, clip, executor, expected


class OfAnotherLibrary:
    """What has DLPack and nothing else, as an array of CuPy or JAX."""

    def __init__(self, frames):
        self.tensor = torch.from_numpy(frames)

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


class OfAGpu:
    """As an array of a GPU of another library is told of, without its memory."""

    device = "cuda:7"
    __cuda_array_interface__ = None

    def __dlpack_device__(self):
        return 2, 7


def test_frames_of_every_library_give_the_same_tensors_and_may_be_overwritten():
    frames, session, made = clip(13), Session(executor("low-latency"), frames_on="device"), []
    for kind, start in zip(
        itertools.cycle([torch.from_numpy, OfAnotherLibrary, np.asarray]), range(0, 13, 2)
    ):
        part = frames[start : start + 2].copy()
        made.append(session.push(kind(part)))
        part[:] = 0
    made.append(session.flush())
    assert all(isinstance(part, torch.Tensor) for part in made)
    np.testing.assert_array_equal(torch.cat(made).numpy(), expected("low-latency", 13))


def test_frames_that_were_given_are_the_callers_own():
    session = Session(executor("low-latency"), frames_on="device")
    assert session.push(torch.empty(0, HEIGHT, WIDTH, 3, dtype=torch.uint8)).shape == (0, 128, 2 * WIDTH, 3)
    made = session.push(torch.from_numpy(clip(5)))
    assert (made != 0).any()
    assert (made.zero_() == 0).all()


def test_whole_frames_of_tiles_are_the_same_from_tensors_and_stay_tensors():
    stream = StreamConfig(executor("official").stream.preset, Geometry(40, 150, 2), find_schedule("official"))
    plan = TilePlan(stream.geometry, (256, 256))
    whole = TorchFrames(executor("official"), stream, plan)
    frames = np.random.default_rng(1).integers(0, 256, (8, 40, 150, 3), np.uint8)
    upscaled = whole.reference(whole.kept(torch.from_numpy(frames), None))
    np.testing.assert_array_equal(upscaled, whole.upscale(frames))
    blended = upscaled.permute(0, 3, 1, 2) / 255
    host, device = (whole.finish(blended, upscaled, on_device)() for on_device in (False, True))
    assert isinstance(host, np.ndarray)
    assert isinstance(device, torch.Tensor)
    np.testing.assert_array_equal(host, device)
    assert np.abs(host.astype(int) - upscaled.numpy()).max() <= 1


@pytest.mark.parametrize(
    "kinds", [(np.asarray,) * 2, (torch.from_numpy,) * 2, (np.asarray, torch.from_numpy)]
)
def test_frames_that_wait_are_stacked_with_those_that_came(kinds):
    parts = [kind(frames) for kind, frames in zip(kinds, (clip(4), clip(8)), strict=True)]
    made = executor("official").arrays.stack([*parts[0], *parts[1]])
    np.testing.assert_array_equal(np.asarray(made), np.concatenate([clip(4), clip(8)]))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (torch.zeros(1, HEIGHT, WIDTH, 3), "float32"),
        (torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8), "do not fit"),
        ([[0]], "list is no array"),
        (None, "NoneType is no array"),
    ],
)
def test_what_are_no_frames_is_refused_and_the_session_goes_on(frames, message):
    session = Session(executor("official"))
    with pytest.raises(UsageError, match=message):
        session.push(frames)
    assert session.failure is None


def test_frames_of_a_gpu_are_refused_where_the_executor_has_none():
    with pytest.raises(UsageError, match="cuda:7"):
        NumpyArrays().view(OfAGpu())


def test_frames_on_the_device_are_refused_where_they_only_come_to_the_host(monkeypatch):
    monkeypatch.setattr(executor("official"), "arrays", NumpyArrays(is_device=False))
    with pytest.raises(UsageError, match="host memory only"):
        Session(executor("official"), frames_on="device")
    with pytest.raises(UsageError, match="frames_on 'gpu'"):
        Session(executor("official"), frames_on="gpu")


def test_a_tensor_is_taken_without_a_copy():
    frames = torch.from_numpy(clip(2))
    assert (
        as_tensor(frames).data_ptr()
        == as_tensor(OfAnotherLibrary(frames.numpy())).data_ptr()
        == frames.data_ptr()
    )
