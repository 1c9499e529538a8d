"""Names of all kinds are files where a file has them; tags that are no UTF-8 pass unchanged."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr_trt.runtime.video.media_open import create_media, exact_fraction, media_url, open_media
from tests.clips import make_clip

NAMES = (
    *("a:b.mkv", "clip[1].mkv", "x%03d.mkv", "100%.mkv", "a*b?.mkv", "http:", "-o.mkv", "two words.mkv"),
    *("line\nbreak.mkv", os.fsdecode(b"\xff\xfe.mkv"), "ä" * 123 + ".mkv", "{1,2}.mkv", "concat:a|b.mkv"),
)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_every_file_is_opened_by_its_name(tmp_path, monkeypatch, name):
    make_clip(tmp_path / "clip.mkv", frames=3).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for spelling in (name, str(tmp_path / name), tmp_path / name):
        with open_media(spelling) as container:
            assert len(list(container.decode(video=0))) == 3


def test_a_url_stays_one_until_a_file_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert media_url("http://host/a.mp4") == "http://host/a.mp4"
    assert media_url("missing:a.mp4") == "file:missing:a.mp4"
    (tmp_path / "http:" / "host").mkdir(parents=True)
    (tmp_path / "http:" / "host" / "a.mp4").touch()
    assert media_url("http://host/a.mp4") == "file:http://host/a.mp4"


def test_tags_that_are_no_text_pass_unchanged(tmp_path):
    tag = os.fsdecode(b"caf\xe9")
    path = tmp_path / "tagged.mkv"
    with path.open("wb") as file, create_media(file, format_name="matroska") as container:
        container.metadata["artist"] = tag
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 160), np.int16), layout=stream.layout.name)
        sound.rate = 8000
        container.mux(stream.encode(sound))
    with open_media(path) as container:
        assert container.metadata["ARTIST"] == tag


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), (Fraction(0), None), (Fraction(30000, 1001), Fraction(30000, 1001))]
)
def test_unknown_rates_are_none(value, expected):
    assert exact_fraction(value) == expected
