"""Upscale video files, one after another: python examples/upscale_file.py clip.mp4 other.mkv --preset nano"""

import argparse
import logging
from pathlib import Path

from flashvsr_trt import FlashVSRError, Upscaler


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="folder; beside each input if left out")
    parser.add_argument("--preset", default="sparse-2.0")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--verbose", action="store_true", help="show what was chosen and loaded")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING if chosen.verbose else logging.ERROR, format="%(message)s")

    failed = 0
    # The weights are loaded once, by the first file.
    with Upscaler(preset=chosen.preset, scale=chosen.scale, backend=chosen.backend) as upscaler:
        for path in chosen.inputs:
            name = f"{path.stem}_{chosen.scale}x{path.suffix}"
            output = chosen.output / name if chosen.output else path.with_name(name)

            def show(done: int, total: int | None) -> None:
                print(f"\r{done} of {total or '?'} frames", end="", flush=True)

            try:
                report = upscaler.file(path, output, progress=show, overwrite=True)
            except FlashVSRError as error:
                failed += 1
                print(f"\r{path}: {error}")
            else:
                print(f"\r{output}: {report['frames']} frames, {report['fps']:.1f} a second")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
