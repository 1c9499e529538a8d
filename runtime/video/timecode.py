"""SMPTE timecode (ST 12-1): the label of the first frame, moved when frames before it are left out."""

import re
from collections.abc import Mapping
from fractions import Fraction

TIMECODE = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)")

DROP_SEPARATORS = (";", ".")
"""What stands before the frames of drop-frame timecode, which leaves out labels to keep step with clocks."""

DROPPED_A_MINUTE = 2
"""Labels of each 30 frames a second that a minute leaves out, but for every tenth minute."""


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


def moved_tags(metadata: Mapping[str, str], frames: int, rate: Fraction) -> dict[str, str]:
    """Tags of a file or stream with their timecode moved by `frames`."""
    return {
        key: moved_timecode(value, frames, rate) if key.lower() == "timecode" else value
        for key, value in metadata.items()
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
