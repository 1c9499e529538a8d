"""From a container to decoded frames in display order, with every failure noted on the way."""

from collections.abc import Iterator

import av
from av.codec import Codec
from av.container import InputContainer
from av.error import FFmpegError

from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.video.damage import DamageWatch
from flashvsr_trt.runtime.video.ffmpeg_log import FFmpegLog
from flashvsr_trt.runtime.video.media_open import error_reason, read_packets
from flashvsr_trt.runtime.video.packet_times import ClockJumps

LIBVPX = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that read alpha in VP8 and VP9, a second picture in each packet, which FFmpeg's own skip."""


def read_frames(
    container: InputContainer,
    stream: av.VideoStream,
    watch: DamageWatch,
    log: FFmpegLog,
    notify: Notify,
    threads: int,
) -> Iterator[av.VideoFrame]:
    """Every frame that can be decoded, timed by one clock; `watch` learns what could not."""
    decoder = with_alpha(stream, threads)
    started = False
    for packet in _read_packets(container, watch, log):
        if packet.stream is not stream:
            continue
        decoded = _decode(decoder, packet, watch, log)
        if decoded and not started:
            started = True
            if skipped := watch.skip_beginning():
                notify(f"{skipped} packets before the first key frame were skipped")
        for frame in decoded:
            watch.saw_frame(frame)
            yield frame
    for frame in _decode(decoder, None, watch, log):
        watch.saw_frame(frame)
        yield frame


def with_alpha(stream: av.VideoStream, threads: int) -> av.VideoStream | av.VideoCodecContext:
    """What decodes the stream: a decoder that gives its alpha where it says that it has any."""
    says_alpha = any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items())
    name = LIBVPX.get(stream.codec_context.name)
    if not says_alpha or name is None:
        return stream
    decoder = Codec(name, "r").create("video")
    decoder.thread_count = threads
    if stream.codec_context.extradata:
        decoder.extradata = stream.codec_context.extradata
    return decoder


def _read_packets(container: InputContainer, watch: DamageWatch, log: FFmpegLog) -> Iterator[av.Packet]:
    """Packets of all streams, up to the end or the first error."""
    jumps = ClockJumps(container.format.name)
    watch.joins = jumps.joins
    packets = read_packets(container)
    while True:
        try:
            with log.listening():
                packet = next(packets, None)
        except FFmpegError as error:
            watch.read_error = error_reason(error)
            return
        if packet is None:
            return
        # PyAV marks the end with empty packets; the decoder is flushed once, after errors as well.
        if packet.size or packet.dts is not None:
            jumps.correct(packet)
            watch.saw_packet(packet)
            yield packet


def _decode(
    decoder: av.VideoStream | av.VideoCodecContext,
    packet: av.Packet | None,
    watch: DamageWatch,
    log: FFmpegLog,
) -> list[av.VideoFrame]:
    """The frames that a packet completes; with None those still inside the decoder."""
    try:
        with log.listening():
            return decoder.decode(packet)
    except FFmpegError:
        watch.saw_undecodable(packet)
        return []
