"""Upscale what a browser shows, for several at once: a WebSocket takes pictures and gives them back larger.

FLASHVSR_PRESET=nano uvicorn --app-dir examples server:app, then open http://localhost:8000
"""

import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse
from PIL import Image

from flashvsr_trt import FlashVSRError, Upscaler


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # One network for all viewers, who take turns, chunk by chunk.
    names = {"preset": "sparse-2.0", "backend": "auto"}
    options = {name: os.environ.get(f"FLASHVSR_{name.upper()}", default) for name, default in names.items()}
    with Upscaler(schedule="low-latency", **options) as upscaler:
        app.state.upscaler = upscaler
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
def viewer() -> FileResponse:
    return FileResponse(Path(__file__).with_name("viewer.html"))


async def pictures(socket: WebSocket) -> AsyncIterator[np.ndarray]:
    """JPEGs of a browser until it has gone, or says "end"."""
    while (message := await socket.receive()).get("bytes"):
        yield np.asarray(Image.open(io.BytesIO(message["bytes"])).convert("RGB"))


@app.websocket("/upscale")
async def upscale(socket: WebSocket) -> None:
    await socket.accept()
    try:
        # The next picture is read while the network works; a viewer that sends more waits.
        async for frames in socket.app.state.upscaler.stream(pictures(socket)):
            for frame in frames:
                jpeg = io.BytesIO()
                Image.fromarray(frame).save(jpeg, "JPEG", quality=90)
                await socket.send_bytes(jpeg.getvalue())
        await socket.close()
    except FlashVSRError as error:
        await socket.close(1008, str(error)[:120])
    except WebSocketDisconnect:  # it has gone: there is nobody to tell
        return
