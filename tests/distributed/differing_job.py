"""The command line on every rank, each with weights of its own.

torchrun -m tests.distributed.differing_job ARGUMENTS
"""

import os
import sys

from flashvsr_trt.cli import main

if __name__ == "__main__":
    weights = f"random:{os.environ['RANK']}"
    main([*sys.argv[1:], "--preset", "nano", "--device", "cpu", "--weights", weights])
