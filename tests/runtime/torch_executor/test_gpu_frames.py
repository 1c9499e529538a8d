"""Frames of a GPU: none visits the host, whichever stream made them, and the bytes are those by way of it."""

import asyncio
import json

import numpy as np
import pytest
import torch

from flashvsr_trt import Upscaler, open_session

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

HEIGHT, WIDTH = 256, 384
OPTIONS = {"preset": "nano", "weights": "random:1", "backend": "torch", "device": "cuda"}
COUNT = 49


class Interface:
    """What has `__cuda_array_interface__` and nothing else."""

    def __init__(self, frames: torch.Tensor) -> None:
        self.frames, self.__cuda_array_interface__ = frames, frames.__cuda_array_interface__


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(frames) -> np.ndarray:
    with open_session(HEIGHT, WIDTH, **OPTIONS) as session:
        return np.concatenate([session.push(frames), session.flush()])


def copied(prof: torch.profiler.profile, folder) -> dict[str, int]:
    """Bytes of each kind of copy that a profile holds."""
    path = folder / "trace.json"
    prof.export_chrome_trace(str(path))
    total: dict[str, int] = {}
    for event in json.loads(path.read_text())["traceEvents"]:
        if event.get("cat") == "gpu_memcpy":
            kind = event["name"].split(" ")[1]
            total[kind] = total.get(kind, 0) + event["args"]["bytes"]
    return total


def copies_of_a_steady_chunk(frames, where: str, folder) -> dict[str, int]:
    given = torch.from_numpy(frames).cuda() if where == "device" else frames
    with open_session(HEIGHT, WIDTH, **OPTIONS, frames_on=where, overlap=True) as session:
        for start in range(0, 41, 8):
            session.push(given[start : start + 8])
        torch.cuda.synchronize()
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as prof:
            made = session.push(given[41:49])
            torch.cuda.synchronize()
        assert len(made) == 8
    return copied(prof, folder)


def test_no_frame_of_a_steady_chunk_is_copied_to_or_from_the_host(frames, tmp_path):
    noise = 2 * 16 * (2 * HEIGHT // 8) * (2 * WIDTH // 8) * 4
    incoming, outgoing = 8 * HEIGHT * WIDTH * 3, 8 * 4 * HEIGHT * WIDTH * 3
    host = copies_of_a_steady_chunk(frames, "host", tmp_path)
    device = copies_of_a_steady_chunk(frames, "device", tmp_path)
    print(f"\nbytes copied in a steady chunk: by way of the host {host}, on the device {device}")
    assert host["HtoD"] >= incoming + noise
    assert host["DtoH"] >= outgoing
    assert device.get("DtoH", 0) == 0
    # The noise, and tables of a few kilobytes.
    assert device["HtoD"] <= noise + 65536


@pytest.mark.parametrize("kind", [lambda x: x, Interface], ids=["tensor", "interface"])
@pytest.mark.parametrize("streams", ["one stream", "streams of their own"])
def test_frames_are_those_of_the_host_and_may_be_overwritten_at_once(frames, expected, kind, streams):
    producing = torch.cuda.Stream() if streams != "one stream" else torch.cuda.current_stream()
    made, buffer = [], torch.empty(7, HEIGHT, WIDTH, 3, dtype=torch.uint8, device="cuda")
    with open_session(HEIGHT, WIDTH, **OPTIONS, frames_on="device", overlap=True) as session:
        for start in range(0, COUNT, 7):
            with torch.cuda.stream(producing):
                torch.cuda._sleep(20_000_000)
                buffer.copy_(torch.from_numpy(frames[start : start + 7]))
                made.append(session.push(kind(buffer)).clone())
                buffer.zero_()
        with torch.cuda.stream(producing):
            made.append(session.flush().clone())
    producing.synchronize()
    np.testing.assert_array_equal(torch.cat(made).cpu().numpy(), expected)


@pytest.mark.parametrize("tile", [(256, 512), (512, 512)])
def test_tiles_take_and_give_frames_of_the_gpu(frames, tile):
    made = []
    for where in ("host", "device"):
        with open_session(HEIGHT, WIDTH, **OPTIONS, tile=tile, frames_on=where) as session:
            given = torch.from_numpy(frames[:33]).cuda() if where == "device" else frames[:33]
            parts = [session.push(given), session.flush()]
        made.append(np.concatenate([torch.as_tensor(part).cpu().numpy() for part in parts]))
    np.testing.assert_array_equal(*made)


def test_streams_of_a_server_take_and_give_frames_of_the_gpu(frames, expected):
    given = torch.from_numpy(frames).cuda().split(5)

    async def one(upscaler):
        # The event loop's thread uses them at once; the upscaler's thread made them.
        return torch.cat([part + 0 async for part in upscaler.stream(given, frames_on="device")])

    async def both():
        with Upscaler(**OPTIONS) as upscaler:
            return await asyncio.gather(one(upscaler), one(upscaler))

    for made in asyncio.run(both()):
        np.testing.assert_array_equal(made.cpu().numpy(), expected)


def test_frames_of_the_host_go_into_a_session_on_the_gpu(frames, expected):
    with open_session(HEIGHT, WIDTH, **OPTIONS) as session:
        made = [session.push(torch.from_numpy(frames)), session.flush()]
    np.testing.assert_array_equal(np.concatenate(made), expected)
