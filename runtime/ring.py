"""Which slot of the K/V ring a step writes, and which it sees. Bookkeeping only: no tensors."""

from dataclasses import dataclass

import numpy as np

from flashvsr_trt.config.presets import AttentionConfig


@dataclass(frozen=True)
class RingStep:
    """One DiT step: `slots` are written after it, `valid` [slots] bool are seen by it."""

    slots: slice
    valid: np.ndarray

    @property
    def filled(self) -> int:
        """How many slots are seen or written. They are the first ones, since the ring fills in order."""
        return int(self.valid.sum()) + self.slots.stop - self.slots.start

    @property
    def is_steady(self) -> bool:
        """Whether it is one unit in a full ring, as all are from then on."""
        return self.slots.stop - self.slots.start == 1 and self.filled == len(self.valid)

    @property
    def seen(self) -> tuple[int, ...]:
        """The slots of `valid`."""
        return tuple(map(int, np.flatnonzero(self.valid)))

    @property
    def written(self) -> tuple[int, ...]:
        """The slots of `slots`."""
        return tuple(range(self.slots.start, self.slots.stop))


class KVRing:
    """A step of one unit sees the `past_units` before it and overwrites the slot older than these.

    The order of units in the ring does not matter to attention: RoPE is already in the keys and the local
    neighbourhood is the same for every cached unit.
    """

    def __init__(self, attention: AttentionConfig) -> None:
        self.past_units = attention.past_units
        self.slot_count = attention.ring_slots
        self.units_seen = 0

    def step(self, units: int) -> RingStep:
        """Advance by a step of `units` units, which see each other and the valid slots.

        Raises:
            ValueError: the units are more than the ring keeps, or would wrap around its end.
        """
        first = self.units_seen % self.slot_count
        if units > self.past_units or first + units > self.slot_count:
            raise ValueError(
                f"a step of {units} units does not fit the ring at slot {first} of {self.slot_count}"
            )
        valid = np.zeros(self.slot_count, dtype=bool)
        for age in range(1, min(self.past_units, self.units_seen) + 1):
            valid[(self.units_seen - age) % self.slot_count] = True
        # A step of several units drops all but the newest: only the first step is one, and it sees none.
        self.units_seen += units
        return RingStep(slice(first, first + units), valid)
