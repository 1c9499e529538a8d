"""Upscales clips with the golden vectors' small network, and prints the peak memory in bytes after each.

Run in a process of its own: `python -m tests.runtime.peak_memory FOLDER CLIP...`.
"""

import sys
from pathlib import Path

import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import AttentionConfig, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.process_memory import peak_process_bytes
from flashvsr_trt.runtime.pipeline import upscale_video
from flashvsr_trt.runtime.request import OutputOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.video.input import open_input
from flashvsr_trt.runtime.video.output import open_output
from tests.golden import golden_preset, load_case
from tests.golden_clips import network_of


def upscale(clip: str, out: str) -> int:
    """Frames written. One thread: the network is too small to share."""
    torch.set_num_threads(1)
    preset = golden_preset(AttentionConfig(sparse_ratio=2.0))
    with open_input(clip) as source:
        geometry = Geometry(source.info.height, source.info.width, scale=2)
        stream = StreamConfig(preset, geometry, find_schedule("official"))
        executor = TorchExecutor(network_of(load_case("e2e_official")), stream)
        options = OutputOptions(encoder_options={"preset": "ultrafast"})
        with open_output(out, source, geometry.output, options) as output:
            return upscale_video(source, Session(executor), output).frames


if __name__ == "__main__":
    folder, *clips = sys.argv[1:]
    for clip in clips:
        print(upscale(clip, f"{folder}/{Path(clip).name}"), peak_process_bytes())
