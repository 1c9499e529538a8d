"""The DiT against the official one: both schedules, several densities, dense; masks bit for bit."""

from dataclasses import replace

import pytest
import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import PRESETS, TOKEN_STRIDE, WINDOW_TOKENS, AttentionConfig
from flashvsr_trt.config.rope import space_table, time_table
from flashvsr_trt.kernels.select_blocks import block_probability, expand_mask, window_means
from flashvsr_trt.model.attention import DenseAttention, LayerCache, SparseAttention, StepCache
from flashvsr_trt.model.windows import from_windows, to_windows
from flashvsr_trt.runtime.ring import KVRing
from tests.golden import Case, assert_close_to_max, golden_preset, load_case
from training.published import PublishedDiT

STREAMS = [
    "dit_stream_official_16x24_lr11_k2.0",
    "dit_stream_official_16x24_lr3_k0.3",
    "dit_stream_streaming_16x24_lr11_k2.0",
    "dit_stream_streaming_16x24_lr3_k0.3",
    "dit_stream_streaming_16x24_lr11_k2.0_rope4",
    "dit_stream_dense_16x24",
    "dit_stream_streaming_24x24_lr3_k0.3",
]


class RecordingAttention(SparseAttention):
    """Keeps what the golden cases hold of each layer."""

    def __init__(self, geometry: Geometry, config: AttentionConfig, top_k: int) -> None:
        super().__init__(geometry, config)
        self.top_k = top_k
        self.masks: list[torch.Tensor] = []
        self.probabilities: list[torch.Tensor] = []
        self.queries: list[torch.Tensor] = []
        self.outputs: list[torch.Tensor] = []

    def attend(self, q, q_means, cache, slot_valid):
        index, count = self.select(q_means, cache, slot_valid)
        self.masks.append(expand_mask(index, count))
        k_means = torch.cat([cache.ring.key_means, cache.own.key_means]).flatten(0, 1)
        self.probabilities.append(
            block_probability(q_means, k_means, slot_valid, self.neighbourhood).flatten(1, 2)
        )
        self.queries.append(q)
        self.outputs.append(super().attend(q, q_means, cache, slot_valid))
        return self.outputs[-1]


def visible_columns(written: list[int], valid: torch.Tensor, windows: int, units: int) -> torch.Tensor:
    """Columns of our key windows in the official order: valid slots oldest first, then the new units."""
    slots = written[len(written) - int(valid.sum()) :]
    columns = [torch.arange(slot * windows, (slot + 1) * windows) for slot in slots]
    columns.append(torch.arange(len(valid) * windows, (len(valid) + units) * windows))
    return torch.cat(columns)


@pytest.mark.parametrize("name", STREAMS)
def test_the_official_stream_is_reproduced(name):
    case = load_case(name)
    dense = case.config["attention"] == "dense"
    config = AttentionConfig(sparse_ratio=None if dense else 1.0, local_range=case.config["local_range"])
    rows, columns = case.config["grid"]
    geometry = Geometry(rows * TOKEN_STRIDE // 2, columns * TOKEN_STRIDE // 2, scale=2)
    preset = golden_preset(config)
    windows = geometry.unit_windows
    top_k = int(windows * windows * case.config["topk_ratio"]) - 1
    dit = PublishedDiT(preset.network)
    dit.load_state_dict(case.under("weights."))
    dit.eval().requires_grad_(False)
    constants = dit.constants(case["prompt"])
    if "dbg.text" in case.tensors:
        check_constants(dit, constants, case)

    heads = (preset.network.dit.heads, preset.network.dit.head_dim)
    slots = config.ring_slots
    caches = [
        LayerCache(
            torch.full((slots, geometry.unit_tokens, *heads), 9.0),
            torch.full((slots, geometry.unit_tokens, *heads), 9.0),
            torch.full((slots, windows, *heads), 9.0),
        )
        for _ in range(preset.network.dit.layers)
    ]
    ring = KVRing(config)
    written: list[int] = []
    space = space_table(rows, columns, preset.network.dit.head_dim)
    for call_index, call in enumerate(case.config["calls"]):
        units = call["units"]
        latent_frames = 2 * len(units)
        positions = torch.arange(call["rope_offset"], call["rope_offset"] + latent_frames).numpy()
        time = time_table(positions, preset.network.dit.head_dim)
        rope = tuple(
            to_windows(
                torch.cat(
                    [
                        torch.from_numpy(t)[:, None, None].expand(-1, rows, columns, -1),
                        torch.from_numpy(s)[None].expand(latent_frames, -1, -1, -1),
                    ],
                    dim=-1,
                ).flatten(0, 2),
                (rows, columns),
            )
            for t, s in zip(time, space, strict=True)
        )
        step = ring.step(len(units))
        valid = torch.from_numpy(step.valid)
        attention = DenseAttention() if dense else RecordingAttention(geometry, config, top_k)
        noise = torch.cat([case[f"noise.{unit}"][0].transpose(0, 1) for unit in units])
        tokens = torch.cat([case[f"lq.{unit}"][0] for unit in units])
        velocity, new = dit(noise, tokens, rope, constants, caches, valid, attention)

        if not dense:
            order = visible_columns(written, valid, windows, len(units))
            for layer, mask in enumerate(attention.masks):
                expected = case[f"dbg.mask.{call_index}.{layer}"][0]
                assert torch.equal(mask[:, :, order], expected)
                assert mask.sum() == expected.sum(), "blocks of invalid slots were kept"
                if f"dbg.prob.{call_index}.{layer}" in case.tensors:
                    kept = attention.probabilities[layer][:, :, order]
                    assert_close_to_max(kept, case[f"dbg.prob.{call_index}.{layer}"])
                if f"dbg.q.{call_index}.{layer}" in case.tensors:
                    assert_close_to_max(attention.queries[layer], case[f"dbg.q.{call_index}.{layer}"])
                    assert_close_to_max(
                        new[layer].keys.flatten(0, 1), case[f"dbg.k_new.{call_index}.{layer}"]
                    )
                if f"dbg.attn_out.{call_index}.{layer}" in case.tensors:
                    assert_close_to_max(attention.outputs[layer], case[f"dbg.attn_out.{call_index}.{layer}"])
        for position, unit in enumerate(units):
            made = velocity[2 * position : 2 * position + 2].transpose(0, 1)[None]
            if f"velocity.{unit}" in case.tensors:
                assert_close_to_max(made, case[f"velocity.{unit}"])
            else:
                assert_close_to_max(made[..., ::2, ::2], case[f"velocity_even.{unit}"])
        written += range(step.slots.start, step.slots.stop)
        for cache, layer_new in zip(caches, new, strict=True):
            cache.keys[step.slots] = layer_new.keys
            cache.values[step.slots] = layer_new.values
            cache.key_means[step.slots] = layer_new.key_means


def check_constants(dit: PublishedDiT, constants, case: Case) -> None:
    time_modulation = constants.blocks[0].modulation - dit.blocks[0].modulation[0]
    assert_close_to_max(time_modulation[None], case["dbg.t_mod"])
    assert_close_to_max((constants.head_modulation - dit.head.modulation[0])[:1], case["dbg.t"])
    text = dit.text_embedding(case["prompt"])
    assert_close_to_max(text, case["dbg.text"])
    layer = dit.blocks[1].cross_attn
    assert_close_to_max(
        constants.blocks[1].cross_k.transpose(0, 1).flatten(1), layer.norm_k(layer.k(case["dbg.text"][0]))
    )


@pytest.mark.parametrize("grid", [(8, 8), (16, 24), (24, 8)])
def test_window_order_is_a_permutation_and_its_inverse(grid):
    tokens = torch.arange(4 * grid[0] * grid[1])[:, None]
    windowed = to_windows(tokens, grid)
    assert torch.equal(from_windows(windowed, grid), tokens)
    frame, row, column = 1, 7, 3
    inside_first_window = frame * 64 + row * 8 + column
    assert windowed[inside_first_window] == (frame * grid[0] + row) * grid[1] + column


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset.published], ids=lambda p: p.name)
def test_blocks_kept_at_the_published_size(preset):
    geometry = Geometry(384, 640, scale=2)
    if preset.attention.sparse_ratio is None:
        with pytest.raises(ValueError, match="dense"):
            geometry.top_k(preset.attention)
    else:
        assert geometry.top_k(preset.attention) == int(3600 * preset.attention.sparse_ratio) - 1


def test_positions_far_away_rotate_by_the_same_angle():
    near = time_table(torch.arange(0, 2).numpy(), 128)
    far = time_table(torch.arange(25_000, 25_002).numpy(), 128)
    for cosine, sine in (near, far):
        assert cosine.shape == (2, 22)
        assert abs(cosine**2 + sine**2 - 1).max() < 1e-6
    turn_near = near[0][1] * near[0][0] + near[1][1] * near[1][0]
    turn_far = far[0][1] * far[0][0] + far[1][1] * far[1][0]
    assert abs(turn_near - turn_far).max() < 1e-6


def test_head_dims_that_do_not_split_are_refused():
    with pytest.raises(ValueError, match="64"):
        time_table(torch.arange(2).numpy(), 64)


def test_a_slot_that_is_not_valid_is_never_read():
    config = AttentionConfig(sparse_ratio=2.0)
    geometry = Geometry(128, 128, scale=2)
    attention = SparseAttention(geometry, config)
    torch.manual_seed(0)

    def cache(slots: int) -> LayerCache:
        keys, values = torch.randn(2, slots, geometry.unit_tokens, 2, 32).unbind()
        means = window_means(keys.flatten(0, 1), WINDOW_TOKENS).view(slots, geometry.unit_windows, 2, 32)
        return LayerCache(keys, values, means)

    q, new, ring = torch.randn(geometry.unit_tokens, 2, 32), cache(1), cache(config.ring_slots)
    valid = torch.tensor([True, False, True, False])
    q_means = window_means(q, WINDOW_TOKENS)
    expected = attention.attend(q, q_means, StepCache(new, ring, new), valid)
    spoiled = replace(
        ring, keys=ring.keys.clone(), values=ring.values.clone(), key_means=ring.key_means.clone()
    )
    for part in (spoiled.keys, spoiled.values, spoiled.key_means):
        part[~valid] = 1e6
    assert torch.equal(attention.attend(q, q_means, StepCache(new, spoiled, new), valid), expected)
