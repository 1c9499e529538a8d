"""A queue of fixed room between two threads, which either side can end."""

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class QueueStopped(Exception):  # noqa: N818 (a signal, not an error)
    """The other side has stopped: nothing more comes, or nothing more is wanted."""


class BoundedQueue(Generic[Item]):
    """`put` waits for room and `get` for an item; `stop` wakes both. Used by one writer and one reader."""

    def __init__(self, room: int) -> None:
        self._items: deque[Item] = deque()
        self._room = room
        self._changed = threading.Condition()
        self._stopped = False

    def put(self, item: Item) -> None:
        """Appends an item. Raises QueueStopped after `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._room)
            if self._stopped:
                raise QueueStopped
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> Item:
        """Takes the oldest item. Raises QueueStopped after `stop`, whatever is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._items)
            if self._stopped:
                raise QueueStopped
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def stop(self) -> None:
        """Ends the queue for both sides and lets go of its items."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()
