"""NCCL instead of gloo: the same video on two GPUs."""

import numpy as np
import pytest
import torch

from tests.clips import make_clip
from tests.distributed.test_run import frames_of, start_run

needs_two_gpus = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason=f"needs 2 GPUs, found {torch.cuda.device_count()}"
)


@pytest.mark.gpu
@needs_two_gpus
@pytest.mark.parametrize("preset", ["nano", "nano-full-attn"])
def test_two_gpus_write_the_video_of_one_up_to_rounding(tmp_path, preset):
    clip = make_clip(tmp_path / "clip.mp4", frames=37, size=(64, 192))
    videos = []
    for gpus in (1, 2):
        video = tmp_path / f"{gpus}.mkv"
        options = ("--preset", preset, "--weights", "random", "--device", "cuda", "--dtype", "float32")
        lossless = ("--codec", "libx264rgb", "--crf", "0")
        process = start_run(clip, *options, *lossless, "-o", video, "--gpus", gpus)
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
        videos.append(frames_of(video).astype(np.float64))
    assert videos[0].shape == videos[1].shape
    mean_square = np.mean((videos[0] - videos[1]) ** 2)
    assert mean_square == 0 or 10 * np.log10(255**2 / mean_square) > 45
