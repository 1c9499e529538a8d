"""What a real builder's configuration is set to."""

import json
import os
import subprocess
import sys

import pytest

from flashvsr_trt.engines.flavours import RTX
from flashvsr_trt.engines.tensorrt_api import configure, load_module, logger_of
from tests.plugins.stand_in import ROOT, bindings_folder, environment, stand_in_libraries

CONFIGURED = """
import json, sys
import tensorrt_bindings as trt
from flashvsr_trt.engines.flavours import TENSORRT, Target
from flashvsr_trt.engines.options import BuildOptions
from flashvsr_trt.engines.tensorrt_api import configure, logger_of
config = trt.Builder(logger_of(trt)).create_builder_config()
before = config.get_flag(trt.BuilderFlag.TF32)
options = BuildOptions(optimization_level=4, workspace_mb=1 << 10)
configure(trt, config, Target(TENSORRT, trt.__version__, "9.0", "GPU"), options)
after = config.get_flag(trt.BuilderFlag.TF32)
workspace = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
print(json.dumps([before, after, config.builder_optimization_level, workspace]))
"""


@pytest.fixture
def config(rtx_target):
    trt = load_module(RTX)
    return trt.Builder(logger_of(trt)).create_builder_config()


def test_float32_is_never_rounded_to_tf32(config, rtx_target):
    trt = load_module(RTX)
    assert config.get_flag(trt.BuilderFlag.TF32)
    configure(trt, config, rtx_target)
    assert not config.get_flag(trt.BuilderFlag.TF32)


def test_nor_is_it_by_tensorrt(tmp_path):
    """The newest version's own bindings; the oldest's cannot configure the libraries that stand in."""
    env = environment(bindings_folder("newest"), stand_in_libraries(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED],
        env=os.environ | env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [True, False, 4, 1 << 30]
