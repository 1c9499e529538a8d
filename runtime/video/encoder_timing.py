"""Times of frames on their way through the encoder: from the input's clock to what the container can say."""

from fractions import Fraction

import av

from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.video.frame_grid import FrameGrid
from flashvsr_trt.runtime.video.info import VideoInfo
from flashvsr_trt.runtime.video.muxer_clock import MuxerClock
from flashvsr_trt.runtime.video.packet_times import move
from flashvsr_trt.runtime.video.stream_copy import StreamCopy


class EncoderTiming:
    """Stamps the frames that go into an encoder, and completes the packets that come out.

    `grid` is set for containers that store frames in slots: these have no times at which streams begin, so
    the earliest stream begins at 0, and the others are brought in step with it.
    """

    def __init__(
        self,
        info: VideoInfo,
        stream: av.VideoStream,
        clock: MuxerClock,
        grid: FrameGrid | None,
        copy: StreamCopy | None,
        notify: Notify,
    ) -> None:
        self._info, self._stream, self._clock = info, stream, clock
        self._grid, self._copy, self._notify = grid, copy, notify
        self._last_tick: int | None = None
        self._durations: dict[int, int] = {}
        self._first_dts: int | None = None
        self.end = Fraction(0)
        """When the last frame ends, in seconds of the output."""

    def stamp(self, frame: av.VideoFrame, pts: int, duration: int) -> None:
        """Gives a frame its pts; `pts` and `duration` are in the input's time base."""
        unit = self._info.time_base
        self.end = (pts + duration) * unit
        if self._grid:
            if not self._grid.begun:
                self._begin_grid(self._grid, pts * unit)
            # One slot: the container's header counts a longer last frame whose empty slots never come.
            pts, duration = self._grid.slot(pts * unit), 1
            unit = 1 / self._grid.rate
        else:
            pts = self._spaced(pts)
        frame.pts, frame.duration, frame.time_base = pts, duration, unit
        self._durations[pts] = duration

    def _spaced(self, pts: int) -> int:
        """The frame's pts, later where the frame before is on the same tick: each gets a time of its own."""
        unit, tick = self._info.time_base, self._clock.tick(self._stream)
        place = round(pts * unit / tick)
        if self._last_tick is not None and place <= self._last_tick:
            place = self._last_tick + 1
            pts = int(-(-place * tick // unit))
        self._last_tick = place
        return pts

    def complete(self, packet: av.Packet) -> None:
        """Gives a packet of the encoder the duration of its frame, and in slots its place from 0 on."""
        # Some encoders lose durations when they reorder; the last one says how long the video is.
        if packet.pts in self._durations:
            packet.duration = self._durations.pop(packet.pts)
        if self._grid:
            # B-frames begin before 0. Their container would move every stream for that, and sound with them.
            self._first_dts = packet.dts if self._first_dts is None else self._first_dts
            move(packet, -(self._first_dts or 0))

    def _begin_grid(self, grid: FrameGrid, first: Fraction) -> None:
        begin, half = first, 1 / (2 * grid.rate)
        sound = self._copy.first_time() if self._copy else None
        if sound is not None and sound < first - half:
            begin = max(sound, min(first, Fraction(0)))  # sound before 0 primes its decoder, unheard
        if sound is not None and sound > first + half:
            self._notify(
                f"{self._stream.container.format.name} stores no time at which sound begins: "
                f"what begins at {float(sound - first):.2f} s is heard from the beginning"
            )
        grid.begin(begin)
        if self._copy:
            self._copy.begin = begin
