"""What a real builder's configuration is set to."""

import pytest

from flashvsr_trt.engines.flavours import RTX
from flashvsr_trt.engines.tensorrt_api import configure, load_module, logger_of


@pytest.fixture
def config(rtx_target):
    trt = load_module(RTX)
    return trt.Builder(logger_of(trt)).create_builder_config()


def test_float32_is_never_rounded_to_tf32(config, rtx_target):
    trt = load_module(RTX)
    assert config.get_flag(trt.BuilderFlag.TF32)
    configure(trt, config, rtx_target, False, None, None)
    assert not config.get_flag(trt.BuilderFlag.TF32)
