"""A canvas that paints image, classes and instances together, seen through a pinhole camera above a road.

World coordinates are meters: x to the right, y up from the ground, z away from the camera. Painting is back to front.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

__all__ = ["Camera", "Canvas", "Color"]

Color = tuple[float, float, float]
Point = tuple[float, float, float]


class Camera:
    """A pinhole camera looking along z."""

    def __init__(self, height: int, width: int, horizon: float, center: float, focal: float, eye: float) -> None:
        self.height, self.width = height, width
        self.horizon, self.center = horizon * height, center * width
        self.focal, self.eye = focal * width, eye

    def project(self, points: Sequence[Point] | np.ndarray) -> np.ndarray:
        """World points ``[N, 3]`` -> pixels ``float64[N, 2]`` (u, v)."""
        x, y, z = np.asarray(points, np.float64).T
        return np.stack([self.center + self.focal * x / z, self.horizon + self.focal * (self.eye - y) / z], axis=1)

    def pixels(self, meters: float, z: float) -> float:
        """Length in pixels of ``meters`` across the view at distance ``z``."""
        return self.focal * meters / z


class Canvas:
    """``rgb: float32[H, W, 3]`` in 0..255, ``label: uint8[H, W]``, ``instance: uint16[H, W]``."""

    def __init__(self, camera: Camera, haze: Color, haze_distance: float, rng: np.random.Generator) -> None:
        self.camera = camera
        self.rng = rng
        self.haze, self.haze_distance = np.array(haze, np.float32), haze_distance
        size = (camera.height, camera.width)
        self.rgb = np.zeros((*size, 3), np.float32)
        self.label = np.zeros(size, np.uint8)
        self.instance = np.zeros(size, np.uint16)
        grain = rng.standard_normal(size).astype(np.float32)
        self.grain = {
            "fine": grain,
            "soft": _blotches(rng, size, max(camera.height // 40, 2)),
            "broad": _blotches(rng, size, max(camera.height // 8, 2)),
        }

    def tint(self, color: Color, z: float) -> np.ndarray:
        """``color`` as seen through ``z`` meters of air."""
        through = np.exp(-z / self.haze_distance)
        return np.asarray(color, np.float32) * through + self.haze * (1 - through)

    def paint(
        self,
        mask: np.ndarray,
        corner: tuple[int, int],
        color: Color,
        z: float,
        label: int | None,
        instance: int | None = None,
        grain: tuple[float, float] = (2.0, 4.0),
    ) -> None:
        """Fill ``mask`` (bool, its top left at ``corner`` = (row, column)) with a grainy color, class and instance.

        ``label`` None paints light and shade only. ``grain`` is the strength of fine and soft texture in gray levels.
        """
        area = (
            slice(corner[0], corner[0] + mask.shape[0]),
            slice(corner[1], corner[1] + mask.shape[1]),
        )
        texture = grain[0] * self.grain["fine"][area] + grain[1] * self.grain["soft"][area]
        self.rgb[area][mask] = self.tint(color, z) + texture[mask][:, None]
        if label is not None:
            self.label[area][mask] = label
            self.instance[area][mask] = label if instance is None else label * 1000 + instance

    def outline(self, pixels: np.ndarray) -> tuple[np.ndarray, tuple[int, int]] | None:
        """Mask and corner of a filled polygon given in pixels, or None where it is out of view."""
        low = np.floor(np.clip(pixels.min(axis=0), 0, None)).astype(int)
        high = np.ceil(pixels.max(axis=0)).astype(int) + 1
        high = np.minimum(high, [self.camera.width, self.camera.height])
        if (high <= low).any():
            return None
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        shifted = np.clip((pixels - low) * 16, -(2**24), 2**24).round().astype(np.int32)
        cv2.fillPoly(mask, [shifted], 1, shift=4)
        return mask.astype(bool), (int(low[1]), int(low[0]))

    def polygon(self, points: Sequence[Point] | np.ndarray, color: Color, label: int | None, **options: object) -> None:
        """Fill a polygon of world points; its mean distance sets the haze."""
        points = np.asarray(points, np.float64)
        shape = self.outline(self.camera.project(points))
        if shape is not None:
            self.paint(*shape, color, float(points[:, 2].mean()), label, **options)

    def hull(self, points: Sequence[Point] | np.ndarray, color: Color, label: int | None, **options: object) -> None:
        """Fill the convex hull of world points."""
        points = np.asarray(points, np.float64)
        pixels = cv2.convexHull(self.camera.project(points).astype(np.float32))[:, 0].astype(np.float64)
        shape = self.outline(pixels)
        if shape is not None:
            self.paint(*shape, color, float(points[:, 2].mean()), label, **options)

    def upright(
        self,
        shape: Sequence[tuple[float, float]],
        at: tuple[float, float],
        color: Color,
        label: int | None,
        **options: object,
    ) -> None:
        """Fill a polygon of (x, y) meters, relative to ``at`` = (x, z), in a plane that faces the camera."""
        self.polygon([(at[0] + x, y, at[1]) for x, y in shape], color, label, **options)

    def disc(
        self, center: Point, radius: float, color: Color, label: int | None, stretch: float = 1.0, **options: object
    ) -> None:
        """Fill an upright ellipse; ``stretch`` is height over width."""
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        x, y, z = center
        points = [(x + radius * np.cos(a), y + radius * stretch * np.sin(a), z) for a in turn]
        self.polygon(points, color, label, **options)

    def shade(self, points: Sequence[Point], strength: float) -> None:
        """Darken a polygon on the ground with soft edges; classes stay."""
        shape = self.outline(self.camera.project(points))
        if shape is None:
            return
        mask, (top, left) = shape
        area = (slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1]))
        width = max(self.camera.height // 100, 1) * 2 + 1
        soft = cv2.GaussianBlur(mask.astype(np.float32), (width, width), 0)
        self.rgb[area] *= 1 - strength * soft[..., None]


def _blotches(rng: np.random.Generator, size: tuple[int, int], period: int) -> np.ndarray:
    """Smooth noise of about unit variance with spots of ``period`` pixels."""
    coarse = rng.standard_normal((size[0] // period + 2, size[1] // period + 2)).astype(np.float32)
    return cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
