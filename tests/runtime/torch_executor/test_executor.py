"""The torch executor's options, and that what it runs is the network as published."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
import triton

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import AttentionConfig, find_preset, find_schedule
from flashvsr_trt.config.rope import time_table
from flashvsr_trt.config.signatures import COLOR_FIXES, StreamConfig
from flashvsr_trt.errors import DeviceError, MissingDependencyError, UsageError
from flashvsr_trt.kernels import finish_frames
from flashvsr_trt.kernels.attention_launch import attention_strides
from flashvsr_trt.kernels.conv_to_rgb import ConvToRGB
from flashvsr_trt.model import attention, fused_decoder, fused_projector, running_dit
from flashvsr_trt.model.attention import self_attention_for
from flashvsr_trt.model.network import Network, build_network
from flashvsr_trt.model.stages import Decode
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.request import ExecutorRequest, TorchOptions
from flashvsr_trt.runtime.ring import KVRing
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch import device as torch_device
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from tests.golden import assert_close_to_max, end_to_end_weights, golden_preset, load_case
from tests.golden_clips import network_of
from training.published import PublishedDiT


@pytest.fixture(scope="module")
def network() -> Network:
    return network_of(load_case("e2e_official"))


def stream(sparse_ratio: float | None, schedule: str = "official", color_fix: str = "adain") -> StreamConfig:
    preset = golden_preset(AttentionConfig(sparse_ratio, local_range=3))
    return StreamConfig(preset, Geometry(64, 192, 2), find_schedule(schedule), color_fix=color_fix)


@pytest.mark.parametrize("schedule", ["official", "low-latency"])
@pytest.mark.parametrize("sparse_ratio", [0.03, 2.0, None])
def test_steps_in_place_equal_the_published_blocks(network, sparse_ratio, schedule):
    config = stream(sparse_ratio, schedule)
    executor = TorchExecutor(network, config)
    rope_table = executor.dit_stage.rope_table
    weights = end_to_end_weights(load_case("e2e_official"))
    published = PublishedDiT(config.preset.network)
    published.load_state_dict(weights.parts["dit"])
    constants = published.constants(weights.prompt)
    whole = self_attention_for(config.geometry, config.preset.attention)
    state, plain = executor.new_state(), executor.new_state()
    ring = KVRing(config.preset.attention)
    generator = np.random.default_rng(0)
    units = config.schedule.first_units
    # More steps than slots: the ring wraps around.
    for _ in range(6):
        step = ring.step(units)
        noise = generator.standard_normal((2 * units, 16, *config.geometry.latent), np.float32)
        tokens = torch.from_numpy(
            generator.standard_normal((units * config.geometry.unit_tokens, 64), np.float32)
        )
        rope = time_table(np.arange(2 * units), 32)
        latents = executor.dit(noise, [tokens], rope, step, state)
        cos, sin, valid, noise = (torch.from_numpy(array) for array in (*rope, step.valid, noise))
        with torch.inference_mode():
            table = rope_table(cos, sin)
            velocity, new = published(noise, tokens, table, constants, plain.ring, valid, whole)
        assert_close_to_max(torch.cat(latents), noise - velocity, 1e-5)
        for written, layer, layer_new in zip(state.ring, plain.ring, new, strict=True):
            for part in ("keys", "values", "key_means"):
                getattr(layer, part)[step.slots] = getattr(layer_new, part)
                assert_close_to_max(getattr(written, part), getattr(layer, part), 1e-5)
        units = 1


@pytest.mark.parametrize("color_fix", COLOR_FIXES)
def test_finished_frames_equal_the_published_ones(network, color_fix):
    config = stream(2.0, color_fix=color_fix)
    executor, published = TorchExecutor(network, config), Decode(network, config)
    state = executor.new_state()
    torch.manual_seed(0)
    latent = torch.randn(2, 16, *config.geometry.latent)
    condition = torch.rand(8, 3, *config.geometry.target) * 2 - 1
    with torch.inference_mode():
        expected, memory = published(latent, condition, [torch.zeros_like(x) for x in state.memory])
    frames = executor.start_decode(latent, condition, state)()
    difference = np.abs(frames.astype(np.int16) - expected.numpy().astype(np.int16))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    for carried, wanted in zip(state.memory, memory, strict=True):
        assert_close_to_max(carried, wanted, 1e-5)
        assert carried.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("fit", ["pad", "crop"])
@pytest.mark.parametrize("schedule", ["official", "low-latency"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_get_tensors_laid_out_as_they_ask(monkeypatch, schedule, fit, dtype):
    """The launches' own conditions, checked on a CPU, where the references would take anything."""
    checked = Counter()

    def check(module, name, condition):
        operator = getattr(module, name)

        def checking(*arguments):
            condition(*arguments)
            checked[name] += 1
            return operator(*arguments)

        monkeypatch.setattr(module, name, checking)

    def contiguous(*arguments):
        assert all(x.is_contiguous() for x in arguments if isinstance(x, torch.Tensor))

    def channels_last(*arguments):
        tensors = [x for x in arguments if x is not None]
        assert all(x.is_contiguous(memory_format=torch.channels_last) for x in tensors)

    def adjacent_channels(q, k, q_weight, k_weight, cos, sin, eps, q_out, k_out):
        contiguous(q_weight, k_weight, cos, sin)
        assert q.stride(1) == k.stride(1) == 1
        assert q_out.stride()[1:] == k_out.stride()[1:] == (q_out.shape[2], 1)

    check(attention, "block_sparse_attention", attention_strides)
    check(attention, "select_blocks", contiguous)
    check(running_dit, "norm_rope", adjacent_channels)
    check(running_dit, "add_norm", contiguous)
    check(finish_frames, "finish_frames", contiguous)
    check(fused_projector, "stack_frames", lambda tail, x, first: channels_last(x))
    check(fused_projector, "conv_norm_silu", lambda stacked, weight, *_: channels_last(stacked, weight))
    check(fused_decoder, "conv_relu", lambda x, weight, _, residual: channels_last(x, weight, residual))
    check(fused_decoder, "split_frames", lambda grown, *_: channels_last(grown))
    check(ConvToRGB, "forward", lambda _, x: channels_last(x))
    preset = golden_preset(AttentionConfig(0.5, local_range=3))
    config = StreamConfig(preset, Geometry(72, 136, 2, fit), find_schedule(schedule))
    weights = end_to_end_weights(load_case("e2e_official"))
    network = build_network(preset.network, weights, torch.device("cpu"), dtype)
    session = Session(TorchExecutor(network, config))
    session.push(np.random.default_rng(0).integers(0, 256, (33, 72, 136, 3), np.uint8))
    assert len(checked) == 10


def test_state_stays_where_it_is(network):
    """What a CUDA graph rests on: a clip's state is the same memory from its first call to its last."""
    executor = TorchExecutor(network, stream(2.0))
    session = Session(executor)

    def addresses() -> list[int]:
        state = session.state
        ring = [part for layer in state.ring for part in (layer.keys, layer.values, layer.key_means)]
        return [tensor.data_ptr() for tensor in (*state.encode, *ring, *state.memory)]

    before = addresses()
    session.push(np.zeros((41, 64, 192, 3), np.uint8))
    session.flush()
    assert addresses() == before


def test_a_cpu_of_a_machine_with_a_gpu_does_not_start_cuda(network, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA was started"))
    session = Session(TorchExecutor(network, stream(2.0, "low-latency")))
    assert len(session.push(np.zeros((16, 64, 192, 3), np.uint8))) > 0


def test_compiled_stages_give_the_same_frames(network, monkeypatch):
    # Traced and lowered as always, but run without Inductor: generating its code takes minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    frames = np.random.default_rng(0).integers(0, 256, (21, 64, 192, 3), np.uint8)
    made = []
    for options in (TorchOptions(), TorchOptions(compile=True)):
        executor = TorchExecutor(network, stream(2.0, "low-latency"), options)
        session = Session(executor)
        made.append(np.concatenate([session.push(frames), session.flush()]).astype(np.int16))
    assert np.abs(made[0] - made[1]).max() <= 1
    assert executor.describe()["compile"] is True


def test_cuda_graphs_are_refused_without_a_gpu(network):
    with pytest.raises(UsageError, match="need a GPU and the device is cpu"):
        TorchExecutor(network, stream(2.0), TorchOptions(cuda_graphs=True))


def test_a_gpu_without_kernels_is_refused_with_the_way_out(monkeypatch):
    torch_device.check_kernels(torch.device("cpu"))
    monkeypatch.setattr(torch_device, "architecture_of", lambda device: "sm_75")
    with pytest.raises(DeviceError, match=r"sm_75 is below .*use --attention reference"):
        torch_device.check_kernels(torch.device("cuda"))
    monkeypatch.setattr(torch_device, "architecture_of", lambda device: "sm_90")
    monkeypatch.setattr(triton, "__version__", "3.5.1")
    with pytest.raises(MissingDependencyError, match=r"need Triton 3\.6 and this is 3\.5\.1.*torch>=2\.10"):
        torch_device.check_kernels(torch.device("cuda"))
    monkeypatch.setattr(torch_device, "architecture_of", lambda device: "sm_89")
    torch_device.check_kernels(torch.device("cuda"))
    monkeypatch.setattr(torch_device, "is_installed", lambda name: False)
    with pytest.raises(MissingDependencyError, match=r"\[kernels\]"):
        torch_device.check_kernels(torch.device("cuda"))


def test_another_backend_refuses_the_torch_options():
    config = StreamConfig(find_preset("nano"), Geometry(64, 64, 2), find_schedule("official"))
    request = ExecutorRequest(config, "random", torch=TorchOptions(attention="reference"))
    with pytest.raises(UsageError, match="belong to --backend torch, not to onnxruntime"):
        open_executor("onnxruntime", request)
