"""The command line on every rank, each with weights of its own.

torchrun -m tests.distributed.differing_job WEIGHTS,WEIGHTS ARGUMENTS
"""

import os
import sys

from flashvsr_trt.cli.main import main

if __name__ == "__main__":
    weights = sys.argv[1].split(",")[int(os.environ["RANK"])]
    main([*sys.argv[2:], "--preset", "nano", "--device", "cpu", "--weights", weights])
