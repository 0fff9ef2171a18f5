"""Prediction of videos: label maps of all frames, and videos of their colors."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from openseg.errors import ConfigError, DataError, OpensegError
from openseg.inference.folder import result_settings
from openseg.io.files import atomic_write, notice
from openseg.io.images import read_label, write_label
from openseg.io.progress import progress
from openseg.io.results import ResultFolder

if TYPE_CHECKING:
    from openseg.distributed import Group
    from openseg.inference.folder import Outputs
    from openseg.inference.predictor import Predictor

__all__ = ["VIDEO_SUFFIXES", "predict_video"]

logger = logging.getLogger("openseg")

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
_FRAMES_A_SECOND = 25.0  # of a video that does not say


def predict_video(predictor: Predictor, source: Path, outputs: Outputs, made_by: dict[str, Any], group: Group) -> int:
    """Write ``label/<frame>.png`` of every frame, ``vis.mp4`` and ``overlay.mp4``; return the number of frames.

    Existing label maps are kept; videos are rewritten.

    Raises:
        DataError: not a video, no readable frame, or see ``ResultFolder``.
        ConfigError: arrays requested for frames, or several processes.
    """
    if group.world > 1:
        raise ConfigError("a video is predicted by one process; start without torchrun")
    kinds = [kind for kind in outputs.kinds if kind in ("vis", "overlay")]
    if len(kinds) < len(outputs.kinds):
        raise ConfigError("of a video there are label, vis and overlay; save its frames as images for more")
    status = source.stat()
    made_by = {"what": "predictions", **made_by, **result_settings(predictor.config, predictor.mode)}
    made_by |= {"bytes": status.st_size, "changed": status.st_mtime}
    info = predictor.config.dataset_info
    number = -1
    with contextlib.closing(_Frames(source)) as frames, contextlib.ExitStack() as stack:
        folder = ResultFolder(outputs.folder, made_by, (".png", ".mp4"), ("label", ""), outputs.on_conflict)
        stack.enter_context(folder)
        stack.enter_context(folder.journal.writing(source))
        for kind in kinds:
            folder.is_done(outputs.folder / f"{kind}.mp4", source)  # or something else stands there
        folder.start()
        writers = {kind: stack.enter_context(_video(outputs.folder / f"{kind}.mp4", frames)) for kind in kinds}
        for number, image in enumerate(progress(frames, frames.count, "predict")):
            label = outputs.path("label", f"{number:06}")
            if folder.is_done(label, source, kind="label"):
                labels = info.encode(read_label(label), label)
            else:
                labels = predictor(image).labels
                write_label(label, info.decode(labels))
            for kind, writer in writers.items():
                picture = info.colorize(labels) if kind == "vis" else info.overlay(image, labels)
                writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return number + 1


class _Frames:
    """The frames of a video as RGB ``uint8[H, W, 3]``."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            start = file.read(16)
        # FFmpeg goes by the content, and opens what playlists name, also on other machines.
        if not (
            start[:4] in (b"RIFF", b"\x1aE\xdf\xa3") or start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free")
        ):
            raise DataError(f"{path}: not a video that can be read; convert it to .mp4 (H.264)")
        os.putenv("OPENCV_FFMPEG_LOGLEVEL", "-8")  # our line says it
        self._capture = cv2.VideoCapture(str(path))
        self.path = path
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or _FRAMES_A_SECOND
        self.size = tuple(
            int(self._capture.get(each)) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        self.count = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        if not self._capture.isOpened() or min(self.size) <= 0:
            raise DataError(f"{path}: not a video that can be read; convert it to .mp4 (H.264)")

    def __iter__(self) -> Iterator[np.ndarray]:
        read = 0
        while True:
            there, frame = self._capture.read()
            if not there:
                break
            read += 1
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        if not read:
            raise DataError(f"{self.path}: no frame can be read; convert it to .mp4 (H.264)")
        if read < self.count:
            logger.warning("%s: %d of %d frames could be read; is it damaged?", self.path, read, self.count)
            notice(str(self.path))

    def close(self) -> None:
        self._capture.release()


@contextlib.contextmanager
def _video(path: Path, like: _Frames) -> Iterator[_Writer]:
    with atomic_write(path) as temporary:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), like.rate, like.size)
        if not writer.isOpened():
            raise DataError(f"{path}: this OpenCV cannot write .mp4; --also none leaves the videos out")
        writers = _Writer(writer)
        try:
            yield writers
        finally:
            writer.release()
        written = cv2.VideoCapture(str(temporary))
        count = int(written.get(cv2.CAP_PROP_FRAME_COUNT))
        written.release()
        if count < writers.count:  # of which OpenCV says nothing
            raise OpensegError(f"cannot write {path}: {count} of {writers.count} frames were; is the disk full?")


class _Writer:
    """A ``cv2.VideoWriter`` that counts."""

    def __init__(self, writer: cv2.VideoWriter) -> None:
        self._writer, self.count = writer, 0

    def write(self, frame: np.ndarray) -> None:
        self._writer.write(frame)
        self.count += 1
