"""One runtime cache of TensorRT-RTX for all contexts of a folder, kept beside the engines."""

from types import SimpleNamespace

import pytest

from flashvsr_trt.errors import EngineError
from flashvsr_trt.runtime.tensorrt.runtime_cache import RUNTIME_CACHE, RuntimeCache


class Cache:
    """As TensorRT-RTX's: `deserialize` is False for what another environment wrote."""

    def __init__(self):
        self.content = b"made"

    def deserialize(self, content):
        if content.startswith(b"other"):
            return False
        self.content = content
        return True

    def serialize(self):
        return self.content


class Config:
    """A runtime configuration that remembers what it was given."""

    def __init__(self, takes=True):
        self.takes, self.cache, self.strategy = takes, None, None

    def create_runtime_cache(self):
        return Cache()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return self.takes

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy


def engine(config):
    return SimpleNamespace(create_runtime_config=lambda: config)


def test_all_contexts_have_one_cache_and_the_next_start_reads_it(tmp_path):
    path = tmp_path / RUNTIME_CACHE
    cache, configs = RuntimeCache(path), [Config(), Config()]
    for config in configs:
        cache.configured("dit.00", engine(config), "user managed")
    assert configs[0].cache is configs[1].cache
    assert {config.strategy for config in configs} == {"user managed"}
    configs[0].cache.content = b"compiled"
    cache.save()
    assert path.read_bytes() == b"compiled"
    again = Config()
    RuntimeCache(path).configured("dit.00", engine(again), "user managed")
    assert again.cache.content == b"compiled"


def test_a_cache_of_another_environment_is_announced_and_replaced(tmp_path, caplog):
    path = tmp_path / RUNTIME_CACHE
    path.write_bytes(b"other driver")
    cache = RuntimeCache(path)
    cache.configured("decode", engine(Config()), None)
    assert "is of another GPU, driver or version" in caplog.text
    cache.save()
    assert path.read_bytes() == b"made"


def test_a_cache_that_cannot_be_kept_is_announced(tmp_path, caplog):
    cache = RuntimeCache(tmp_path / "nowhere" / RUNTIME_CACHE)
    cache.configured("decode", engine(Config()), None)
    cache.save()
    assert "compiled again at the next start" in caplog.text


def test_an_engine_that_takes_no_cache_is_an_error(tmp_path):
    with pytest.raises(EngineError, match="decode takes no runtime cache"):
        RuntimeCache(tmp_path / RUNTIME_CACHE).configured("decode", engine(Config(takes=False)), None)


def test_without_tensorrt_rtx_nothing_is_written(tmp_path):
    RuntimeCache(tmp_path / RUNTIME_CACHE).save()
    assert not list(tmp_path.iterdir())
