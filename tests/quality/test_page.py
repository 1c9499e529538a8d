"""The page: one static file, and what a browser makes of it."""

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest

from flashvsr_trt.quality.page import ShownFrame, comparison_page, png
from tests.quality.browser import dumped_page, screenshot
from tests.quality.made import comparison

HEIGHT, WIDTH = 48, 64
RED, BLUE = (200, 30, 20), (20, 40, 210)

PROBE = """
<script>
addEventListener("load", () => {
  const pair = document.querySelector(".pair"), slider = pair.querySelector("input");
  const [b, a] = pair.querySelectorAll("img");
  const visible = () => getComputedStyle(a).clipPath;
  const {left, top, width, height} = a.getBoundingClientRect();
  const found = {
    sizes: [...document.images].map(image => [image.complete, image.naturalWidth, image.naturalHeight]),
    start: visible(), place: [left, top, width, height].map(Math.round)
  };
  slider.focus();
  found.focused = document.activeElement === slider;
  const MOVE_TO = CUT;
  slider.value = MOVE_TO;
  slider.dispatchEvent(new Event("input"));
  found.moved = visible();
  found.spoken = slider.getAttribute("aria-valuetext");
  found.hit = document.elementFromPoint(left + width / 4, top + height / 2) === slider;
  document.body.dataset.found = JSON.stringify(found);
});
</script>
"""


def flat(color: tuple[int, int, int]) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), color, np.uint8)


def page_of(frames: int = 6, names: tuple[str, str] = ("a.mp4", "b.mp4")) -> str:
    compared = comparison([30 + index for index in range(frames)], names)
    shown = [ShownFrame(compared.frames[index], flat(RED), flat(BLUE)) for index in range(0, frames, 3)]
    return comparison_page(compared, shown)


def probed_page(folder: Path, cut: float) -> Path:
    """A page whose own copy of PROBE moves the first slider and notes what it finds."""
    path = folder / "page.html"
    path.write_text(page_of().replace("</body>", PROBE.replace("CUT", str(cut)) + "</body>"))
    return path


@dataclass
class Outline(HTMLParser):
    """Every element's attributes, by tag."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def outline(page: str) -> Outline:
    parser = Outline()
    parser.feed(page)
    return parser


def read_png(data: bytes) -> np.ndarray:
    return next(iter(av.CodecContext.create("png", "r").decode(av.Packet(data)))).to_ndarray(format="rgb24")


def test_a_png_is_lossless():
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    data = png(pixels)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert np.array_equal(read_png(data), pixels)


def test_the_page_names_no_other_file():
    page = page_of()
    assert "://" not in page
    assert "@import" not in page
    assert "url(" not in page
    parser = outline(page)
    assert not parser.of("link")
    assert not any("src" in script for script in parser.of("script"))
    links = [
        value for _, attributes in parser.elements for name, value in attributes.items() if name == "href"
    ]
    ids = {attributes["id"] for _, attributes in parser.elements if "id" in attributes}
    assert links
    assert all(link.removeprefix("#") in ids for link in links)
    images = parser.of("img")
    assert len(images) == 4
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)


def test_the_page_forbids_the_network_itself():
    policy = next(meta for meta in outline(page_of()).of("meta") if "http-equiv" in meta)
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_images_and_sliders_are_named_for_those_who_cannot_see_them():
    parser = outline(page_of())
    assert [image["alt"] for image in parser.of("img")][:2] == ["B, b.mp4, frame 0", "A, a.mp4, frame 0"]
    sliders = [slider for slider in parser.of("input") if slider["type"] == "range"]
    assert [slider["aria-label"] for slider in sliders] == [
        "Frame 0: part of A shown",
        "Frame 3: part of A shown",
    ]
    assert parser.of("html")[0]["lang"] == "en"
    assert parser.of("svg")[0]["aria-label"]


def test_names_are_text_whatever_they_hold():
    page = page_of(names=('<script>alert("x")</script>.mp4', "$pairs & b.mp4"))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)" in page
    assert "$pairs &amp; b.mp4" in page


def test_numbers_of_the_comparison_are_in_the_page():
    page = page_of(2)
    assert "30.50 dB" in page
    assert "(least luma PSNR)" in page
    assert "2 frames of 64x48 pixels" in page


@pytest.mark.parametrize("cut", [25, 80])
def test_a_browser_shows_both_images_and_the_slider_clips(tmp_path, cut):
    dumped = dumped_page(probed_page(tmp_path, cut))
    found = json.loads(outline(dumped).of("body")[0]["data-found"])
    assert found["sizes"] == [[True, WIDTH, HEIGHT]] * 4
    assert found["place"][2:] == [WIDTH, HEIGHT]
    assert clipped(found["start"]) == 50
    assert clipped(found["moved"]) == 100 - cut
    assert found["spoken"] == f"{cut} % A"
    assert found["focused"]
    assert found["hit"]


def clipped(clip_path: str) -> float:
    """Part of the width, in percent, that an `inset()` cuts off on the right."""
    return float(
        re.fullmatch(r"inset\(0(?:px|%)? (?:calc\()?([\d.]+)%\)? 0(?:px|%)? 0(?:px|%)?\)", clip_path)[1]
    )


@pytest.mark.parametrize("cut", [25, 80])
def test_a_screenshot_has_a_left_of_the_slider_and_b_right_of_it(tmp_path, cut):
    page = probed_page(tmp_path, cut)
    left, top, width, height = json.loads(outline(dumped_page(page)).of("body")[0]["data-found"])["place"]
    row = read_png(screenshot(page).read_bytes())[top + height // 2, left : left + width].astype(int)
    middle = width * cut // 100
    # The line between them is some pixels wide.
    assert np.abs(row[: middle - 6] - RED).max() <= 2
    assert np.abs(row[middle + 6 :] - BLUE).max() <= 2
