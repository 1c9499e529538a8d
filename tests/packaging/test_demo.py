"""`make demo`: its photograph may be shipped and says so, and its environment has no builders of engines."""

from PIL import Image

from bench.demo_clip import PHOTOGRAPH, PHOTOGRAPH_SIDE
from flashvsr_trt.engines.flavours import FLAVOURS
from tests.test_extras import brought_by
from training.motion import part_side

ARTIST, COPYRIGHT = 0x013B, 0x8298
"""Tags of EXIF."""


def test_the_photograph_is_large_enough_and_says_its_licence():
    with Image.open(PHOTOGRAPH) as picture:
        assert min(picture.size) >= part_side(PHOTOGRAPH_SIDE)
        tags = picture.getexif()
    assert tags[ARTIST] == "Aitzol Berasategi"
    assert "https://creativecommons.org/licenses/by/4.0/" in tags[COPYRIGHT]


def test_the_demo_brings_no_builder_and_no_kernels():
    brought = brought_by("demo")
    assert brought.isdisjoint({flavour.distribution for flavour in FLAVOURS.values()})
    assert brought.isdisjoint({"triton", "cuda-python", "onnx", "onnxruntime"})
    assert {"torch", "pillow"} <= brought
