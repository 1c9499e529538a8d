"""From a container to decoded frames in display order, with every failure noted on the way."""

from collections.abc import Callable, Iterator

import av

from flashvsr_trt.runtime.video.clock_jumps import ClockJumps
from flashvsr_trt.runtime.video.damage import DamageWatch
from flashvsr_trt.runtime.video.ffmpeg_log import FFmpegLog
from flashvsr_trt.runtime.video.frame_facts import error_reason


def read_frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    watch: DamageWatch,
    log: FFmpegLog,
    notify: Callable[[str], None],
    decoder: av.VideoStream | av.VideoCodecContext | None = None,
) -> Iterator[av.VideoFrame]:
    """Every frame that can be decoded, timed by one clock; `watch` learns what could not.

    `decoder` None is the stream's own.
    """
    decoder = decoder or stream
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


def _read_packets(
    container: av.container.InputContainer, watch: DamageWatch, log: FFmpegLog
) -> Iterator[av.Packet]:
    """Packets of all streams, up to the end or the first error."""
    jumps = ClockJumps(container.format.name)
    watch.joins = jumps.joins
    packets = container.demux()
    while True:
        try:
            with log.listening():
                packet = next(packets, None)
        except av.FFmpegError as error:
            watch.read_error = error_reason(error)
            return
        except IndexError:  # PyAV, at the end, when streams appeared on the way: it marks the end of each
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
    frames: list[av.VideoFrame] = []
    try:
        with log.listening():
            frames += decoder.decode(packet)
    except av.FFmpegError:
        watch.saw_undecodable(packet)
    return frames
