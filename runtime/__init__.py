"""Streaming: a session over an executor, and video in and out.

May import: engines, kernels; torch only inside the torch executor.
"""

from flashvsr_trt.runtime.executors import open_session
from flashvsr_trt.runtime.session import Session

__all__ = ["Session", "open_session"]
