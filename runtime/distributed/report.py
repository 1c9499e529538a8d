"""What a rank has and did, or a process alone, for benchmarks and tests."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

from flashvsr_trt.model.sharding import length
from flashvsr_trt.process_memory import peak_process_bytes
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.state import TorchState


def rank_report(executor: TorchExecutor, states: Iterable[TorchState]) -> dict[str, Any]:
    """Stages' seconds, bytes sent, operators' calls, bytes of `states` and at most allocated so far."""
    sharding, rank = executor.sharding, executor.rank
    sent: Counter[str] = Counter()
    for communicator in executor.communicators.values():
        sent.update(communicator.sent)
    return {
        "rank": rank,
        "heads": length(sharding.heads[rank]),
        "rows": length(sharding.rows[rank]),
        "stage_seconds": executor.stage_seconds(),
        "sent_bytes": dict(sent),
        "kernel_calls": dict(executor.kernel_calls),
        "state_bytes": sum(tensor.nbytes for state in states for tensor in state.tensors()),
        "peak_bytes": peak_bytes(executor.device),
    }


def peak_bytes(device: torch.device) -> int:
    """Most bytes that torch had allocated on a GPU; of a CPU, that the process had in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_process_bytes()
