"""Executors for frames of several sizes, one after another: weights are loaded once."""

from collections.abc import Hashable
from typing import Any
from weakref import WeakValueDictionary

from flashvsr_trt.notices import Notify, log_notice
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.frames import HOST
from flashvsr_trt.runtime.request import ExecutorRequest, UpscaleOptions, take_precision
from flashvsr_trt.runtime.session import Session


class Executors:
    """Opens executors, and keeps what the next one can use.

    Frames of the size before run in the same executor. For those of another size torch keeps the network, and
    engines, which are of one size, are given back before others are loaded.

    Args:
        notify: gets one line for each thing a user should know.
    """

    def __init__(self, notify: Notify = log_notice) -> None:
        self.notify = notify
        self.networks: dict[Hashable, Any] = {}
        self.in_use: WeakValueDictionary[tuple[str, ExecutorRequest], Executor] = WeakValueDictionary()
        self.latest: Executor | None = None

    def open(self, options: UpscaleOptions, height: int, width: int, profile: bool = False) -> Executor:
        """The executor of frames of this size.

        Raises:
            FlashVSRError: one of its kinds, as `open_executor`.
        """
        request = options.request(options.stream(height, width), profile, self.networks)
        key = options.backend, request
        executor = self.in_use.get(key)
        if executor is None:
            self.latest = None
            executor = self.in_use[key] = open_executor(options.backend, request, self.notify)
        self.latest = executor
        return executor

    def session(
        self,
        options: UpscaleOptions,
        height: int,
        width: int,
        *,
        frames_on: str = HOST,
        overlap: bool = False,
    ) -> Session:
        """A session for one clip of frames of this size. Raises as `open`."""
        executor = self.open(options, height, width)
        return Session(
            executor, chunk_size=options.chunk_size, seed=options.seed, overlap=overlap, frames_on=frames_on
        )

    def close(self) -> None:
        """Let go of all; what sessions still use stays with them."""
        self.latest = None
        self.networks.clear()


def open_session(
    height: int, width: int, *, frames_on: str = HOST, overlap: bool = False, **options: Any
) -> Session:
    """A session for a clip of `height` x `width` frames.

    `options` are those of `UpscaleOptions`, with the defaults of `flashvsr-trt run`. `frames_on` and
    `overlap` are `Session`'s.

    Raises:
        FlashVSRError: one of its kinds, for each argument that cannot be used.
        TypeError: an option that there is not.
    """
    chosen = UpscaleOptions(**take_precision(options))
    return Executors().session(chosen, height, width, frames_on=frames_on, overlap=overlap)
