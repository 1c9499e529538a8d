"""A stream of frames through the three stages: push frames as they come, get frames as they are ready."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from flashvsr_trt.config.presets import CHUNK_SIZES, FRAMES_PER_LATENT, UNIT_FRAMES, UNIT_LATENT_FRAMES
from flashvsr_trt.config.rope import time_table
from flashvsr_trt.errors import SessionError, UsageError
from flashvsr_trt.runtime.executor import DeviceTensor, Executor, PendingFrames
from flashvsr_trt.runtime.frames import DEVICE, HOST, Frames, NumpyArrays
from flashvsr_trt.runtime.noise import NoiseAhead, latent_noise
from flashvsr_trt.runtime.ring import KVRing

WARM_UP_FRAMES = FRAMES_PER_LATENT - 1
"""The first latent frame stands for one video frame: the three decoded before it are dropped."""


ON_HOST = NumpyArrays()


class Session:
    """One clip. As many frames come out, in order, as were pushed.

    Units of 8 frames flow encode -> dit -> decode. The first DiT step takes the schedule's `first_units`
    at once; with look-ahead, encoding is that many frames ahead of decoding.

    A session that failed stays failed, Ctrl-C included: what is carried may be half written. `reset` makes it
    fit for the next clip. As a context manager it gives its clip's memory back at the end.

    Args:
        executor: runs the stages; its `stream` says sizes, preset and schedule.
        chunk_size: frames a steady call takes, 8 or 16. The frames that come out do not depend on it.
        seed: of the noise, 0 or more.
        noise: replaces the seeded noise: latent frame index -> float32 [16, h, w]. It is called in a thread,
            for one step more than has begun.
        position: replaces the temporal RoPE position of a latent frame, which is its index.
        overlap: give frames one step later, so that an executor that overlaps makes them meanwhile; with
            others nothing changes.
        frames_on: HOST gives numpy arrays, DEVICE what the executor has: torch tensors with torch.

    Raises:
        UsageError: a chunk size or seed that cannot be used, or frames that only come to the host.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        chunk_size: int = UNIT_FRAMES,
        seed: int = 0,
        noise: Callable[[int], np.ndarray] | None = None,
        position: Callable[[int], int] | None = None,
        overlap: bool = False,
        frames_on: str = HOST,
    ) -> None:
        if chunk_size not in CHUNK_SIZES:
            raise UsageError(f"chunk size {chunk_size} is not supported; use one of {CHUNK_SIZES}")
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed {seed} cannot be used; give a number from 0 to 2^63 - 1")
        if frames_on not in (HOST, DEVICE):
            raise UsageError(f"frames_on '{frames_on}' is not known; use {HOST} or {DEVICE}")
        self.on_device = frames_on == DEVICE
        if self.on_device and not executor.arrays.is_device:
            raise UsageError(
                f"this backend gives frames in host memory only; use frames_on={HOST!r}, or backend torch "
                "on one GPU"
            )
        self.executor = executor
        self.stream = executor.stream
        self.chunk_units = chunk_size // UNIT_FRAMES
        # Not of `self`: a cycle would keep the device's memory until the garbage collector comes by.
        size = self.stream.geometry.latent
        self.noise = NoiseAhead(noise or (lambda latent: latent_noise(seed, latent, size)))
        self.position = position or (lambda latent: latent)
        self.overlap = overlap and executor.overlaps
        self.state = executor.new_state()
        self.failure: str | None = None
        self.closed = False
        self._start_clip()

    def _start_clip(self) -> None:
        self.ring = KVRing(self.stream.preset.attention)
        self.next_latent = 0
        self.pending: deque[Frames] = deque()
        self.pushed = self.returned = self.units_encoded = 0
        self.last_frame: Frames | None = None
        self.flushed = False
        self.decoding: deque[PendingFrames] = deque()
        self.warm_up = WARM_UP_FRAMES

    def reset(self) -> None:
        """Start the next clip with the weights, engines and CUDA graphs that are there.

        After a failure the state is allocated anew, since nobody knows what it holds.

        Raises:
            SessionError: the session was closed.
            DeviceError: the device has no room for a new state.
        """
        if self.closed:
            raise SessionError("this session was closed; open a new one")
        self.decoding.clear()
        if self.failure is None:
            with self._lasting_failure():
                self.executor.reset_state(self.state)
        else:
            self.state = None  # first: two states may not fit
            self.state = self.executor.new_state()
            self.failure = None
        self._start_clip()

    def close(self) -> None:
        """Give the clip's memory back; the executor stays as it is. A second time nothing happens."""
        self.closed = True
        self.state = None
        self.pending.clear()
        self.decoding.clear()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def push(self, frames: Any) -> Frames:
        """Take frames in, give the frames that became ready.

        On a GPU a session works on the current stream, the same for all its calls; frames of another stream
        are waited for where they come by DLPack, or by `__cuda_array_interface__` with its stream.

        Args:
            frames: uint8 [n, H, W, 3] RGB, any n; copied. An array of numpy, a torch tensor, or of a library
                that has DLPack or `__cuda_array_interface__`. What is on torch's GPU never leaves it.

        Returns:
            uint8 [m, outH, outW, 3], m may be 0: an array of numpy, or with `frames_on` DEVICE a tensor that
            the current stream may use at once.

        Raises:
            UsageError: the frames have another shape or dtype than the stream's or are on another device, or
                the clip has ended. The session goes on.
            SessionError: the session failed before, or was closed.
            Anything that a stage raises; the session has failed then.
        """
        geometry = self.stream.geometry
        self._check_usable()
        if self.flushed:
            raise UsageError("this clip was flushed; reset the session for the next one, or start a new one")
        frames = self.executor.arrays.view(frames)
        dtype = str(frames.dtype).removeprefix("torch.")
        if dtype != "uint8" or tuple(frames.shape[1:]) != (geometry.height, geometry.width, 3):
            raise UsageError(
                f"frames of {dtype} {list(frames.shape)} do not fit this session; "
                f"push uint8 [n, {geometry.height}, {geometry.width}, 3]"
            )
        with self._lasting_failure():
            on_host = isinstance(frames, np.ndarray)
            if not on_host:
                # At once: the device reads them later than the caller may write into them.
                frames = self.executor.arrays.copy(frames)
            if len(frames):
                self.pending.extend(frames)
                if self.last_frame is None:
                    self._start(frames[0].copy() if on_host else frames[0])
                self.pushed += len(frames)
                self.last_frame = frames[-1].copy() if on_host else frames[-1]
            made = self._run(self._ready_units())
            # Only what waits is copied: the rest went to the executor.
            for place in range(-min(len(frames), len(self.pending)) if on_host else 0, 0):
                self.pending[place] = self.pending[place].copy()
            return made

    def flush(self) -> Frames:
        """End the clip: the frames still inside, uint8 [m, outH, outW, 3].

        The last frame is repeated to fill the look-ahead and the last unit; what that adds is trimmed.
        Raises as `push`.
        """
        self._check_usable()
        self.flushed = True
        with self._lasting_failure():
            if self.last_frame is None:
                return self._run(0)
            units = max(-(-(self.pushed + WARM_UP_FRAMES) // UNIT_FRAMES), self.stream.schedule.first_units)
            units -= self.units_encoded
            self.pending.extend([self.last_frame] * (units * UNIT_FRAMES - len(self.pending)))
            return self._run(units)

    def _check_usable(self) -> None:
        if self.closed:
            raise SessionError("this session was closed; open a new one")
        if self.failure is not None:
            raise SessionError(
                f"this session failed before ({self.failure}); reset it for another clip, or open a new one"
            )

    @contextmanager
    def _lasting_failure(self) -> Iterator[None]:
        """Whatever is raised inside ends the clip: what is carried may be half written."""
        try:
            yield
        except BaseException as failure:
            # In words: the exception's frames would hold the session, and so the device's memory.
            self.failure = str(failure) or type(failure).__name__
            raise

    def _start(self, frame: Frames) -> None:
        """Fill the time before the clip with its first frame."""
        if self.stream.schedule.lookahead:
            # The frame itself ends the part that is primed: decoding starts on it, encoding after it.
            unit = self.executor.arrays.stack([frame] * UNIT_FRAMES)
            self.executor.encode(unit, True, self.state)
            self.pending.popleft()
        else:
            self.pending.extendleft([frame] * WARM_UP_FRAMES)

    def _ready_units(self) -> int:
        """Units to run now: whole chunks, and the first DiT step's units before any."""
        units = len(self.pending) // UNIT_FRAMES
        if self.units_encoded:
            return units // self.chunk_units * self.chunk_units
        first = max(self.stream.schedule.first_units, self.chunk_units)
        if units < first:
            return 0
        return first + (units - first) // self.chunk_units * self.chunk_units

    def _run(self, units: int) -> Frames:
        waiting = len(self.decoding)
        while units:
            step_units = 1 if self.units_encoded else self.stream.schedule.first_units
            self._step(step_units)
            units -= step_units
        started = len(self.decoding) - waiting
        frames = self._collect(started if self.overlap and not self.flushed else 0)
        frames = frames[: self.pushed - self.returned]
        self.returned += len(frames)
        return frames

    def _collect(self, keep: int) -> Frames:
        """The frames of all units but the newest `keep`, without those before the clip."""
        height, width = self.stream.geometry.output
        made: list[Frames] = []
        while len(self.decoding) > keep:
            frames = self.decoding.popleft()()[self.warm_up :, :height, :width]
            self.warm_up = 0
            made.append(frames)
        arrays = self.executor.arrays if self.on_device else ON_HOST
        return arrays.join(made, (height, width))

    def _step(self, units: int) -> None:
        """One DiT step: encode its units, denoise them together, decode them in order."""
        encoded = [self._encode() for _ in range(units)]
        latents = self._denoise([tokens for _, tokens in encoded])
        for latent, (condition, _) in zip(latents, encoded, strict=True):
            pending = self.executor.start_decode(latent, condition, self.state, self.on_device)
            self.decoding.append(pending)

    def _encode(self) -> tuple[DeviceTensor, DeviceTensor]:
        frames = self.executor.arrays.stack([self.pending.popleft() for _ in range(UNIT_FRAMES)])
        first = self.units_encoded == 0 and not self.stream.schedule.lookahead
        self.units_encoded += 1
        return self.executor.encode(frames, first, self.state)

    def _denoise(self, tokens: list[DeviceTensor]) -> list[DeviceTensor]:
        latents = range(self.next_latent, self.next_latent + len(tokens) * UNIT_LATENT_FRAMES)
        self.next_latent = latents.stop
        positions = np.array([self.position(latent) for latent in latents])
        rope = time_table(positions, self.stream.preset.network.dit.head_dim)
        noise = self.noise.step(latents)
        return self.executor.dit(noise, tokens, rope, self.ring.step(len(tokens)), self.state)
