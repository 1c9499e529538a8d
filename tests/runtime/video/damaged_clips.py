"""Small clips of every container, and ways to damage them as disks, copies and transmissions do."""

import random
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.clips import gray_level, make_clip

FRAMES = 36
B_FRAMES = {"preset": "medium", "bf": "2", "crf": "20", "g": "12"}
NO_B_FRAMES = {"preset": "ultrafast", "crf": "20", "g": "12"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "12"}
IRREGULAR = [index * 40 + index % 3 * 11 for index in range(FRAMES)]
"""Times of a video of variable rate, in milliseconds."""


@dataclass(frozen=True)
class Kind:
    """A container, and what is in it; `remux` are options of its muxer, for a copy made of the first file."""

    extension: str
    clip: dict = field(default_factory=dict)
    remux: dict[str, str] | None = None


FASTSTART = {"movflags": "faststart"}
KINDS = {
    "mp4": Kind("mp4", {"options": B_FRAMES, "audio_tracks": 1}, FASTSTART),
    "mp4_vfr": Kind("mp4", {"options": NO_B_FRAMES, "pts": IRREGULAR}, FASTSTART),
    "mp4_fragments": Kind(
        "mp4", {"options": B_FRAMES, "audio_tracks": 1}, {"movflags": "frag_keyframe+empty_moov"}
    ),
    "mov_prores": Kind("mov", {"codec": "prores_ks", "pixel_format": "yuv422p10le"}, FASTSTART),
    "mkv": Kind("mkv", {"options": B_FRAMES, "audio_tracks": 1}),
    "mkv_vfr": Kind("mkv", {"options": NO_B_FRAMES, "pts": IRREGULAR}),
    "mkv_ffv1": Kind("mkv", {"codec": "ffv1"}),
    "webm": Kind(
        "webm", {"codec": "libvpx-vp9", "options": VP9, "audio_tracks": 1, "audio_codec": "libopus"}
    ),
    "avi": Kind("avi", {"options": NO_B_FRAMES, "audio_tracks": 1, "audio_codec": "libmp3lame"}),
    "avi_mpeg4": Kind("avi", {"codec": "mpeg4", "audio_tracks": 1, "audio_codec": "ac3"}),
    "avi_mjpeg": Kind("avi", {"codec": "mjpeg", "pixel_format": "yuvj420p"}),
    "flv": Kind("flv", {"options": B_FRAMES}),
    "ts": Kind("ts", {"options": B_FRAMES, "audio_tracks": 1}),
    "ts_video": Kind("ts", {"options": NO_B_FRAMES}),
    "ts_mpeg2": Kind(
        "ts", {"codec": "mpeg2video", "options": {"bf": "2"}, "audio_tracks": 1, "audio_codec": "mp2"}
    ),
    "mpg": Kind(
        "mpg", {"codec": "mpeg2video", "options": {"bf": "2"}, "audio_tracks": 1, "audio_codec": "mp2"}
    ),
    "y4m": Kind("y4m", {"codec": "wrapped_avframe"}),
}


def moving_picture(index: int, height: int, width: int) -> np.ndarray:
    """uint8 RGB: the frame's own gray with noise, so that frames have bytes to damage."""
    picture = np.full((height, width, 3), gray_level(index), np.int16)
    noise = np.random.default_rng(index).integers(-25, 25, (height // 2, width, 1))
    picture[: height // 2] += noise.astype(np.int16)
    return picture.clip(0, 255).astype(np.uint8)


def make_kind(folder: Path, name: str) -> Path:
    """Writes the whole clip of a kind, of `FRAMES` frames."""
    kind = KINDS[name]
    options = {"rate": 25, "frames": FRAMES, "picture": moving_picture, **kind.clip}
    if "pts" in options:
        options["time_base"] = Fraction(1, 1000)
    clip = make_clip(folder / f"{name}.{kind.extension}", **options)
    return clip if kind.remux is None else remux(clip, folder / f"{name}_copy.{kind.extension}", **kind.remux)


def remux(source: Path, target: Path, *, begin: float | None = None, offset: int = 0, **options: str) -> Path:
    """Copies all streams without their encoding, from `begin` seconds on, `offset` seconds later."""
    with av.open(str(source)) as old, av.open(str(target), "w", container_options=options) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        if begin is not None:
            old.seek(int(begin * av.time_base))
        for packet in old.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                ticks = int(offset / packet.time_base)
                packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
                new.mux(packet)
    return target


def zero_middle(data: bytes) -> bytes:
    """A tenth of the file, from its middle on, is zeros."""
    middle, tenth = len(data) // 2, len(data) // 10
    return data[:middle] + bytes(tenth) + data[middle + tenth :]


def cut_middle(data: bytes) -> bytes:
    """A tenth of the file, from its middle on, is missing."""
    return data[: len(data) // 2] + data[len(data) // 2 + len(data) // 10 :]


def insert(data: bytes) -> bytes:
    """A thousand bytes that belong elsewhere are in the middle."""
    return data[: len(data) // 2] + random.Random(0).randbytes(1000) + data[len(data) // 2 :]


def halve(data: bytes) -> bytes:
    """The second half is missing, from an odd byte on: between two packets of a TS no trace would be left."""
    return data[: len(data) // 2 | 1]


def cut_end(data: bytes) -> bytes:
    """The last twelfth is missing."""
    return data[: -(len(data) // 12)]


DAMAGES = {
    "zeroed middle": zero_middle,
    "cut middle": cut_middle,
    "bytes inserted": insert,
    "cut in half": halve,
    "cut end": cut_end,
}


def mutate(data: bytes, seed: int) -> bytes:
    """One of many damages, drawn by `seed`: bits flipped, parts zeroed, cut, inserted, doubled or lost."""
    drawn = random.Random(seed)
    place = drawn.randrange(len(data))
    length = min(len(data) - place, int(2 ** drawn.uniform(2, 13)))
    part = data[place : place + length]
    kind = drawn.choice(("zero", "cut", "insert", "flip", "end", "double", "noise"))
    if kind == "flip":
        damaged = bytearray(data)
        for _ in range(drawn.choice((1, 3, 20))):
            damaged[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
        return bytes(damaged)
    if kind == "end":
        return data[: max(place, len(data) // 5)]
    middle = {
        "zero": bytes(length),
        "cut": b"",
        "insert": drawn.randbytes(length) + part,
        "double": part + part,
        "noise": drawn.randbytes(length),
    }[kind]
    return data[:place] + middle + data[place + length :]


def decodable(path: Path) -> int:
    """Frames that PyAV alone gives of a file, whatever is wrong with it."""
    try:
        container = av.open(str(path))
    except (av.FFmpegError, ValueError):
        return 0
    with container:
        if not container.streams.video:
            return 0
        stream, frames = container.streams.video[0], 0
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.FFmpegError, IndexError):
                break
            if packet is None:
                break
            if packet.size or packet.dts is not None:
                frames += _decoded(stream, packet)
        return frames + _decoded(stream, None)


def _decoded(stream: av.VideoStream, packet: av.Packet | None) -> int:
    try:
        return len(stream.decode(packet))
    except av.FFmpegError:
        return 0
