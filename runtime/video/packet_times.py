"""When a packet is due: its times in seconds, and moved on its own clock."""

from fractions import Fraction

import av
from av.stream import Stream

from flashvsr_trt.runtime.video.media_open import exact_fraction


def clock_unit(timed: Stream | av.Packet) -> Fraction:
    """Seconds of one unit of the times of a stream or packet. Raises ValueError where it has no clock."""
    unit = exact_fraction(timed.time_base)
    if unit is None:
        raise ValueError(f"{timed} has no time base")
    return unit


def shown_at(packet: av.Packet) -> Fraction | None:
    """When a packet is shown, or decoded where it says no more; None where it has no time."""
    ticks = packet.dts if packet.pts is None else packet.pts
    return None if ticks is None else ticks * clock_unit(packet)


def decoded_at(packet: av.Packet) -> Fraction | None:
    """When a packet is decoded, or shown where it says no more; None where it has no time."""
    ticks = packet.pts if packet.dts is None else packet.dts
    return None if ticks is None else ticks * clock_unit(packet)


def due(packet: av.Packet) -> Fraction:
    """When a packet that has times is decoded. Raises ValueError where it has none."""
    time = decoded_at(packet)
    if time is None:
        raise ValueError(f"{packet} has no time")
    return time


def move(packet: av.Packet, ticks: int) -> None:
    """Moves a packet by units of its own clock, as far as it has times."""
    packet.pts = None if packet.pts is None else packet.pts + ticks
    packet.dts = None if packet.dts is None else packet.dts + ticks
