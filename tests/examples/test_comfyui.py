"""The ComfyUI node, loaded and called as ComfyUI does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from flashvsr_trt.errors import UsageError
from tests.examples.comfyui_double import Host, InterruptProcessingException
from tests.runtime.nearest_session import NearestSession

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "comfyui"


@pytest.fixture
def host(monkeypatch):
    return Host(monkeypatch)


@pytest.fixture
def module(host):
    made = host.load(FOLDER)
    yield made
    made.FlashVSRUpscale._forget()


@pytest.fixture
def node(module):
    (name,) = module.NODE_CLASS_MAPPINGS
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == {name}
    return module.NODE_CLASS_MAPPINGS[name]


@pytest.fixture
def nearest(module, monkeypatch):
    """The node without a network."""

    class Session(NearestSession):
        def __init__(self):
            super().__init__()
            self.executor = None

        def push(self, frames):
            return super().push(frames.numpy())

        def close(self):
            self.inside.clear()

    monkeypatch.setattr(module.Upscaler, "session", lambda self, *size, **options: Session())


def test_images_become_as_many_larger_ones(host, node):
    images = torch.from_numpy(np.random.default_rng(0).random((5, 64, 64, 3), np.float32))
    (made,) = host.run(node, images=images, preset="nano", schedule="low-latency", backend="torch")
    assert made.shape == (5, 128, 128, 3)
    assert made.dtype == torch.float32
    assert 0 <= made.min() < 0.2
    assert 0.8 < made.max() <= 1
    assert host.progress[-1] == (5, 5)
    assert node.kept is None
    assert host.calls[-1] == "soft_empty_cache"


@pytest.mark.parametrize("channels", [3, 4])
def test_values_and_order_stay_and_alpha_is_left_out(host, node, nearest, channels):
    levels = torch.arange(40).div(255).view(40, 1, 1, 1).expand(40, 8, 8, channels)
    (made,) = host.run(node, images=levels, preset="nano")
    assert made.shape == (40, 16, 16, 3)
    torch.testing.assert_close(made, levels[:, :1, :1, :3].expand(40, 16, 16, 3))
    assert [done for done, _ in host.progress] == sorted({done for done, _ in host.progress})


def test_what_is_kept_serves_runs_with_the_same_options_only(host, node, nearest):
    images = torch.zeros(5, 8, 8, 3)
    host.run(node, images=images, preset="nano", keep_loaded=True)
    kept = node.kept
    host.run(node, images=images, preset="nano", keep_loaded=True)
    assert node.kept is kept
    host.run(node, images=images, preset="nano", seed=1, keep_loaded=True)
    assert node.kept is not kept
    assert host.calls.count("unload_all_models") == 2


def test_a_cancelled_run_keeps_nothing(host, node, nearest):
    host.cancelled = True
    with pytest.raises(InterruptProcessingException):
        host.run(node, images=torch.zeros(9, 8, 8, 3), preset="nano", keep_loaded=True)
    assert node.kept is None


@pytest.mark.parametrize(
    ("text", "tile"), [("auto", "auto"), (" off", "off"), ("768x512", (512, 768)), ("a x 3", "a x 3")]
)
def test_tiles_are_written_width_first(module, text, tile):
    assert module.tile_of(text) == tile


@pytest.mark.parametrize("options", [{"tile": "big"}, {"tile": "100x100"}])
def test_what_cannot_be_used_is_named(host, node, options):
    (value,) = options.values()
    with pytest.raises(UsageError, match=value):
        host.run(node, images=torch.zeros(1, 64, 64, 3), preset="nano", backend="torch", **options)
    assert node.kept is None
