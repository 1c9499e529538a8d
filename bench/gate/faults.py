"""Faults that the gate's own tests plant in a measuring process: each must fail its lines and no others."""

import ctypes
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from flashvsr_trt.errors import UsageError
from flashvsr_trt.kernels import conv_relu, torch_ops
from flashvsr_trt.model import attention
from flashvsr_trt.model.stages import Denoise
from flashvsr_trt.runtime import session
from flashvsr_trt.runtime.torch.executor import TorchExecutor

SLOWER = 0.15


Patch = Callable[[Any, str, Any], None]
"""`setattr`, or one that a test can undo."""


def wrap(patch: Patch, owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Replaces `owner.name` by `around(original, *arguments, **options)`."""
    original = getattr(owner, name)
    patch(owner, name, lambda *arguments, **options: around(original, *arguments, **options))


def slow_stage(patch: Patch) -> None:
    """The DiT's step keeps its processor 15 % longer."""

    def slower(step, *arguments):
        started = time.thread_time()
        made = step(*arguments)
        until = time.thread_time() + SLOWER * (time.thread_time() - started)
        while time.thread_time() < until:
            pass
        return made

    wrap(patch, Denoise, "forward", slower)


def dropped_kernel(patch: Patch) -> None:
    """The decoder's fused convolution falls back to its reference."""
    patch(conv_relu, "runs_onednn", lambda x: False)


def host_read(patch: Patch) -> None:
    """The DiT's step waits for a number."""

    def waits(step, stage, noise, *arguments):
        noise.reshape(-1)[0].item()
        return step(stage, noise, *arguments)

    wrap(patch, Denoise, "forward", waits)


def mask_bit(patch: Patch) -> None:
    """The first window that sees a block loses its last one."""

    def flipped(select, *arguments):
        index, count = select(*arguments)
        if type(count) is not torch.Tensor:  # a graph that is traced has no bits yet
            return index, count
        # By address, without functions of Python: those, and torch's operators, are counted.
        seen = (ctypes.c_int32 * count.shape[1]).from_address(count.data_ptr())
        window = next(filter(seen.__getitem__, range(len(seen))), None)
        if window is not None:
            seen[window] -= 1
        return index, count

    wrap(patch, attention, "select_blocks", flipped)


def shifted_rope(patch: Patch) -> None:
    """Steps after the first are one latent frame too late: were all, attention would not see it."""
    wrap(patch, session, "time_table", lambda table, at, *rest: table(at + (at[0] > 0), *rest))


def lost_frame(patch: Patch) -> None:
    """The end of a clip lacks its last frame."""
    wrap(patch, session.Session, "flush", lambda flush, *arguments: flush(*arguments)[:-1])


def doubled_memory(patch: Patch) -> None:
    """A clip's state is held twice."""

    def doubled(new_state, executor):
        state = new_state(executor)
        state.copies = [tensor.clone() for tensor in state.tensors()]
        return state

    wrap(patch, TorchExecutor, "new_state", doubled)


def slow_attention(patch: Patch) -> None:
    """On a GPU: the same attention kernel asks for a block of keys only when it is done with the last."""

    def slower(setting_for, kernel, *arguments):
        setting = setting_for(kernel, *arguments)
        if kernel != "block_sparse_attention":
            return setting
        stages = {"STAGES": 1} if "STAGES" in setting.constants else {}
        return replace(setting, num_stages=1, constants=setting.constants | stages)

    wrap(patch, torch_ops, "setting_for", slower)


FAULTS = {
    fault.__name__.replace("_", "-"): fault
    for fault in (
        slow_stage,
        dropped_kernel,
        host_read,
        mask_bit,
        shifted_rope,
        lost_frame,
        doubled_memory,
        slow_attention,
    )
}


def plant(name: str, patch: Patch = setattr) -> None:
    """Break this process. Raises UsageError where there is no such fault."""
    if name not in FAULTS:
        raise UsageError(f"no fault '{name}'; choose one of: {', '.join(FAULTS)}")
    FAULTS[name](patch)
