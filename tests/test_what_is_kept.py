"""The README's table "what is kept": every cell is a claim, and each is tried."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.clips import irregular_pts, make_clip, make_yuv_clip, probe
from tests.runtime.nearest_session import upscale
from tests.runtime.video.test_carried_side_data import HDR_KINDS, hdr_clip, kinds

README = Path(__file__).parents[1] / "README.md"
HEADING = "| container |"
NOT_HELD = "-"

AUDIO = {
    "AAC": "aac",
    "AC-3": "ac3",
    "MP3": "libmp3lame",
    "Opus": "libopus",
    "FLAC": "flac",
    "PCM": "pcm_s16le",
    "mu-law": "pcm_mulaw",
    "ADPCM": "adpcm_ms",
}
AUDIO_SOURCE = {"ADPCM": "avi", "mu-law": "mov"}
SUBTITLES = {"SRT": ("subrip", "mkv"), "ASS": ("ass", "mkv"), "mov_text": ("mov_text", "mp4")} | {
    "WebVTT": ("webvtt", "webm")
}


def table() -> list[tuple[str, str, str]]:
    """(container, column, cell) of every cell of the README's table."""
    lines = README.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(HEADING))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    columns, _, *body = rows
    return [
        (row[0].strip("`."), column, cell)
        for row in body
        for column, cell in zip(columns[1:], row[1:], strict=True)
    ]


def made(folder, source, extension, **options):
    """The output of a run, and what was said."""
    target = folder / f"out.{extension}"
    _, notices = upscale(source, target, encoder_options={}, **options)
    return target, notices


def timestamps(folder, extension, cell):
    unit = Fraction(1, 1000)
    clip = make_clip(folder / "in.mkv", frames=12, time_base=unit, pts=irregular_pts(12))
    found = probe(made(folder, clip, extension)[0])
    times = [time - found.times[0] for time in found.times]
    wanted = probe(clip).times
    if cell == "one rate":
        assert found.frames == 12
        steps = [round(time * found.rate) for time in times]
        assert steps == sorted(set(steps))
    else:
        tolerance = {"exact": Fraction(0), "1/1000 s": unit / 2, "1/90000 s": Fraction(1, 90000)}[cell]
        assert all(abs(a - b) <= tolerance for a, b in zip(times, wanted, strict=True))


def copied_codec(folder, extension, name):
    codec = AUDIO[name]
    source = make_clip(
        folder / f"{codec}.{AUDIO_SOURCE.get(name, 'mkv')}",
        frames=12,
        codec="mpeg4",
        audio_tracks=1,
        audio_codec=codec,
    )
    target, notices = made(folder, source, extension, overwrite=True)
    before, after = probe(source).audio, probe(target).audio
    # MPEG-TS puts a header before each AAC packet; mp4 gives PCM back in other pieces.
    same = bool(after) and after[0][-1].time >= before[0][-2].time
    assert same != any("is not copied" in line for line in notices), notices
    return bool(after)


def audio(folder, extension, cell):
    claimed = {name.strip() for name in cell.split(",")} - {NOT_HELD}
    assert {name for name in AUDIO if copied_codec(folder, extension, name)} == claimed


def subtitles(folder, extension, cell):
    held = set()
    for name, (codec, kind) in SUBTITLES.items():
        options = (
            {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}
            if kind == "webm"
            else {}
        )
        source = make_clip(folder / f"{codec}.{kind}", frames=12, subtitles=codec, **options)
        target, notices = made(folder, source, extension, overwrite=True)
        lines = probe(target).subtitles
        kept = bool(lines) and any(b"A line" in packet.data for packet in lines[0])
        assert kept != any("is not copied" in line for line in notices), notices
        if kept:
            held.add(name)
    assert held == {name.strip() for name in cell.split(",")} - {NOT_HELD}


def chapters(folder, extension, cell):
    clip = make_clip(folder / "in.mkv", frames=24, chapters=[(0, 400, "one"), (400, 1000, "two")])
    titles = [title for _, _, title in probe(made(folder, clip, extension)[0]).chapters]
    assert titles == (["one", "two"] if cell == "kept" else [])


def colour(folder, extension, cell):
    tags = {"matrix": 9, "color_range": 1, "primaries": 9, "transfer": 14}
    clip = make_yuv_clip(folder / "in.mkv", (120, 110, 140), frames=8, pixel_format="yuv420p", **tags)
    found = probe(made(folder, clip, extension)[0]).color
    wanted = tuple(tags.values())
    assert (found == wanted) == (cell == "kept")


def hdr10(folder, extension, cell):
    target, notices = made(folder, hdr_clip(folder / "in.mkv"), extension)
    assert (sorted(kinds(target)) == HDR_KINDS) == (cell == "kept")
    assert any("HDR10" in line for line in notices) == (cell != "kept")


def alpha(folder, extension, cell):
    def see_through(path):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            decoder = {"vp9": "libvpx-vp9"}.get(stream.codec_context.codec.canonical_name)
            if decoder is None:
                frame = next(container.decode(stream))
            else:
                context = av.codec.CodecContext.create(decoder, "r")
                frame = next(f for p in container.demux(stream) for f in context.decode(p))
            parts = [component for component in frame.format.components if component.is_alpha]
            return bool(parts) and float(frame.to_ndarray(format="rgba")[..., 3].mean()) < 200

    with av.open(str(folder / "in.mov"), "w") as container:
        stream = container.add_stream("prores_ks", rate=24, options={"profile": "4444"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuva444p10le"
        pixels = np.full((48, 64, 4), 128, np.uint8)
        for index in range(4):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
            frame.pts, frame.time_base = index, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    target, notices = made(folder, folder / "in.mov", extension)
    assert see_through(target) == (cell != NOT_HELD)
    assert cell != NOT_HELD or any("alpha" in line for line in notices)


CHECKS = {
    "timestamps": timestamps,
    "audio": audio,
    "subtitles": subtitles,
    "chapters": chapters,
    "colour": colour,
    "HDR10": hdr10,
    "alpha": alpha,
}


@pytest.mark.parametrize(("extension", "column", "cell"), table(), ids=lambda value: value[:12])
def test_what_the_readme_says_is_kept(tmp_path, extension, column, cell):
    CHECKS[column](tmp_path, extension, cell)
