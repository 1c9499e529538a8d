"""Tiles: whole frames come out as without, and equal bit for bit where one tile covers them."""

from contextlib import nullcontext
from dataclasses import replace
from functools import cache, partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import AttentionConfig, find_preset, find_schedule
from flashvsr_trt.config.signatures import COLOR_FIXES, DECODE, DIT, ENCODE, StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import DeviceError
from flashvsr_trt.memory import Parking, Ring
from flashvsr_trt.model.attention import LayerCache
from flashvsr_trt.model.color import fix_color, quantise
from flashvsr_trt.model.network import Network, build_network
from flashvsr_trt.model.upsample import fit_to_target, upsample
from flashvsr_trt.model.weights.load import load_weights, resolve_weights
from flashvsr_trt.parity.tensor_error import psnr
from flashvsr_trt.runtime.request import KV_CACHES, TorchOptions
from flashvsr_trt.runtime.ring import KVRing, RingStep
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.tiles import OwnStates, TiledExecutor
from flashvsr_trt.runtime.torch import pinned
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.state import TorchState
from flashvsr_trt.runtime.torch.tiles import LayersFromHost, OnePlace, in_tiles, tensors_of
from flashvsr_trt.runtime.whole_frames import HostFrames
from tests.golden import golden_preset, load_case
from tests.golden_clips import network_of
from tests.runtime.test_session import stream_through

PRESET = golden_preset(AttentionConfig(sparse_ratio=2.0))


@cache
def network() -> Network:
    return network_of(load_case("e2e_official"))


def stream_of(height: int, width: int, schedule: str = "official", scale: int = 2, **options) -> StreamConfig:
    geometry = Geometry(height, width, scale, options.pop("fit", "pad"))
    return StreamConfig(PRESET, geometry, find_schedule(schedule), **options)


def tiled(stream: StreamConfig, tile: tuple[int, int]) -> TiledExecutor:
    plan = TilePlan(stream.geometry, tile)
    return in_tiles(TorchExecutor(network(), plan.tile_stream(stream)), stream, plan)


def untiled(stream: StreamConfig) -> TorchExecutor:
    return TorchExecutor(network(), stream)


def clip(frames: int, height: int, width: int) -> np.ndarray:
    """Waves, edges and fine texture that move, over a gradient: uint8 [frames, height, width, 3]."""
    generator = np.random.default_rng(5)
    texture = generator.normal(0, 12, (height, width + frames, 1))
    rows, columns = np.mgrid[:height, : width + frames][..., None]
    picture = 70 + 80 * columns / width + 35 * np.sin(rows / 5) * np.cos(columns / 7) + texture
    picture = picture + 40 * ((rows // 13 + columns // 17) % 2) + np.array([0, 10, -15])
    bytes_of = np.clip(picture, 0, 255).astype(np.uint8)
    return np.stack([bytes_of[:, at : at + width] for at in range(frames)])


@pytest.mark.parametrize(("schedule", "frames"), [("official", 25), ("low-latency", 5)])
def test_one_tile_that_covers_the_frame_is_the_run_without_tiles(schedule, frames):
    stream = stream_of(120, 97, schedule)
    assert stream.geometry.target == (256, 256)
    shown = clip(frames, 120, 97)
    expected = stream_through(Session(untiled(stream)), shown, push=frames)
    np.testing.assert_array_equal(stream_through(Session(tiled(stream, (256, 256))), shown, frames), expected)


@pytest.mark.parametrize(("size", "scale", "fit"), [((70, 130), 2, "crop"), ((60, 70), 4, "pad")])
def test_counts_sizes_and_latency_are_those_without_tiles(size, scale, fit):
    stream = stream_of(*size, "low-latency", scale, fit=fit)
    session = Session(tiled(stream, (256, 256)))
    frames = clip(6, *size)
    made = [session.push(frame[None]) for frame in frames]
    assert [len(part) for part in made] == [0, 0, 0, 0, 5, 0]
    made = np.concatenate([*made, session.flush()])
    assert made.shape == (6, *stream.geometry.output, 3)


@pytest.mark.parametrize(("scale", "size", "tile"), [(2, (34, 41), (256, 256)), (4, (80, 77), (256, 384))])
def test_frames_of_the_host_are_upscaled_as_the_models_are(scale, size, tile):
    frames = np.random.default_rng(2).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    stream = stream_of(*size, scale=scale)
    plan = TilePlan(stream.geometry, tile)
    expected = fit_to_target(upsample(torch.from_numpy(frames), scale), (0, 0), plan.canvas)
    made = HostFrames(stream, plan).upscale(frames)
    np.testing.assert_array_equal(made, ((expected + 1) * 127.5).round().permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("color_fix", COLOR_FIXES)
def test_frames_of_the_host_are_finished_as_the_models_are(color_fix):
    generator = np.random.default_rng(4)
    stream = stream_of(128, 200, color_fix=color_fix)
    plan = TilePlan(stream.geometry, (256, 256))
    blended = generator.random((8, 3, *plan.canvas), np.float32)
    reference = generator.integers(0, 256, (8, *plan.canvas, 3), dtype=np.uint8)
    host = HostFrames(stream, plan)
    made = host.finish(blended, reference)()
    assert plan.padding == (0, 112)
    made_of = (blended * 2 - 1, host.condition(reference))
    padded = [F.pad(torch.from_numpy(x), (0, 112, 0, 0), mode="replicate") for x in made_of]
    expected = quantise(fix_color(*padded, color_fix)).numpy()[:, :, : plan.canvas[1]]
    assert np.abs(made.astype(int) - expected).max() <= 1
    assert (made != expected).mean() < 1e-3


def test_noise_is_the_frames_own_where_tiles_overlap():
    stream = stream_of(100, 300)
    executor = tiled(stream, (256, 256))
    noise = np.random.default_rng(1).normal(size=(2, 16, *stream.geometry.latent)).astype(np.float32)
    canvas = executor._noise_of_canvas(noise)
    rows, columns = noise.shape[2:]
    np.testing.assert_array_equal(canvas[:, :, :rows, :columns], noise)
    assert canvas.shape[2] == 32


class InertStream:
    """A stream or an event of a device that does everything at once."""

    def __init__(self, *_: object) -> None:
        pass

    def wait_event(self, event: "InertStream") -> None:
        pass

    def wait_stream(self, stream: "InertStream") -> None:
        pass

    def record(self, stream: "InertStream | None" = None) -> None:
        pass


@pytest.fixture
def inert_cuda(monkeypatch):
    for name in ("Stream", "Event"):
        monkeypatch.setattr(torch.cuda, name, InertStream)
    monkeypatch.setattr(torch.cuda, "current_stream", InertStream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(pinned, "_pinned", lambda size: torch.zeros(size, dtype=torch.uint8))
    monkeypatch.setattr(pinned, "BLOCK_BYTES", 256)


LAYERS = 5


class SlotExecutor:
    """Carries what each call saw: a stage reads all that is its tile's, and adds a number of its own."""

    device, encoding, decoding = torch.device("cpu"), None, None
    stream = replace(
        stream_of(100, 300),
        preset=replace(
            PRESET, network=replace(PRESET.network, dit=replace(PRESET.network.dit, layers=LAYERS))
        ),
    )

    def __init__(self) -> None:
        self.calls = 0
        self.maker = self

    def layer(self) -> LayerCache:
        return LayerCache(*(torch.zeros(4, 2) for _ in range(3)))

    def tails(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        return [torch.zeros(3)], [torch.zeros(5)]

    def place(self) -> None:
        return None

    def new_state(self) -> TorchState:
        encode, memory = self.tails()
        return TorchState(encode, [self.layer() for _ in range(LAYERS)], memory)

    def reset_state(self, state: TorchState) -> None:
        for tensor in state.tensors():
            tensor.zero_()

    def run(self, stage: str, state: TorchState, step: RingStep | None) -> list[float]:
        self.calls += 1
        if stage == DIT:
            seen = []
            for number, layer in enumerate(state.ring):
                for tensor in tensors_of(layer):
                    seen += [float(tensor[slot].sum()) for slot in step.seen]
                    tensor[step.slots] = self.calls + number / 8
            return seen
        (carried,) = state.encode if stage == ENCODE else state.memory
        carried += self.calls
        return carried.tolist()


RING_BYTES = 3 * 4 * 2 * 4

WAYS = {
    "one place": OnePlace,
    "all rings on the host": partial(LayersFromHost, parking=Parking.RINGS_ON_HOST),
    "two layers stay": partial(
        LayersFromHost, parking=Parking.RINGS_ON_HOST, resident=3 * 2 * RING_BYTES + 9
    ),
    "all layers stay": partial(LayersFromHost, parking=Parking.RINGS_ON_HOST, resident=10**6),
    "all on the host": partial(LayersFromHost, parking=Parking.HOST),
}


@pytest.mark.parametrize("schedule", ["official", "low-latency"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [2, 3])
def test_tiles_that_wait_elsewhere_keep_what_is_theirs(inert_cuda, schedule, way, count):
    made = []
    for new_states in (OwnStates, WAYS[way]):
        executor = SlotExecutor()
        states = new_states(executor, count)
        for _ in range(2):
            ring, seen = KVRing(PRESET.attention), []
            for units in [find_schedule(schedule).first_units, 1, 1, 1, 1, 1, 1]:
                step = ring.step(units)
                for stage, number in product((ENCODE, DIT, DECODE), range(count)):
                    with states.use(number, stage, step if stage == DIT else None) as state:
                        seen.append(executor.run(stage, state, step))
            states.reset()
            made.append(seen)
    assert made[0] == made[2]
    assert made[1] == made[3]


def test_the_layers_that_stay_are_spread_over_the_step(inert_cuda):
    states = LayersFromHost(SlotExecutor(), 3, Parking.RINGS_ON_HOST, resident=3 * 2 * RING_BYTES)
    assert states.parked == [0, 1, 3]


@pytest.mark.parametrize("schedule", ["official", "low-latency"])
def test_rings_in_fp8_change_frames_a_little(schedule):
    stream, shown = stream_of(60, 70, schedule), clip(29, 60, 70)
    expected, made = (
        stream_through(Session(TorchExecutor(network(), stream, TorchOptions(kv_cache=kind))), shown, 29)
        for kind in KV_CACHES
    )
    assert 35 < psnr(expected, made) < 120


def test_a_ring_that_is_read_gives_what_one_that_is_widened_gives(monkeypatch):
    stream, shown, made, options = (
        stream_of(60, 70, "official"),
        clip(29, 60, 70),
        [],
        TorchOptions(kv_cache="fp8"),
    )
    for ring in (Ring.SCALED, Ring.WIDENED):
        monkeypatch.setattr("flashvsr_trt.runtime.torch.executor.kept_ring", lambda *_, ring=ring: ring)
        executor = TorchExecutor(network(), stream, options)
        assert (executor.maker.place() is None) == (ring is Ring.SCALED)
        made.append(stream_through(Session(executor), shown, 29))
        suffix = "_scaled" if ring is Ring.SCALED else ""
        assert f"block_sparse_attention{suffix}/reference" in executor.kernel_calls
    assert np.array_equal(*made)


def test_a_gpu_that_runs_out_of_memory_in_a_stage_is_said_in_one_line():
    executor = tiled(stream_of(40, 50, "low-latency"), (256, 256))

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 84.00 MiB. GPU 0 has a total ...")

    executor.executor._encode = fail
    with pytest.raises(
        DeviceError, match=r"in encode \(CUDA out of memory. Tried to allocate 84.00 MiB\); give"
    ):
        stream_through(Session(executor), clip(5, 40, 50), 5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("parking", Parking)
def test_parked_tiles_of_a_gpu_make_the_frames_of_tiles_that_stay(parking):
    stream, frames = stream_of(120, 300), clip(61, 120, 300)
    plan = TilePlan(stream.geometry, (256, 256))
    config = find_preset("nano").network
    weights = load_weights(resolve_weights("random:1", config), config, torch.bfloat16)
    on_gpu = build_network(config, weights, torch.device("cuda"), torch.bfloat16)
    stream = replace(stream, preset=find_preset("nano"))
    parked = in_tiles(TorchExecutor(on_gpu, plan.tile_stream(stream)), stream, plan, parking)
    staying = in_tiles(TorchExecutor(on_gpu, plan.tile_stream(stream)), stream, plan)
    staying.new_states = partial(OwnStates, staying.executor, len(plan.tiles))
    made, expected = (
        stream_through(Session(executor, overlap=True), frames, push=8) for executor in (parked, staying)
    )
    np.testing.assert_array_equal(made, expected)
