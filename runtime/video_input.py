"""Frames in: any container FFmpeg reads, image sequences and pipes, decoded lazily as RGB."""

import io
import itertools
import logging
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
from av.video.reformatter import VideoReformatter

from flashvsr_trt.errors import TruncatedInputError, UsageError, VideoError
from flashvsr_trt.runtime.damage import DamageWatch
from flashvsr_trt.runtime.frame_facts import announce_losses, display_matrix, error_reason
from flashvsr_trt.runtime.image_input import open_images
from flashvsr_trt.runtime.image_sequence import find_images
from flashvsr_trt.runtime.video_color import read_color_tags, to_rgb
from flashvsr_trt.runtime.video_info import DecodedFrame, VideoInfo, VideoInput

DEFAULT_RATE = Fraction(24)
"""Frames a second of images and raw video when the caller names none (announced)."""

LOG = logging.getLogger(__name__)

STDIN = "-"
BROADCAST_FORMATS = ("mpegts", "mpeg")
"""Formats whose clock starts anywhere: hours of nothing would precede the first frame in an mp4."""


def open_input(
    path: str,
    *,
    start: int = 0,
    frames: int | None = None,
    rate: Fraction | int | None = None,
    raw_size: tuple[int, int] | None = None,
    raw_format: str = "rgb24",
    threads: int = 0,
    notify: Callable[[str], None] = LOG.warning,
) -> VideoInput:
    """Opens a video, a folder, a glob or a `%05d` pattern of images, or `-` (a video on stdin: y4m, raw).

    `start` frames are skipped and at most `frames` given. `rate` (frames a second) is for images and raw
    video. `raw_size` (height, width) and `raw_format` (an FFmpeg pixel format) make the input raw video.
    `threads` 0 leaves the decoder's threads to FFmpeg. `notify` gets one line for each thing a user should
    know: 10-bit input, a rate assumed, and the like.

    Raises UsageError for arguments out of range, VideoError when there is no such file, it is no video, it
    has no video stream or no frames. Iteration raises VideoError on a frame of another size, and
    TruncatedInputError after the last good frame when the input ends early or is corrupt.
    """
    if start < 0:
        raise UsageError(f"start {start} is negative; count frames from 0")
    if frames is not None and frames < 1:
        raise UsageError(f"{frames} frames cannot be made; ask for at least 1")
    if rate is not None and rate <= 0:
        raise UsageError(f"a rate of {rate} frames a second is not possible; use one above 0")
    rate = rate and Fraction(rate)
    images = None if raw_size or path == STDIN else find_images(path)
    if rate is None and (images or raw_size):
        notify(f"{path}: no frame rate given, {DEFAULT_RATE} frames a second assumed")
    if images:
        return open_images(path, images, start, frames, rate or DEFAULT_RATE, notify)
    if rate is not None and not raw_size:
        raise UsageError(f"a rate is for images and raw video; {path} has its own timestamps")
    options = _raw_options(raw_size, raw_format, rate or DEFAULT_RATE) if raw_size else {}
    container = _open_container(path, "rawvideo" if raw_size else None, options)
    try:
        return _open_stream(path, container, start, frames, threads, notify)
    except BaseException:
        container.close()
        raise


def _raw_options(size: tuple[int, int], pixel_format: str, rate: Fraction) -> dict[str, str]:
    return {"video_size": f"{size[1]}x{size[0]}", "pixel_format": pixel_format, "framerate": str(rate)}


def _open_container(path: str, format_name: str | None, options: dict) -> av.container.InputContainer:
    if path != STDIN and "://" not in path and not os.path.exists(path):
        raise VideoError(f"no such file: {path}; check the name")
    try:
        # Unbuffered: a thread blocked in a buffered stdin stops Python from exiting after Ctrl-C.
        file = io.FileIO(sys.stdin.fileno(), closefd=False) if path == STDIN else path
        container = av.open(file, format=format_name, container_options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"{path} cannot be read as a video ({error_reason(error)}); check that the file is complete"
        ) from error
    # PyAV has FFmpeg invent timestamps where a file has none (AVI): those of B-frames would be out of order.
    container.flags &= ~av.container.core.Flags.gen_pts.value
    return container


def _open_stream(
    path: str,
    container: av.container.InputContainer,
    start: int,
    limit: int | None,
    threads: int,
    notify: Callable[[str], None],
) -> VideoInput:
    attached = av.stream.Disposition.attached_pic
    stream = next((s for s in container.streams.video if not s.disposition & attached), None)
    if stream is None:
        kinds = ", ".join(s.type for s in container.streams) or "nothing"
        raise VideoError(f"{path} has no video stream (it holds: {kinds}); name a file with video")
    if stream.codec_context is None:
        raise VideoError(f"{path}: this FFmpeg has no decoder for its video; convert it first")
    stream.thread_type, stream.thread_count = "AUTO", threads

    watch = DamageWatch(container, stream)
    decoded = itertools.islice(_decode(container, stream, watch, notify), start, None)
    first = next(decoded, None)
    if first is None:
        reason = watch.at_end() or (f"it has no frame {start}" if start else "it has no frames")
        raise VideoError(f"no frame of {path} can be decoded: {reason}; nothing is written")
    announce_losses(path, first, notify)

    rate = stream.average_rate or stream.guessed_rate or stream.base_rate or DEFAULT_RATE
    shift = Fraction(0)
    if start:
        shift = start / rate if first.pts is None else first.pts * stream.time_base
    broadcast_start = Fraction(container.start_time or 0, av.time_base)
    if not start and broadcast_start > 0 and container.format.name in BROADCAST_FORMATS:
        shift = broadcast_start
        notify(f"{path}: its clock starts at {float(shift):.3f} s; the output starts at 0")
    total = stream.frames or round(_announced_seconds(container, stream) * rate)
    remaining = max(total - start, 1) if total else None
    info = VideoInfo(
        name=path,
        height=first.height,
        width=first.width,
        rate=rate,
        time_base=stream.time_base,
        color=read_color_tags(first),
        frames=min((count for count in (remaining, limit) if count), default=None),
        sample_aspect_ratio=stream.sample_aspect_ratio or None,
        display_matrix=display_matrix(first),
        metadata=dict(container.metadata),
        stream_metadata=dict(stream.metadata),
        chapters=tuple(container.chapters()),
        copy_from=path if _can_be_read_again(path) else None,
        video_index=stream.index,
        other_streams=len(container.streams) - 1,
        shift=shift,
        trimmed=limit is not None,
    )
    timed = _timed(info, itertools.islice(itertools.chain([first], decoded), limit), notify)
    frames = _until_damage(info, timed, watch, limit)

    def close() -> None:
        # A thread that is blocked in a read of a pipe still uses the container: it goes with the process.
        if not frames.gi_running:
            container.close()

    return VideoInput(info, frames, close)


def _announced_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction:
    """How long the video says it is; 0 when it does not. Matroska says it of each stream in a tag."""
    if stream.duration:
        return stream.duration * stream.time_base
    if clock := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = clock.groups()
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    return Fraction(container.duration or 0, av.time_base)


def _decode(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    watch: DamageWatch,
    notify: Callable[[str], None],
) -> Iterator[av.VideoFrame]:
    """Every frame that can be decoded, in display order; `watch` learns what could not."""
    started = False
    for packet in _read(container, watch):
        watch.saw_packet(packet)
        if packet.stream is not stream:
            continue
        try:
            decoded = packet.decode()
        except av.FFmpegError:
            watch.undecodable += 1
            continue
        if decoded and not started:
            started = True
            if watch.undecodable:
                notify(f"{watch.undecodable} packets before the first key frame were skipped")
                watch.undecodable = 0
        for frame in decoded:
            watch.corrupt_frames += frame.is_corrupt
            yield frame
    try:
        remaining = stream.decode(None)
    except av.FFmpegError:
        watch.undecodable += 1
        return
    for frame in remaining:
        watch.corrupt_frames += frame.is_corrupt
        yield frame


def _read(container: av.container.InputContainer, watch: DamageWatch) -> Iterator[av.Packet]:
    """Packets of all streams, up to the end or the first error."""
    try:
        for packet in container.demux():
            # PyAV marks the end with empty packets; the decoder is flushed once, after errors as well.
            if packet.size or packet.dts is not None:
                watch.undecodable += packet.is_corrupt and packet.stream is watch.stream
                yield packet
    except av.FFmpegError as error:
        watch.read_error = error_reason(error)


def _timed(
    info: VideoInfo, decoded: Iterator[av.VideoFrame], notify: Callable[[str], None]
) -> Iterator[DecodedFrame]:
    """Frames as RGB with timestamps that grow. Raises VideoError when the size changes."""
    reformatter = VideoReformatter()
    shift = round(info.shift / info.time_base)
    usual_duration = max(1, round(1 / (info.rate * info.time_base)))
    expected, last, repaired, delay = 0, None, False, None
    for index, frame in enumerate(decoded):
        if (frame.height, frame.width) != (info.height, info.width):
            raise VideoError(
                f"{info.name}: frame {index} is {frame.width}x{frame.height} and those before are "
                f"{info.width}x{info.height}; split the video where its size changes"
            )
        if frame.pts is not None:
            pts = frame.pts - shift
        elif frame.dts is not None:
            delay = frame.dts - expected if delay is None else delay
            pts = frame.dts - delay
        else:
            pts = expected
        if last is not None and pts <= last:
            pts = last + 1
            if not repaired:
                notify(f"{info.name}: frame {index} does not come after the one before; moved to do so")
            repaired = True
        duration = frame.duration or usual_duration
        expected, last = pts + duration, pts
        yield DecodedFrame(to_rgb(frame, info.color, reformatter), pts, duration)


def _until_damage(
    info: VideoInfo, timed: Iterator[DecodedFrame], watch: DamageWatch, limit: int | None
) -> Iterator[DecodedFrame]:
    """The same frames, then TruncatedInputError when the file was damaged."""
    count = 0
    for frame in timed:
        count += 1
        yield frame
    reason = watch.decoding_failures() if count == limit else watch.at_end()
    if reason:
        raise TruncatedInputError(
            f"{info.name} is damaged or ends early ({reason}); the {count} frames that could be decoded "
            "were used and the output is kept"
        )


def _can_be_read_again(path: str) -> bool:
    return "://" in path or (path != STDIN and stat.S_ISREG(os.stat(path).st_mode))
