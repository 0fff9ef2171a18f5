"""``openseg.serve``: a network behind HTTP until it is interrupted."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Sequence
from typing import Literal

from openseg.config import Config
from openseg.errors import ConfigError, OpensegError
from openseg.inference.memory import limit_memory
from openseg.inference.predictor import Predictor
from openseg.inference.runtimes import ExportedNetwork
from openseg.tools.common import as_config, checkpoint_of
from openseg.tools.paths import PathLike

__all__ = ["serve"]

logger = logging.getLogger("openseg")


def serve(
    config: PathLike | Config,
    *,
    overrides: Sequence[str] = (),
    checkpoint: PathLike | None = None,
    checkpoints: PathLike = "checkpoints",
    mode: Literal["ss", "ms"] = "ss",
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    max_megabytes: float = 20,
    max_megapixels: float = 40,
    max_batch: int = 4,
    max_waiting: int = 64,
    timeout: float = 60,
) -> None:
    """Answer images with labels over HTTP until interrupted; arguments and errors are those of ``validate``.

    Args:
        host: address to listen on; 0.0.0.0 for all, which is for networks that you trust.
        port: port to listen on; 0 takes a free one.
        max_megabytes: largest image file.
        max_megapixels: largest image.
        max_batch: images of one size that are predicted together.
        max_waiting: requests besides those that are predicted; more are answered with status 503, unread.
        timeout: seconds for a request, from its first byte to the answer; then status 504.

    Returns:
        Nothing, when it was interrupted.

    Raises:
        ConfigError: a package is missing.
        OpensegError: the address cannot be used.
    """
    for name, value in (("--max-megabytes", max_megabytes), ("--max-megapixels", max_megapixels)):
        if not 0 < value <= 1e6:
            raise ConfigError(f"{name} {value:g}: use a positive number")
    if not 0 < timeout <= 86400 or not 0 < max_batch <= 4096 or not 0 < max_waiting <= 1_000_000:
        raise ConfigError("--timeout, --max-batch and --max-waiting are positive")
    try:
        import python_multipart  # noqa: F401  # which forms need
        import uvicorn

        from openseg.serving.app import Limits, make_app
    except ImportError as error:
        raise ConfigError(f"serve needs {error.name}; pip install 'openseg[serve]'") from None
    listening = _listen(host, port)
    settings = as_config(config, overrides)
    file = checkpoint_of(settings, checkpoint, checkpoints, config)
    # Windows for an image that is too large would stay for all that follow, and change their labels.
    predictor = Predictor(settings, file, mode=mode, device=device, windows_when_full=False)
    max_batch = _largest_batch(predictor, max_batch)
    logger.info("%s: %s", file, predictor.report)
    limits = Limits(int(max_megabytes * 1e6), int(max_megapixels * 1e6), max_batch, max_waiting, timeout)
    listening.listen(128)  # from here on, those who connect wait
    address, number = listening.getsockname()[:2]
    logger.info("listening on http://%s:%d (Ctrl-C ends)", f"[{address}]" if ":" in address else address, number)
    app = make_app(predictor, limits)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=10))
    limited = limit_memory() if predictor.device.type == "cpu" else contextlib.nullcontext()
    with contextlib.suppress(KeyboardInterrupt), limited:  # which uvicorn raises again when it has ended
        server.run([listening])


def _largest_batch(predictor: Predictor, wanted: int) -> int:
    """``wanted``, or 1 for an exported file of batches of 1.

    Raises:
        ConfigError: it takes other batches alone.
    """
    fixed = predictor.model.batch if isinstance(predictor.model, ExportedNetwork) else None
    if fixed is not None and fixed > 1:
        raise ConfigError(f"{predictor.config.name}: takes batches of {fixed} images; export it without --batch")
    return fixed or wanted


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before a network is loaded for nothing."""
    if not 0 <= port < 65536:
        raise ConfigError(f"--port {port}: is from 0 to 65535")
    try:
        family, kind, number, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, number)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
    except OSError as error:
        raise OpensegError(f"--host {host} --port {port}: {error.strerror or error}; choose others") from None
    return listening
