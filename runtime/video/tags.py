"""What an output says of its content: tags, timecode and chapters, and how its muxer is told to keep them.

SMPTE timecode (ST 12-1) is the label of the first frame, moved when frames before it are left out.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from flashvsr_trt.runtime.video.info import VideoInfo
from flashvsr_trt.runtime.video.media_open import SLOT_FORMATS, exact_fraction

if TYPE_CHECKING:
    from av.container.core import Chapter  # of PyAV's stubs alone

WRITTEN_BY_MUXER = (
    *("major_brand", "minor_version", "compatible_brands", "encoder", "duration", "vendor_id"),
    *("bps", "rotate", "source_id", "alpha_mode"),
)
"""Tags that describe the old file, not its content; mkvmerge adds a language to some (BPS-eng)."""

STATISTICS = ("_statistics", "number_of_")

LANGUAGE_SUFFIX = re.compile(r"-[a-z]{2,3}$")

ITUNES_TAGS = (
    *("title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright"),
    *("grouping", "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords"),
    *("creation_time", "language"),
)
"""What mp4 and mov hold in their usual tags; FFmpeg drops others unless told to use QuickTime keys."""

MOV_FORMATS = ("mp4", "mov", "ipod", "3gp", "3g2", "psp", "f4v")

MATROSKA_FORMATS = ("matroska", "webm")

TIMECODE = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)")

DROP_SEPARATORS = (";", ".")
"""What stands before the frames of drop-frame timecode, which leaves out labels to keep step with clocks."""

DROPPED_A_MINUTE = 2
"""Labels of each 30 frames a second that a minute leaves out, but for every tenth minute."""


def content_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """The tags that describe the content, as opposed to the file they were stored in."""
    return {key: value for key, value in metadata.items() if not _describes_the_file(key.lower())}


def _describes_the_file(key: str) -> bool:
    return LANGUAGE_SUFFIX.sub("", key) in WRITTEN_BY_MUXER or key.startswith(STATISTICS)


def muxer_options(format_name: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """Container options under which every tag of `metadata` and every timestamp is kept."""
    if format_name in (*MATROSKA_FORMATS, *SLOT_FORMATS):
        # AAC in mp4 begins before 0 with priming; without this all streams would move by that much.
        return {"avoid_negative_ts": "disabled"}
    if format_name == "yuv4mpegpipe":
        return {"strict": "unofficial"}  # 10 bits
    if format_name in MOV_FORMATS and any(key.lower() not in ITUNES_TAGS for key in metadata):
        return {"movflags": "use_metadata_tags"}
    return {}


def kept_chapters(info: VideoInfo, end: Fraction | None = None) -> "list[Chapter]":
    """Chapters of the kept part of the input, moved with it; up to `end`, in seconds of the output."""
    kept = []
    for chapter in info.chapters:
        unit = exact_fraction(chapter["time_base"])
        if unit is None:
            continue  # without a clock it has no place
        first = max(chapter["start"] - round(info.shift / unit), 0)
        last = chapter["end"] - round(info.shift / unit)
        if end is not None:
            last = min(last, round(end / unit))
        if last > first:
            kept.append({**chapter, "start": first, "end": last})
    return kept


def moved_timecode(label: str, frames: int, rate: Fraction) -> str:
    """The label `frames` after `label`, at `rate` frames a second. What is no timecode stays as it is."""
    match = TIMECODE.fullmatch(label.strip())
    nominal = round(rate)
    if not match or not nominal or int(match[5]) >= nominal:
        return label
    hours, minutes, seconds, separator, frame = match.groups()
    dropped = DROPPED_A_MINUTE * (nominal // 30) if separator in DROP_SEPARATORS and nominal % 30 == 0 else 0
    minute = int(hours) * 60 + int(minutes)
    number = (minute * 60 + int(seconds)) * nominal + int(frame) - dropped * (minute - minute // 10)
    return _label(number + frames, nominal, dropped, separator)


def moved_tags(metadata: Mapping[str, str], info: VideoInfo) -> dict[str, str]:
    """The tags of an input or its video that describe the content, timecode moved to the first kept frame."""
    return {
        key: moved_timecode(value, info.skipped, info.rate) if key.lower() == "timecode" else value
        for key, value in content_metadata(metadata).items()
    }


def _label(number: int, nominal: int, dropped: int, separator: str) -> str:
    a_minute = nominal * 60 - dropped
    ten_minutes = nominal * 600 - dropped * 9
    number %= ten_minutes * 6 * 24
    tens, rest = divmod(number, ten_minutes)
    # The first minute of ten leaves out none; each of the others begins with a gap.
    later = max((rest - dropped) // a_minute, 0)
    number += dropped * (9 * tens + later)
    seconds, frame = divmod(number, nominal)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour:02}:{minute:02}:{second:02}{separator}{frame:02}"
