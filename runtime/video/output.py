"""Frames out: a file that appears under its name only when it is complete."""

from functools import partial
from typing import cast

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.stream import Disposition

from flashvsr_trt.errors import UsageError, VideoError
from flashvsr_trt.files.new import NewFile, OpenedFile, is_stream, new_file, write_errors
from flashvsr_trt.files.targets import check_outputs, local_path
from flashvsr_trt.notices import Notify, log_notice
from flashvsr_trt.runtime.request import OUTPUT_DEFAULTS, OutputOptions
from flashvsr_trt.runtime.video.beside import NOTHING, Beside, LossReport, loaded, side_data
from flashvsr_trt.runtime.video.color import has_alpha
from flashvsr_trt.runtime.video.container_rules import holds_video
from flashvsr_trt.runtime.video.encoder import EncoderSettings, choose_encoder
from flashvsr_trt.runtime.video.encoder_timing import EncoderTiming, choose_rate
from flashvsr_trt.runtime.video.image_output import ImageOutput, is_image_output
from flashvsr_trt.runtime.video.info import FrameOutput, VideoInfo, VideoInput
from flashvsr_trt.runtime.video.media_open import SLOT_FORMATS, create_media, format_of_name, open_media
from flashvsr_trt.runtime.video.packet_times import MuxerClock, due
from flashvsr_trt.runtime.video.picture import PictureWriter
from flashvsr_trt.runtime.video.stream_copy import StreamCopy
from flashvsr_trt.runtime.video.stream_plan import StreamPlanner
from flashvsr_trt.runtime.video.tags import kept_chapters, moved_tags, muxer_options

STREAM_FORMAT = "matroska"
"""What goes to stdout and to pipes whose name says nothing: it needs no seeking and holds all streams."""

WRITE_BUFFER = 1 << 20
"""Bytes handed to the file at a time."""

APPLE_HEVC_TAG = "hvc1"
"""The mp4 tag under which Apple's players take HEVC; FFmpeg's default is hev1."""


VPX_ENCODERS, ALPHA_TAG = ("libvpx", "libvpx-vp9"), "alpha_mode"
"""Players look for alpha in VP8 and VP9 where this tag says 1."""


def open_output(
    path: str,
    source: VideoInput,
    size: tuple[int, int],
    options: OutputOptions = OUTPUT_DEFAULTS,
    *,
    upscaled: tuple[int, int] | None = None,
    notify: Notify = log_notice,
) -> FrameOutput:
    """Opens `path` for frames of `size` (height, width) made from `source`.

    A folder (an existing one, or a name that ends in a slash or has no extension) or a `%05d.png` pattern
    makes a PNG sequence, and a `.png` one picture. Audio, subtitles, chapters and metadata of `source` are
    copied, or converted as the options say. `upscaled` is the size before --fit crop took the middle.
    `notify` gets one line for each thing that is not kept or was chosen.

    Raises UsageError for a codec, pixel format or crf that cannot be used, an output that exists without
    `overwrite`, is the input or is being written by another run; VideoError when the folder cannot be
    written. `write` and `finish` raise VideoError when the disk is full.

    A pipe that is there takes the video as it is made, if its container can do without seeking (.mkv, .ts).
    """
    info, path, upscaled = source.info, local_path(path), upscaled or size
    if is_image_output(path):
        return ImageOutput(path, info, size, upscaled, options, notify)
    check_outputs({"the output": path}, [info.name], options.overwrite)
    container_format = options.container or _container_format(path)
    if container_format.startswith("image2"):
        return ImageOutput(path, info, size, upscaled, options, notify)
    settings = choose_encoder(container_format, size, info, options, notify)
    pictures = PictureWriter(info, size, upscaled, settings.pixel_format, settings.chroma_location)
    with write_errors(path, VideoError):
        file = new_file(path, overwrite=options.overwrite)
        try:
            return VideoOutput(file, container_format, info, size, settings, pictures, options, notify)
        except BaseException:
            file.abort()
            raise


def _container_format(path: str) -> str:
    try:
        return format_of_name(path).name
    except ValueError as error:
        if is_stream(path):
            return STREAM_FORMAT
        raise UsageError(
            f"the extension of {path} names no container; use .mp4, .mkv, .mov, .webm, a folder, or a "
            "pattern of pictures such as out/%05d.png"
        ) from error


class VideoOutput(FrameOutput):
    """An encoded file with the other streams of its input. Use `open_output` to make one."""

    def __init__(
        self,
        new: NewFile | OpenedFile,
        container_format: str,
        info: VideoInfo,
        size: tuple[int, int],
        settings: EncoderSettings,
        pictures: PictureWriter,
        wanted: OutputOptions,
        notify: Notify,
    ) -> None:
        self._new = new
        self._info, self._settings = info, settings
        self._losses = LossReport(info.name, settings.codec, notify)
        self._losses.saw(info.side_data)
        self._pictures, self._color = pictures, pictures.color
        metadata = moved_tags(info.metadata, info)
        options = muxer_options(container_format, metadata)
        self._container = create_media(
            new.file, format_name=container_format, options=options, buffer_size=WRITE_BUFFER
        )
        self._slot_rate = choose_rate(info) if container_format in SLOT_FORMATS else None
        if container_format == "yuv4mpegpipe":
            self._slot_rate = info.rate
        self._stream = self._add_video_stream(self._container, size, wanted.threads)
        add_trial, codec = partial(self._add_video_stream, threads=1), self._stream.codec_context.codec
        video = holds_video(container_format, options, add_trial, codec.canonical_name, size)
        if video is None:
            raise UsageError(
                f"{container_format} cannot hold {settings.codec}; use another codec or extension"
            )
        self._container.metadata.update(metadata)
        if not info.trimmed:
            self._container.set_chapters(kept_chapters(info))
        self._mux, self._copy = MuxerClock(self._container), None
        if info.copy_from and info.other_streams:
            with open_media(info.copy_from) as others:
                planner = StreamPlanner(container_format, options, video, wanted, notify)
                planned = planner.plan(others, info.video_index)
            self._copy = StreamCopy(info.copy_from, info.shift, self._container, self._mux, planned, notify)
        elif info.other_streams:
            notify(
                f"{info.name} can be read only once: its {info.other_streams} other streams are not copied"
            )
        self._timing = EncoderTiming(info, self._stream, self._mux, self._slot_rate, self._copy, notify)

    def _add_video_stream(
        self, output: OutputContainer, size: tuple[int, int], threads: int
    ) -> av.VideoStream:
        info, settings = self._info, self._settings
        rate, time_base = info.rate, info.time_base
        if self._slot_rate:
            rate, time_base = self._slot_rate, 1 / self._slot_rate
        try:
            options = dict(settings.options)
            made = output.add_stream(settings.codec, rate=rate, options=options, time_base=time_base)
        except ValueError as error:
            raise UsageError(
                f"{output.format.name} cannot hold {settings.codec}; use another codec or extension"
            ) from error
        stream = cast(av.VideoStream, made)
        encoder = stream.codec_context
        encoder.height, encoder.width = size
        encoder.pix_fmt, encoder.thread_count = settings.pixel_format, threads
        encoder.colorspace, encoder.color_range = self._color.matrix, self._color.color_range
        encoder.color_primaries, encoder.color_trc = self._color.primaries, self._color.transfer
        if info.sample_aspect_ratio:
            encoder.sample_aspect_ratio = info.sample_aspect_ratio
        if output.format.name in ("mp4", "mov") and encoder.codec.canonical_name == "hevc":
            encoder.codec_tag = APPLE_HEVC_TAG
        if self._slot_rate and "bf" not in settings.options:
            # Slots are in the order of decoding: nothing says when B-frames are shown.
            encoder.max_b_frames = 0
        stream.set_display_matrix(info.display_matrix)
        stream.disposition = Disposition(info.disposition)
        stream.metadata.update(moved_tags(info.stream_metadata, info))
        if encoder.name in VPX_ENCODERS and has_alpha(av.VideoFormat(settings.pixel_format)):
            stream.metadata[ALPHA_TAG] = "1"
        try:
            encoder.open()
        except FFmpegError as error:
            raise UsageError(
                f"the encoder {settings.codec} refuses {size[1]}x{size[0]} {settings.pixel_format} with "
                f"options {dict(settings.options)} ({error.strerror}); change the options, or the codec: "
                "`run --list-codecs` says which open here"
            ) from error
        if unused := sorted(set(settings.options) & set(encoder.options)):
            raise UsageError(f"the encoder {settings.codec} has no option {', '.join(unused)}; leave it out")
        return stream

    def write(self, pixels: np.ndarray, pts: int, duration: int, beside: Beside = NOTHING) -> None:
        """Encodes one frame and writes what is ready, with the copied streams up to there."""
        with write_errors(self._new.path, VideoError):
            frame = self._pictures.frame(pixels, beside)
            if beside.carrier:
                self._losses.saw(side_data(beside.carrier))
                frame = loaded(frame, beside.carrier)
            self._timing.stamp(frame, pts, duration)
            self._write_packets(self._stream.encode(frame))

    def finish(self) -> None:
        """Flushes the encoder and the copied streams, closes the file and gives it its final name."""
        with write_errors(self._new.path, VideoError):
            self._write_packets(self._stream.encode(None))
            end = self._timing.end if self._info.trimmed else None
            if end is not None:
                self._container.set_chapters(kept_chapters(self._info, end))
            if self._copy:
                self._copy.mux_rest(end)
                self._copy.close()
            self._container.close()
            self._new.finish()

    def abort(self) -> None:
        self._new.abort()
        self._container.close()  # PyAV writes no trailer to a file that is closed
        if self._copy:
            self._copy.close()

    def _write_packets(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            self._timing.complete(packet)
            if self._copy:
                self._copy.mux_until(due(packet))
            self._mux.mux(packet)
