"""Whether an input was damaged or ends early, from what is seen of it in one pass from packets to frames.

What counts, per container:

- mp4, mov: samples of the index that could not be read (edit lists leave some out: the index knows);
- AVI: frames of the index that never came, or without an index frame slots of the header (an empty chunk is
  a slot: the last frame is shown longer);
- IVF: frames the header announces;
- Matroska, WebM, FLV, ASF: the announced duration;
- MPEG-TS and PS: packets whose counters do not follow, unless the file goes on with a key frame where one
  recording was joined to another; holes between frames of MPEG-1 and 2, which have one rate;
- all: errors of the demuxer, packets that gave no frame, frames that FFmpeg had to conceal.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction

import av
from av.container import InputContainer

from flashvsr_trt.runtime.video.ffmpeg_log import FFmpegLog, Speech, listen
from flashvsr_trt.runtime.video.frame_gaps import FrameGaps
from flashvsr_trt.runtime.video.media_open import SLOT_FORMATS
from flashvsr_trt.runtime.video.packet_times import JUMPING_FORMATS, clock_unit, decoded_at, shown_at

INDEXED_FORMATS = ("mov",)
"""Formats (FFmpeg's names begin so) with an index of all samples."""

COUNTED_FORMATS = ("ivf",)
"""Formats whose header says the number of frames."""

TIMED_FORMATS = ("matroska", "webm", "flv", "asf")
"""Formats whose header says when the file ends; elsewhere it is estimated."""

RECORDED_FORMATS = (*JUMPING_FORMATS, "h264", "hevc", "mpegvideo", "m4v")
"""Formats of recordings, which may begin inside a scene: what comes before a key frame is no loss."""

MISSING_SECONDS = Fraction(1, 2)
"""A file may end this much before its announced end and still be whole."""

NEAR_JOIN = Fraction(1)
"""Seconds around a jump of the clock in which the streams of both recordings begin and end."""

SLACK_FRAMES = Fraction(1, 2)
"""How much later than a frame's length the next may be decoded where nothing is lost."""

PARSER_PACKETS = 2
"""A flag for incomplete bytes may lie on the packet they are in or on the one before."""

ONE_RATE_CODECS = ("mpeg1video", "mpeg2video")
"""Codecs whose frames follow one another without pauses."""

ONE_FRAME_CODECS = ("h264", "hevc", "ffv1", *ONE_RATE_CODECS)
"""Codecs beside the intra-only ones of which each packet holds one frame, unless it is interlaced."""


class DamageWatch:
    """Notes every packet, frame and failure of one pass over a file, and says at its end what was wrong."""

    def __init__(
        self, container: InputContainer, stream: av.VideoStream, rate: Fraction, log: FFmpegLog
    ) -> None:
        self._container, self._stream, self._log = container, stream, log
        self._format, self._codec = container.format.name, stream.codec_context.name
        self._unit = clock_unit(stream)
        self._delay_at_start = stream.codec_context.has_b_frames
        self.origin = Fraction(0)
        """Seconds on the file's clock that are 0 for the user."""
        self.joins: Sequence[Fraction] = ()
        """When recordings that were joined begin, where the clock tells, in seconds; grows on the way."""
        self.read_error: str | None = None
        self.cut_off: str | None = None
        """What the end of the file lacks."""
        self.indexed: int | None = None
        """Frames that the index of an AVI file counts."""
        self.read_to = 0
        """The byte after the last packet."""
        self._packets, self._before_first, self._frames = 0, 0, 0
        self._end, self._video_end = Fraction(0), Fraction(0)
        self._first: Fraction | None = None
        self._has_times = False
        """Whether packets say when their frames are shown, so that a frame is known by its time."""
        self._waiting: set[Fraction] = set()
        self._undecodable: list[Fraction] = []
        self._concealed: list[Fraction] = []
        self._incomplete: list[Fraction] = []
        self._suspect: Fraction | None = None
        self._since_suspect = 0
        self._seen_joins = 0
        self._interlaced, self._begins_with_key = False, False
        self._read, self._lines_before = 0, 0
        self._gaps = FrameGaps(rate)

    def saw_packet(self, packet: av.Packet) -> None:
        """Counts a packet of any stream, with the times of the file's one clock."""
        begin, decoded = shown_at(packet), decoded_at(packet)
        end = self._end if begin is None else begin + (packet.duration or 0) * clock_unit(packet)
        self._end = max(self._end, end)
        if packet.pos is not None and packet.pos >= 0:
            self.read_to = max(self.read_to, packet.pos + packet.size)
        if packet.stream is not self._stream:
            return
        self._judge_suspect(packet, decoded)
        if packet.is_corrupt:
            self._suspect, self._since_suspect = (self._video_end if decoded is None else decoded), 0
        self._video_end = max(self._video_end, end)
        self._read += 1
        if packet.is_discard:
            return
        self._packets += 1
        if self._packets == 1:
            self._begins_with_key = packet.is_keyframe or self._format not in RECORDED_FORMATS
        if packet.pts is not None and begin is not None:
            self._waiting.add(begin)

    def _judge_suspect(self, packet: av.Packet, begin: Fraction | None) -> None:
        """Whether an incomplete packet was the last of one recording and `packet` the first of another.

        FFmpeg's parser, which is a packet behind, flags the one before the last.
        """
        if self._suspect is None:
            return
        self._since_suspect += 1
        due = self._suspect + (self._since_suspect + SLACK_FRAMES) * self._gaps.usual
        follows = begin is not None and begin <= due
        first, last = self._suspect - NEAR_JOIN, (self._video_end if begin is None else begin) + NEAR_JOIN
        jumps = any(first <= join <= last for join in self.joins)
        if packet.is_keyframe and not packet.is_corrupt and (follows or jumps):
            self._seen_joins += 1
            self._suspect = None
        elif packet.is_corrupt or self._since_suspect == PARSER_PACKETS:
            self._incomplete.append(self._suspect)
            self._suspect = None

    def saw_undecodable(self, packet: av.Packet | None) -> None:
        """Counts a packet that the decoder refuses; None for what was still inside it at the end."""
        time = None if packet is None else shown_at(packet)
        self._undecodable.append(self._video_end if time is None else time)

    def skip_beginning(self) -> int:
        """Forgets the packets that failed before the first frame, of a recording that begins inside a scene.

        Gives their number; 0 where the file begins with a key frame, which should have been decoded.
        """
        if self._begins_with_key:
            return 0
        failed = len(self._undecodable)
        self._undecodable.clear()
        self._lines_before = len(self._log.lines)
        return failed

    def saw_frame(self, frame: av.VideoFrame) -> None:
        """Counts a decoded frame, in display order."""
        if not self._frames and not self._begins_with_key:
            self._before_first = max(0, self._packets - 1 - self._stream.codec_context.has_b_frames)
        self._frames += 1
        self._interlaced |= bool(frame.interlaced_frame)
        stamp = frame.dts if frame.pts is None else frame.pts
        time = None if stamp is None else stamp * self._unit
        if frame.is_corrupt:
            self._concealed.append(self._video_end if time is None else time)
        if time is None:
            return
        if self._first is None:
            self._first = time
        self._has_times |= frame.pts is not None
        self._waiting.discard(time)
        if not self._format.startswith(SLOT_FORMATS):
            self._gaps.saw(time)

    def so_far(self, until: Fraction) -> str | None:
        """What was wrong with the frames up to `until` seconds on the file's clock, in words, or None."""
        undecodable = [time for time in self._undecodable if time <= until]
        concealed = [time for time in self._concealed if time <= until]
        parts = lost(len(undecodable), undecodable, self.origin) + damaged(concealed, self.origin)
        return "; ".join(parts) or None

    def at_end(self) -> str | None:
        """What is wrong with the file now that it ended, in words; None for a whole file."""
        if self._suspect is not None:
            self._incomplete.append(self._suspect)
            self._suspect = None
        speech = listen(
            self._log.lines, self._format, self._codec, self._stream.index, begin=self._lines_before
        )
        reasons = self._reasons(speech)
        missing, without_frame = self._never_came(), self._gave_no_frame()
        evidence = reasons or self._undecodable or self._concealed or self._incomplete or missing
        if self._each_packet_is_a_frame() or speech.decoder_errors:
            evidence = evidence or without_frame
        # A hole between frames of one rate can only be lost frames.
        one_rate = self._codec in ONE_RATE_CODECS and self._format in JUMPING_FORMATS
        if one_rate or self._format == "nut" or speech.decoder_errors:
            evidence = evidence or self._gaps.missing(self.joins)
        return self._in_words(reasons, missing, without_frame) if evidence else None

    def _in_words(self, reasons: list[str], missing: int, without_frame: int) -> str:
        origin, lost_times = self.origin, self._lost_times()
        if self._format.startswith((*INDEXED_FORMATS, *SLOT_FORMATS, *COUNTED_FORMATS)):
            times = [*lost_times, self._video_end] if missing else lost_times
            parts = lost(missing + without_frame, times, origin)
        else:
            in_holes = self._gaps.missing(self.joins)
            holes = [place for hole in self._gaps.holes(self.joins) for place in (hole.begin, hole.end)]
            times = holes if in_holes >= without_frame else lost_times
            parts = lost(max(in_holes, without_frame), times, origin)
            if self._gaps.regular:
                unread = (self._announced_end() - self._video_end) / self._gaps.usual
                parts += lost(max(0, int(unread)), [self._video_end], origin, about=True)
        parts += damaged({*self._concealed, *self._incomplete} - {*lost_times}, origin)
        return "; ".join(parts + reasons)

    def _reasons(self, speech: Speech) -> list[str]:
        """What else than counting shows damage."""
        reasons = [f"reading stopped: {self.read_error}"] if self.read_error else []
        if self.cut_off:
            reasons.append(self.cut_off)
        announced = self._announced_end()
        if announced - self._end > MISSING_SECONDS:
            reasons.append(f"it stops at {float(self._end):.2f} s of {float(announced):.2f} s announced")
        reasons += [f"FFmpeg: {line}" for line in speech.lines]
        if speech.incomplete > max(self._seen_joins, len(self.joins)) * (len(self._container.streams) - 1):
            reasons.append(f"incomplete packets of other streams: {speech.incomplete}")
        return reasons

    def _announced_end(self) -> Fraction:
        """When the file ends as its header says; 0 where it does not."""
        timed = self._format.startswith(TIMED_FORMATS)
        return Fraction(self._container.duration or 0 if timed else 0, av.time_base)

    def _never_came(self) -> int:
        """Packets the file announces that were not read."""
        announced, read = 0, self._read
        if self._format.startswith(INDEXED_FORMATS):
            announced = len(self._stream.index_entries)
        elif self._format.startswith(SLOT_FORMATS) and self.indexed is not None:
            announced = self.indexed
        elif self._format.startswith(SLOT_FORMATS):
            announced, read = self._stream.frames, round(self._video_end / self._unit)
        elif self._format.startswith(COUNTED_FORMATS):
            announced = self._stream.frames
        return max(0, announced - read)

    def _each_packet_is_a_frame(self) -> bool:
        # FFmpeg drops a frame of H.264 that comes when it had not expected so much reordering.
        delay_grew = self._codec == "h264" and self._stream.codec_context.has_b_frames != self._delay_at_start
        one_frame = self._codec in ONE_FRAME_CODECS and not self._interlaced and not delay_grew
        return self._stream.codec_context.codec.intra_only or one_frame

    def _lost_times(self) -> list[Fraction]:
        """When packets without a frame would have been shown, in order.

        Before the first frame only where that had to be the first packet's, a key frame that failed.
        """
        failed_key = self._begins_with_key and self._undecodable
        first = None if failed_key else self._first
        return sorted(time for time in self._waiting if first is None or time > first)

    def _gave_no_frame(self) -> int:
        """Packets since the first frame of which no frame came."""
        if self._has_times or not self._frames:
            return len(self._lost_times())
        return max(0, self._packets - self._before_first - self._frames)


NAMED_PLACES = 3

LONGEST_SECONDS = 10_000_000
"""Damaged timestamps may say anything; one beyond this is not repeated."""


def lost(frames: int, times: Iterable[Fraction], origin: Fraction, about: bool = False) -> list[str]:
    """How many frames are not there, and between which times, if any; `about` when times alone tell.

    Times are in seconds of the file's clock, on which `origin` is 0 for the user.
    """
    if not frames:
        return []
    clocks = [_clock(time - origin) for time in sorted(times)]
    span = f" at {clocks[0]} s" if clocks else ""
    if clocks and clocks[0] != clocks[-1]:
        span = f" between {clocks[0]} and {clocks[-1]} s"
    return [f"{'about ' if about else ''}{_count(frames)} lost{span}"]


def damaged(times: Iterable[Fraction], origin: Fraction) -> list[str]:
    """How many frames are there but damaged, if any, and when the first of them are shown."""
    clocks = [_clock(time - origin) for time in sorted(set(times))]
    if not clocks:
        return []
    more = ", ..." if len(clocks) > NAMED_PLACES else ""
    return [f"{_count(len(clocks))} damaged at {', '.join(clocks[:NAMED_PLACES])}{more} s"]


def _clock(seconds: Fraction) -> str:
    return f"{float(seconds):.2f}" if abs(seconds) < LONGEST_SECONDS else "?"


def _count(frames: int) -> str:
    return "1 frame" if frames == 1 else f"{frames} frames"
