"""Bundles that several rooms' tests run: each is exported once a test session. Importing this needs torch."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from onnxscript.values import TracedOnnxFunction
from torch.fx import _lazy_graph_module

from flashvsr_trt.bundle import Bundle, read_bundle
from flashvsr_trt.cache.entries import find_or_make
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import AttentionConfig, Preset, find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.export.export_bundle import WeightsOrigin, export_bundle, export_network
from flashvsr_trt.model.network import Network, build_network
from flashvsr_trt.model.weights.load import load_weights, resolve_weights
from tests.golden import end_to_end_weights, load_case
from tests.golden_clips import network_of, stream_of
from tests.slim import slim

# For each graph torch.onnx parses the source of onnxscript's 500 functions anew, which stays the same.
TracedOnnxFunction.function_ir = property(cache(TracedOnnxFunction.function_ir.fget))

# It makes Python of each graph that it passes on, which nothing runs: this leaves it until something does.
_lazy_graph_module._use_lazy_graph_module_flag = True


def ignore(line: str) -> None:
    """Notices of an export are not what these tests look at."""


def thin_preset() -> Preset:
    """Nano with few kept blocks and a narrow neighbourhood, so that a small frame exercises selection."""
    return replace(find_preset("nano"), attention=AttentionConfig(sparse_ratio=0.1, local_range=3))


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session keeps what is made once: one folder for all workers of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "session"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def bundles_folder(session_folder: Path) -> Path:
    """Where the session's bundles are, side by side."""
    folder = session_folder / "bundles"
    folder.mkdir(exist_ok=True)
    return folder


def export_once(export: Callable[..., Bundle], *arguments: object, folder: Path) -> Bundle:
    """`export(*arguments, folder, notify)` by the first worker that asks; the others wait, and read it."""

    def read() -> Bundle | None:
        return read_bundle(folder) if folder.exists() else None

    return find_or_make(folder, read, lambda: export(*arguments, folder, ignore), ignore)


@pytest.fixture(scope="session")
def sparse_bundle(bundles_folder: Path) -> Bundle:
    """Official schedule, 2x2 windows, an LR size that must be padded; fp32."""
    stream = StreamConfig(slim(thin_preset()), Geometry(100, 116, 2), find_schedule("official"))
    return export_once(export_bundle, stream, "random:1", "fp32", folder=bundles_folder / "sparse")


@pytest.fixture(scope="session")
def bfloat16_bundle(bundles_folder: Path) -> Bundle:
    """Official schedule, two windows, nano's own weights: trained scores decide what is seen; bf16."""
    stream = StreamConfig(thin_preset(), Geometry(64, 128, 2), find_schedule("official"))
    return export_once(export_bundle, stream, None, "bf16", folder=bundles_folder / "bfloat16")


@pytest.fixture(scope="session")
def bfloat16_low_latency_bundle(bundles_folder: Path) -> Bundle:
    """Low-latency schedule, 4x, two windows, nano's own weights; bf16."""
    stream = StreamConfig(thin_preset(), Geometry(32, 64, 4), find_schedule("low-latency"))
    return export_once(export_bundle, stream, None, "bf16", folder=bundles_folder / "bfloat16-low-latency")


@pytest.fixture(scope="session")
def dense_bundle(bundles_folder: Path) -> Bundle:
    """Low-latency schedule, 4x, the same weights as `sparse_bundle`; fp32."""
    preset = slim(find_preset("nano-full-attn"))
    stream = StreamConfig(preset, Geometry(32, 64, 4), find_schedule("low-latency"))
    return export_once(export_bundle, stream, "random:1", "fp32", folder=bundles_folder / "dense")


def network_for(bundle: Bundle, dtype: torch.dtype = torch.float32) -> Network:
    """The torch network a bundle of `export_bundle` was made of."""
    config = bundle.stream.preset.network
    weights = load_weights(resolve_weights(bundle.weights.spec, config), config, dtype)
    return build_network(config, weights, torch.device("cpu"), dtype)


def export_golden(folder: Path, case_name: str, schedule: str, upsampler: str) -> Bundle:
    """An end-to-end golden case's network, exported in fp32; once to a folder."""
    case = load_case(case_name)
    stream, weights, network = (
        stream_of(case, schedule, upsampler),
        end_to_end_weights(case),
        network_of(case),
    )
    origin = WeightsOrigin(None, weights.source, weights.version, "golden")
    return export_once(export_network, network, stream, origin, "fp32", folder=folder / case_name)
