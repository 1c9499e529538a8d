"""Small test videos, made with PyAV, and a probe that reads back what a video file says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
from av.subtitles.subtitle import SubtitleSet

AUDIO_RATE = 48000
ASS_HEADER = b"[Script Info]\n[V4+ Styles]\nFormat: Name\nStyle: Default\n[Events]\n"
NTSC = Fraction(30000, 1001)


def gray_level(index: int) -> int:
    """The gray that frame `index` of a clip is filled with: neighbours differ by more than coding noise."""
    return 30 + index * 37 % 190


def gray_frame(index: int, height: int, width: int) -> np.ndarray:
    """uint8 RGB [H, W, 3] of one gray."""
    return np.full((height, width, 3), gray_level(index), np.uint8)


def irregular_pts(frames: int) -> list[int]:
    """Timestamps in milliseconds that grow by 11 to 90."""
    return [0, *accumulate(11 + index * 29 % 80 for index in range(frames - 1))]


def make_clip(
    path: Path,
    *,
    frames: int = 8,
    size: tuple[int, int] = (48, 64),
    rate: Fraction | int = 24,
    time_base: Fraction | None = None,
    pts: Sequence[int] | None = None,
    picture: Callable[[int, int, int], np.ndarray] = gray_frame,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    audio_tracks: int = 0,
    audio_codec: str = "aac",
    subtitles: str | None = None,
    chapters: Sequence[tuple[int, int, str]] = (),
    metadata: Mapping[str, str] | None = None,
    rotation: int | None = None,
    sample_aspect_ratio: Fraction | None = None,
) -> Path:
    """Writes a clip. `pts` are in `time_base` (default 1 / rate); chapters in milliseconds with titles.

    `picture(index, height, width)` gives uint8 RGB. Audio runs as long as the video. `subtitles` is a codec
    name, for one line in the first half second.
    """
    rate = Fraction(rate)
    time_base = time_base or 1 / rate
    pts = list(range(frames)) if pts is None else list(pts)
    height, width = size
    options = {"preset": "ultrafast", "crf": "8"} if codec == "libx264" and options is None else options
    with av.open(str(path), "w", container_options=_keep_all_tags(path)) as container:
        video = container.add_stream(codec, rate=rate, options=dict(options or {}), time_base=time_base)
        video.height, video.width, video.pix_fmt = height, width, pixel_format
        if sample_aspect_ratio:
            video.codec_context.sample_aspect_ratio = sample_aspect_ratio
        if rotation:
            video.set_display_rotation(rotation)
        audio = [container.add_stream(audio_codec, rate=AUDIO_RATE) for _ in range(audio_tracks)]
        text = container.add_stream(subtitles) if subtitles else None
        if text is not None:
            text.subtitle_header = ASS_HEADER
        container.metadata.update(metadata or {})
        container.set_chapters(
            [
                {
                    "id": n,
                    "start": start,
                    "end": end,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": title},
                }
                for n, (start, end, title) in enumerate(chapters, start=1)
            ]
        )
        for index, stamp in enumerate(pts):
            frame = av.VideoFrame.from_ndarray(picture(index, height, width), format="rgb24")
            frame.pts, frame.time_base = stamp, time_base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for number, stream in enumerate(audio):
            _add_tone(container, stream, float((pts[-1] + 1) * time_base), 220 * (number + 1))
        if text is not None:
            line = SubtitleSet.create(b"0,0,Default,,0,0,0,,A line", 0, 400, 0)
            packet = text.codec_context.encode_subtitle(line)
            packet.stream, packet.time_base = text, Fraction(1, 1000)
            packet.pts = packet.dts = 0
            packet.duration = 400
            container.mux(packet)
    return path


def make_yuv_clip(
    path: Path,
    yuv: tuple[int, int, int],
    *,
    frames: int = 2,
    size: tuple[int, int] = (48, 64),
    pixel_format: str = "yuv444p",
    matrix: int = 2,
    color_range: int = 0,
    primaries: int = 2,
    transfer: int = 2,
) -> Path:
    """Writes frames whose three planes hold exactly these numbers (lossless), tagged as said (H.273)."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=24, options={"preset": "ultrafast", "qp": "0"})
        video.height, video.width, video.pix_fmt = *size, pixel_format
        encoder = video.codec_context
        encoder.colorspace, encoder.color_range = matrix, color_range
        encoder.color_primaries, encoder.color_trc = primaries, transfer
        for index in range(frames):
            frame = av.VideoFrame(size[1], size[0], pixel_format)
            for plane, value in zip(frame.planes, yuv, strict=True):
                sample = np.uint16 if "10le" in pixel_format else np.uint8
                plane.update(np.full(plane.buffer_size // sample().nbytes, value, sample).tobytes())
            frame.pts = index
            frame.colorspace, frame.color_range = matrix, color_range
            frame.color_primaries, frame.color_trc = primaries, transfer
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    return path


def make_images(folder: Path, *, frames: int = 5, size: tuple[int, int] = (48, 64), first: int = 1) -> Path:
    """Writes `00001.png` and so on, each of its own gray."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(frames):
        with av.open(str(folder / f"{first + index:05d}.png"), "w", format="image2") as container:
            stream = container.add_stream("png", rate=24)
            stream.height, stream.width, stream.pix_fmt = *size, "rgb24"
            frame = av.VideoFrame.from_ndarray(gray_frame(index, *size), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return folder


@dataclass(frozen=True)
class CopiedPacket:
    """A packet of an audio or subtitle stream: its time in seconds, and its bytes."""

    time: Fraction
    data: bytes


@dataclass(frozen=True)
class Probe:
    """What a video file says, read with PyAV alone."""

    frames: int
    size: tuple[int, int]
    rate: Fraction
    time_base: Fraction
    pts: tuple[int, ...]
    durations: tuple[int, ...]
    levels: tuple[int, ...]
    """Gray level in the middle of each frame, as FFmpeg converts it."""
    codec: str
    pixel_format: str
    color: tuple[int, int, int, int]
    """Matrix, range, primaries, transfer (H.273)."""
    planes: tuple[int, ...]
    """The number in the middle of each plane of the first frame."""
    rotation: int
    sample_aspect_ratio: Fraction | None
    audio: tuple[tuple[CopiedPacket, ...], ...]
    subtitles: tuple[tuple[CopiedPacket, ...], ...]
    chapters: tuple[tuple[Fraction, Fraction, str], ...]
    metadata: dict[str, str]

    @property
    def times(self) -> list[Fraction]:
        """When each frame is shown, in seconds."""
        return [pts * self.time_base for pts in self.pts]


def probe(path: Path | str) -> Probe:
    """Reads a video file whole."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        frames = list(container.decode(video))
        first = frames[0]
        return Probe(
            frames=len(frames),
            size=(first.height, first.width),
            rate=video.average_rate,
            time_base=video.time_base,
            pts=tuple(frame.pts for frame in frames),
            durations=tuple(frame.duration for frame in frames),
            levels=tuple(int(frame.to_ndarray(format="gray")[frame.height // 2, 8]) for frame in frames),
            codec=video.codec_context.name,
            pixel_format=first.format.name,
            color=(first.colorspace, first.color_range, first.color_primaries, first.color_trc),
            planes=tuple(_middle(plane, first.format.components[0].bits) for plane in first.planes),
            rotation=first.rotation,
            sample_aspect_ratio=video.sample_aspect_ratio,
            audio=_packets(path, "audio"),
            subtitles=_packets(path, "subtitle"),
            chapters=tuple(
                (c["start"] * c["time_base"], c["end"] * c["time_base"], c["metadata"].get("title", ""))
                for c in container.chapters()
            ),
            metadata=dict(container.metadata),
        )


def _keep_all_tags(path: Path) -> dict[str, str]:
    return {"movflags": "use_metadata_tags"} if path.suffix in (".mp4", ".mov") else {}


def _add_tone(container: av.container.OutputContainer, stream: av.AudioStream, seconds: float, hertz: int):
    samples = np.arange(max(int(seconds * AUDIO_RATE), 1024))
    tone = (0.2 * np.sin(2 * np.pi * hertz * samples / AUDIO_RATE)).astype(np.float32)
    for first in range(0, len(tone), 1024):
        stereo = np.stack([tone[first : first + 1024]] * 2)
        interleaved = np.ascontiguousarray(stereo.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = AUDIO_RATE, first, Fraction(1, AUDIO_RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def _packets(path: Path | str, kind: str) -> tuple[tuple[CopiedPacket, ...], ...]:
    with av.open(str(path)) as container:
        streams = [stream for stream in container.streams if stream.type == kind]
        if not streams:
            return ()
        packets = {stream.index: [] for stream in streams}
        for packet in container.demux(streams):
            if packet.size:
                packets[packet.stream.index].append(
                    CopiedPacket(packet.pts * packet.time_base, bytes(packet))
                )
        return tuple(tuple(found) for found in packets.values())


def _middle(plane: av.video.plane.VideoPlane, bits: int) -> int:
    samples = np.frombuffer(plane, np.uint16 if bits > 8 else np.uint8)
    row = plane.line_size // samples.itemsize
    return int(samples[plane.height // 2 * row + plane.width // 2])
