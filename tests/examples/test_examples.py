"""The examples, run as they are with the tiny network."""

import asyncio
import io
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from tests.clips import make_clip, probe

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

NANO = ("--preset", "nano", "--backend", "torch")
ENVIRONMENT = {"FLASHVSR_PRESET": "nano", "FLASHVSR_BACKEND": "torch"}

NO_SERVER = [name for name in ("fastapi", "uvicorn", "PIL", "httpx") if find_spec(name) is None]


def loaded(name):
    spec = spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples_are_short():
    for path in EXAMPLES.glob("*.py"):
        assert 30 <= len(path.read_text().splitlines()) <= 65, path


def test_files_are_upscaled_and_one_that_cannot_be_is_named(tmp_path, capsys):
    clip = make_clip(tmp_path / "clip.mp4", frames=3, size=(64, 64))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "out").mkdir()
    files = [str(tmp_path / "broken.mp4"), str(clip)]
    assert loaded("upscale_file").main([*files, "-o", str(tmp_path / "out"), *NANO]) == 1
    printed = capsys.readouterr().out
    assert "broken.mp4: " in printed
    assert "clip_2x.mp4: 3 frames" in printed
    assert probe(tmp_path / "out" / "clip_2x.mp4").frames == 3


def test_a_camera_is_upscaled_to_raw_frames(tmp_path, capfdbinary):
    clip = make_clip(tmp_path / "clip.mp4", frames=9, size=(64, 64))
    asyncio.run(loaded("camera").show(str(clip), 5, preset="nano", backend="torch"))
    out, err = capfdbinary.readouterr()
    assert len(out) == 5 * 128 * 128 * 3
    assert b"of 128x128" in err


@pytest.fixture
def server(monkeypatch):
    if NO_SERVER:
        pytest.skip(f"no {', '.join(NO_SERVER)}: pip install fastapi uvicorn pillow httpx")
    from starlette.testclient import TestClient

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with TestClient(loaded("server").app) as client:
        yield client


def jpeg(frame):
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(frame).save(data, "JPEG")
    return data.getvalue()


def test_the_server_gives_a_page_and_larger_pictures(server):
    from PIL import Image

    page = server.get("/")
    assert page.status_code == 200
    assert "<title>FlashVSR</title>" in page.text
    frames = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    with server.websocket_connect("/upscale") as socket:
        for frame in frames:
            socket.send_bytes(jpeg(frame))
        socket.send_text("end")
        sizes = [Image.open(io.BytesIO(socket.receive_bytes())).size for _ in frames]
        assert sizes == [(128, 128)] * 6
        assert socket.receive()["type"] == "websocket.close"


def test_the_server_closes_with_the_reason_and_serves_on(server):
    with server.websocket_connect("/upscale") as socket:
        socket.send_bytes(jpeg(np.zeros((64, 64, 3), np.uint8)))
        socket.send_bytes(jpeg(np.zeros((32, 64, 3), np.uint8)))
        closed = socket.receive()
    assert closed["type"] == "websocket.close"
    assert "do not fit" in closed["reason"]
    with server.websocket_connect("/upscale"):
        pass  # a viewer that goes at once is nobody's error
