"""`pip install ARGUMENTS`, with one line that says what pip is at and for how long. Needs pip alone.

On a terminal the line changes; elsewhere it comes again every ten seconds. A failure shows what pip wrote.
"""

import importlib.metadata
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

EVERY_SECONDS = {True: 0.5, False: 10.0}
"""How often a line is written, on a terminal and elsewhere."""

RAW_PROGRESS = (24, 1)
"""The first pip that says in numbers how much of a file is there."""

SAYS = re.compile(
    r"(Collecting|Downloading|Building|Installing|Obtaining|Preparing|Getting|Using|Processing)\b"
)


def stage(line: str, before: str) -> str:
    """What a line of pip's output says that it is at; `before` where it says nothing of that."""
    line = line.strip()
    if found := re.fullmatch(r"Progress (\d+) of (\d+)", line):
        done, total = (int(number) / 1e6 for number in found.groups())
        return f"{before.partition(': ')[0]}: {done:.0f} of {total:.0f} MB"
    return re.sub(r"\s*\(from .*", "", line) if SAYS.match(line) else before


def lines_of(process: subprocess.Popen, wait: float) -> Iterator[str]:
    """The lines as they come; "" where there was none for `wait` seconds."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=wait)
        except queue.Empty:
            line = ""
        if line is None:
            return
        yield line


def clock(started: float) -> str:
    """Minutes and seconds since then."""
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    return f"{minutes}:{seconds:02d}"


def main(arguments: list[str]) -> int:
    """pip's exit code."""
    terminal = sys.stdout.isatty()
    version = tuple(map(int, importlib.metadata.version("pip").split(".")[:2]))
    bar = "raw" if version >= RAW_PROGRESS else "off"
    command = [sys.executable, "-m", "pip", "install", "--no-compile", "--progress-bar", bar, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    started, shown, now, written = time.monotonic(), float("-inf"), "starting pip", []
    for line in lines_of(process, EVERY_SECONDS[terminal]):
        now = stage(line, now)
        written += [] if line.startswith("Progress ") else [line]
        if time.monotonic() - shown >= EVERY_SECONDS[terminal]:
            shown = time.monotonic()
            text = f"installing, {clock(started)}: {now}"[: shutil.get_terminal_size().columns - 1]
            print(f"\r\x1b[K{text}" if terminal else text, end="" if terminal else "\n", flush=True)
    code = process.wait()
    print("\r\x1b[K" if terminal else "", end="")
    if code:
        print("".join(written), end="", file=sys.stderr)
    else:
        print(f"installed in {clock(started)}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
