"""The web application: its addresses, and what it refuses."""

import asyncio
import contextlib
import io
import math
import struct
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import numpy as np
import tifffile
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from openseg.datasets.info import DatasetInfo
from openseg.errors import OpensegError, is_out_of_memory, printable
from openseg.inference.predictor import Prediction, Predictor
from openseg.io.blob import Blob
from openseg.io.images import encode_image, encode_label
from openseg.serving.batching import Batcher, Full
from openseg.serving.polygons import polygons_of

__all__ = ["Limits", "make_app"]

Output = Literal["label", "vis", "overlay", "polygons"]
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'"
)
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {}, "image/jpeg": {}, "application/json": {}}, "description": "as output says"}
}
_BINARY = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": _BINARY},
        "multipart/form-data": {"schema": {"type": "object", "properties": {"image": _BINARY}}},
    },
}
_LONGEST_JPEG = 65500
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
        max_bytes: of an image file.
        max_pixels: of an image.
        max_batch: images that are predicted together.
        max_waiting: requests besides those that are predicted.
        seconds: for a request, from its first byte to the answer.
    """

    max_bytes: int
    max_pixels: int
    max_batch: int
    max_waiting: int
    seconds: float


def make_app(predictor: Predictor, limits: Limits) -> FastAPI:
    """The application that predicts with ``predictor``."""
    batcher = Batcher(predictor, limits.max_batch, limits.max_waiting)
    info, active = predictor.config.dataset_info, 0

    async def answer(request: Request, output: Output) -> Response:
        content = await _content(request, limits.max_bytes)
        image = await run_in_threadpool(_decode, content, info, limits.max_pixels)
        waits = await run_in_threadpool(batcher.submit, image)
        labels = await _labels(waits)
        return await run_in_threadpool(_answer, Prediction(labels, info.as_rgb(image), info), output)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with batcher:
            yield

    app = FastAPI(title=f"openseg: {predictor.config.name}", lifespan=lifespan)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> HTMLResponse:
        text = resources.files("openseg.serving").joinpath("page/index.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY})

    @app.get("/health")
    def health() -> JSONResponse:
        """Whether it predicts (status 200, otherwise 503), and what it did."""
        facts = {"network": predictor.config.name, "predicted": batcher.done, "batches": batcher.batches}
        status = "ok" if batcher.alive else "stopped"
        return JSONResponse({"status": status, **facts, "waiting": batcher.waiting}, 200 if batcher.alive else 503)

    @app.get("/classes")
    def classes() -> list[dict[str, Any]]:
        """Names, label IDs and colors."""
        rows = zip(info.classes, info.ids, info.colors, strict=True)
        return [{"name": name, "id": number, "color": list(color)} for name, number, color in rows]

    @app.post("/predict", responses=_ANSWERS, openapi_extra={"requestBody": _BODY}, response_class=Response)
    async def predict(request: Request, output: Output = "label") -> Response:
        """The labels of an image, which is the body, or the file ``image`` of a form.

        ``output``: label (PNG of label IDs), vis (PNG of colors), overlay (JPEG), polygons (JSON).
        """
        nonlocal active
        with _told():
            if active >= limits.max_waiting + limits.max_batch:
                raise Full  # before anything of it is read
            active += 1
            try:
                return await asyncio.wait_for(answer(request, output), limits.seconds)
            finally:
                active -= 1

    return app


async def _content(request: Request, limit: int) -> bytes:
    """The image file in a request.

    Raises:
        HTTPException: it is larger than ``limit``, or there is none.
    """
    parts, size = [], 0
    with contextlib.suppress(ValueError):
        size = int(request.headers.get("content-length", "0"))
    if size > limit + 10_000:  # with what a form adds; before anything is read
        raise HTTPException(413, _too_large(limit))
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit + 10_000:
            raise HTTPException(413, _too_large(limit))
        parts.append(part)
    content = b"".join(parts)
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        content = await _from_form(request, content)
    if not content:
        raise HTTPException(400, "no image: send it as the body, or as the file 'image' of a form")
    if len(content) > limit:
        raise HTTPException(413, _too_large(limit))
    return content


async def _from_form(request: Request, body: bytes) -> bytes:
    async def again() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async with Request(request.scope, again).form(max_files=1, max_fields=8) as form:
        file = form.get("image")
        return await file.read() if isinstance(file, UploadFile) else b""


def _too_large(limit: int) -> str:
    return f"the file has more than {limit / 1e6:g} MB"


@contextlib.contextmanager
def _told() -> Any:
    """Failures as statuses with one line."""
    try:
        yield
    except Full:
        raise HTTPException(503, "too many images wait; try again", {"Retry-After": "1"}) from None
    except (TimeoutError, asyncio.TimeoutError):
        raise HTTPException(504, "this image took too long; send a smaller one, or try again") from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection ended before the image did") from None
    except OpensegError as error:
        raise HTTPException(400, printable(error)) from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise HTTPException(413, "the image needs more memory than there is; send a smaller one") from None


def _decode(content: bytes, info: DatasetInfo, max_pixels: int) -> np.ndarray:
    too_many = HTTPException(413, f"the image has more than {max_pixels:,} pixels")
    if _stated_pixels(content, info.channels) > max_pixels:  # before it is decoded
        raise too_many
    image = info.read_image(Blob("the image", content))
    if image.shape[0] * image.shape[1] > max_pixels:
        raise too_many
    return image


def _stated_pixels(content: bytes, channels: int) -> float:
    """How many pixels a file says that it has; 0 if it does not say so, and is refused by its reader."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):  # whatever else is in it
        return math.prod(struct.unpack(">II", content[16:24])) if len(content) >= 24 else 0
    try:
        with Image.open(io.BytesIO(content)) as header:
            return header.width * header.height
    except Image.DecompressionBombError:
        return math.inf
    except (OSError, ValueError, SyntaxError):
        pass
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as file:
            return sum(page.size for page in file.pages) / channels
    except Exception:  # of a damaged file, its reader says what is wrong
        return 0


async def _labels(waits: Future[np.ndarray]) -> np.ndarray:
    """The result; when nobody waits for it any more, its place in the line is given up."""
    try:
        return await asyncio.wrap_future(waits)
    finally:
        waits.cancel()


def _answer(prediction: Prediction, output: Output) -> Response:
    if output == "polygons":
        height, width = prediction.labels.shape
        polygons = polygons_of(prediction.labels, prediction.dataset_info)
        return JSONResponse({"width": width, "height": height, "polygons": polygons}, headers=_HEADERS)
    if output == "overlay":
        if max(prediction.labels.shape) > _LONGEST_JPEG:
            raise HTTPException(413, f"a JPEG has at most {_LONGEST_JPEG} pixels on a side; ask for vis")
        return Response(encode_image(prediction.overlay, ".jpg"), media_type="image/jpeg", headers=_HEADERS)
    png = encode_label(prediction.ids) if output == "label" else encode_image(prediction.colors, ".png")
    return Response(png, media_type="image/png", headers=_HEADERS)
