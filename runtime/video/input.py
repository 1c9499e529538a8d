"""Frames in: any container FFmpeg reads, image sequences and pipes, decoded lazily as RGB."""

import inspect
import itertools
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack
from fractions import Fraction

import av
from av.container import InputContainer
from av.container.core import Flags
from av.error import FFmpegError

from flashvsr_trt.errors import TruncatedInputError, UsageError, VideoError
from flashvsr_trt.files.image_sequence import find_images
from flashvsr_trt.files.targets import local_path
from flashvsr_trt.notices import Notify, log_notice
from flashvsr_trt.runtime.request import INPUT_DEFAULTS, InputOptions
from flashvsr_trt.runtime.video.beside import side_data
from flashvsr_trt.runtime.video.container_rules import stream_kind
from flashvsr_trt.runtime.video.damage import DamageWatch
from flashvsr_trt.runtime.video.ffmpeg_log import FFmpegLog
from flashvsr_trt.runtime.video.file_end import CountedPipe, file_size, indexed_frames, what_is_cut
from flashvsr_trt.runtime.video.frame_clock import (
    ClipEnd,
    ClipRange,
    FrameClock,
    TimedFrame,
    shown_until_next,
)
from flashvsr_trt.runtime.video.frame_filter import progressive_frames
from flashvsr_trt.runtime.video.frame_reader import read_frames
from flashvsr_trt.runtime.video.info import DecodedFrame, VideoInfo, VideoInput
from flashvsr_trt.runtime.video.media_open import (
    error_reason,
    exact_fraction,
    find_pixel_format,
    is_url,
    open_media,
)
from flashvsr_trt.runtime.video.packet_times import JUMPING_FORMATS, clock_unit
from flashvsr_trt.runtime.video.picture import PictureReader, container_crop, display_matrix

DEFAULT_RATE = Fraction(24)
"""Frames a second of images and raw video when the caller names none (announced)."""

STDIN = "-"


def open_input(
    path: str,
    options: InputOptions = INPUT_DEFAULTS,
    notify: Notify = log_notice,
) -> VideoInput:
    """Opens a video, a folder, a glob or a `%05d` pattern of images, or `-` (a video on stdin: y4m, raw).

    `notify` gets one line for each thing a user should know: 10-bit input, a rate assumed, and the like.

    Raises UsageError for arguments out of range, VideoError when there is no such file, it is no video, it
    has no video stream or no frames. Iteration raises VideoError on a frame of another size, and
    TruncatedInputError after the last good frame when the input ends early or is corrupt.
    """
    path, rate, raw_size = local_path(path), options.rate, options.raw_size
    if options.frames is not None and options.duration is not None:
        raise UsageError("a number of frames and a duration say the same twice; leave one out")
    length = options.duration if options.frames is None else options.frames
    part = ClipRange(options.start, options.end, length)
    if rate is not None and rate <= 0:
        raise UsageError(f"a rate of {rate} frames a second is not possible; use one above 0")
    rate = rate and Fraction(rate)
    images = None if raw_size or path == STDIN else find_images(path)
    if rate is None and (images or raw_size):
        notify(f"{path}: no frame rate given, {DEFAULT_RATE} frames a second assumed")
    if images:
        rate = rate or DEFAULT_RATE
        return open_images(path, images, *part.in_frames(rate), rate, notify)
    if rate is not None and not raw_size:
        raise UsageError(f"a rate is for images and raw video; {path} has its own timestamps")
    raw: dict[str, str] = {}
    if raw_size:
        shape = f"{raw_size[1]}x{raw_size[0]}"
        framerate = str(rate or DEFAULT_RATE)
        raw = {
            "video_size": shape,
            "pixel_format": find_pixel_format(options.raw_format).name,
            "framerate": framerate,
        }
    with ExitStack() as opened:
        log = FFmpegLog()
        opened.callback(log.close)
        container, pipe = _open_container(path, raw, log)
        opened.callback(container.close)
        video = _open_stream(path, container, pipe, part, options, log, notify)
        opened.pop_all()  # now it is the video's to close
    return video


def _open_container(
    path: str, raw: Mapping[str, str], log: FFmpegLog
) -> tuple[InputContainer, CountedPipe | None]:
    if path != STDIN and not is_url(path) and not os.path.exists(path):
        raise VideoError(f"no such file: {path}; check the name")
    try:
        pipe = CountedPipe(sys.stdin.fileno()) if path == STDIN else None
        with log.listening():
            container = open_media(pipe or path, format_name="rawvideo" if raw else None, options=raw)
    except (FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"{path} cannot be read as a video ({error_reason(error)}); check that the file is complete"
        ) from error
    # PyAV has FFmpeg invent timestamps where a file has none (AVI): those of B-frames would be out of order.
    container.flags &= ~Flags.gen_pts.value
    return container, pipe


def _open_stream(
    path: str,
    container: InputContainer,
    pipe: CountedPipe | None,
    part: ClipRange,
    options: InputOptions,
    log: FFmpegLog,
    notify: Notify,
) -> VideoInput:
    stream = next((s for s in container.streams.video if stream_kind(s) == "video"), None)
    if stream is None:
        kinds = ", ".join(s.type for s in container.streams) or "nothing"
        raise VideoError(f"{path} has no video stream (it holds: {kinds}); name a file with video")
    if stream.codec_context is None:
        raise VideoError(f"{path}: this FFmpeg has no decoder for its video; convert it first")
    # With threads by frame an error comes with a later packet, or takes what is behind it along at the end.
    stream.thread_type, stream.thread_count = "SLICE", options.threads

    rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    rate = next(filter(None, map(exact_fraction, rates)), DEFAULT_RATE)
    time_base = clock_unit(stream)
    log.codec = stream.codec_context.name
    watch = DamageWatch(container, stream, rate, log)
    announced = _announced_seconds(container, stream)
    begin = Fraction(container.start_time or 0, av.time_base)
    clock = FrameClock(path, time_base, rate, announced and begin + announced, notify)
    decoded = read_frames(container, stream, watch, log, notify, options.threads)
    timed = clock.timed(progressive_frames(path, decoded, options.deinterlace))
    origin = max(begin, Fraction(0))
    skipped, begun = part.first(timed, origin, time_base)
    if begun is None:
        late = f"it has only {skipped} frames, and none from the start that was asked for on"
        reason = watch.at_end() or (late if skipped else "it has no frames")
        raise VideoError(f"no frame of {path} can be decoded: {reason}; nothing is written")
    first, first_time = begun.frame, begun.pts * time_base
    crop = container_crop(container, stream)
    reader = PictureReader(path, first, stream.codec_context.name, notify, crop)

    shift = first_time if part.start else min(first_time, Fraction(0))
    if begin and container.format.name in JUMPING_FORMATS:
        watch.origin = begin
        if not part.start:  # their clock starts anywhere: hours of nothing would precede the first frame
            shift = begin
            notify(f"{path}: its clock starts at {float(shift):.3f} s; the output starts at 0")
    total = stream.frames or round(announced * rate)
    # A file, or a URL; what else is there, a pipe or a device, is read once.
    readable_again = path != STDIN and (os.path.isfile(path) or not os.path.exists(path))
    end = part.clip_end(skipped, first_time, origin, shift, time_base)
    info = VideoInfo(
        name=path,
        height=reader.size[0],
        width=reader.size[1],
        rate=rate,
        time_base=time_base,
        color=reader.color,
        bits=reader.bits,
        alpha=reader.alpha,
        chroma_location=reader.chroma_location,
        frames=_expected_frames(total - skipped if total else None, end, rate * time_base),
        sample_aspect_ratio=exact_fraction(stream.sample_aspect_ratio),
        display_matrix=display_matrix(first),
        disposition=int(stream.disposition),
        metadata=dict(container.metadata),
        stream_metadata=dict(stream.metadata),
        chapters=tuple(container.chapters()),
        copy_from=path if readable_again else None,
        video_index=stream.index,
        other_streams=len(container.streams) - 1,
        shift=shift,
        cut=shift - origin,
        side_data=side_data(first),
        skipped=skipped,
        trimmed=part.end is not None or part.length is not None,
    )

    def cut_off() -> str | None:
        size = pipe.count if pipe else file_size(path)
        if container.format.name == "avi" and not pipe and size:
            watch.indexed = indexed_frames(path, size, stream.index)
        return what_is_cut(None if pipe else path, container.format.name, watch.read_to, size)

    pictures = _read_pictures(reader, itertools.chain([begun], timed), round(shift / time_base))
    frames = _until_damage(info, shown_until_next(pictures, end), watch, end, cut_off)

    def close() -> None:
        # A thread that is blocked in a read of a pipe still uses the container: it goes with the process.
        if inspect.getgeneratorstate(frames) != inspect.GEN_RUNNING:
            # The decoder's threads may still have something to say: they end before the log does.
            stream.codec_context.flush_buffers()
            log.close()
            container.close()

    return VideoInput(info, frames, close)


def _expected_frames(remaining: int | None, end: ClipEnd, frames_a_tick: Fraction) -> int | None:
    """How many frames there will be, as far as the file and the end that was asked for say."""
    in_time = None if end.pts is None else round(end.pts * frames_a_tick)
    known = [max(count, 1) for count in (remaining, end.count, in_time) if count is not None]
    return min(known, default=None)


def _announced_seconds(container: InputContainer, stream: av.VideoStream) -> Fraction:
    """How long the video says it is; 0 when it does not. Matroska says it of each stream in a tag."""
    if stream.duration:
        return stream.duration * clock_unit(stream)
    if clock := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = clock.groups()
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    return Fraction(container.duration or 0, av.time_base)


def _read_pictures(reader: PictureReader, frames: Iterable[TimedFrame], shift: int) -> Iterator[DecodedFrame]:
    """Frames as RGB, their times less `shift`. Raises VideoError when the size changes."""
    for index, timed in enumerate(frames):
        pixels, beside = reader.read(timed.frame, index)
        yield DecodedFrame(pixels, timed.pts - shift, timed.duration, beside)


def _until_damage(
    info: VideoInfo,
    timed: Iterator[DecodedFrame],
    watch: DamageWatch,
    clip_end: ClipEnd,
    cut_off: Callable[[], str | None],
) -> Generator[DecodedFrame, None, None]:
    """The same frames, then TruncatedInputError when the file was damaged."""
    count, last, next_pts = 0, Fraction(0), 0
    for frame in timed:
        count += 1
        last, next_pts = frame.pts * info.time_base, frame.pts + frame.duration
        yield frame
    if clip_end.reached(count, next_pts):
        reason = watch.so_far(last + info.shift)
    else:
        watch.cut_off = cut_off()
        reason = watch.at_end()
    if reason:
        raise TruncatedInputError(
            f"{info.name} is damaged or ends early ({reason}); the {count} frames that could be decoded "
            "were used and the output is kept"
        )


def open_images(
    path: str, images: list[str], start: int, limit: int | None, rate: Fraction, notify: Notify
) -> VideoInput:
    """The images that `path` names as a video of `rate` frames a second; each is opened when its turn comes.

    Raises VideoError when the first cannot be read. Iteration raises VideoError for another size, and
    TruncatedInputError at the first image that cannot be read.
    """
    total = len(images)
    images = images[start:][:limit]
    if not images:
        raise VideoError(f"{path} has only {total} images and none from {start} on; start earlier")
    try:
        first, codec = _decode_image(images[0])
    except (FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"{images[0]} cannot be read as an image ({error_reason(error)}); remove it"
        ) from error
    reader = PictureReader(path, first, codec, notify, turn=True)
    info = VideoInfo(
        name=path,
        height=reader.size[0],
        width=reader.size[1],
        rate=rate,
        time_base=1 / rate,
        color=reader.color,
        bits=reader.bits,
        alpha=reader.alpha,
        chroma_location=reader.chroma_location,
        frames=len(images),
        cut=start / rate,
    )
    return VideoInput(info, _image_frames(reader, images), lambda: None)


def _image_frames(reader: PictureReader, images: list[str]) -> Iterator[DecodedFrame]:
    for index, image in enumerate(images):
        try:
            frame, _ = _decode_image(image)
        except (FFmpegError, OSError, ValueError) as error:
            raise TruncatedInputError(
                f"{image} cannot be read ({error_reason(error)}); "
                f"the {index} images before it were used and the output is kept"
            ) from error
        pixels, beside = reader.read(frame, index, image)
        yield DecodedFrame(pixels, index, 1, beside)


def _decode_image(path: str) -> tuple[av.VideoFrame, str]:
    """The picture and the name of its decoder. Raises ValueError where there is none, as in a sound file."""
    with open_media(path) as container:
        streams = container.streams.video
        frame = next(container.decode(streams[0]), None) if streams else None
        if frame is None:
            raise ValueError("it holds no picture")
        return frame, streams[0].codec_context.name
