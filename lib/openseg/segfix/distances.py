"""Exact distance to region boundaries and its gradient, for all regions in one pass.

The distance transform is that of Meijster, Roerdink and Hesselink (2000): down and up each column, then along each row
the lower envelope of parabolas. Taken within runs of one value, with a parabola of height 0 at either end, it is exact
for every region of the map at once.
"""

from __future__ import annotations

import numpy as np

from openseg.compiled import compiled

__all__ = ["boundary_distances", "inside_gradients"]

_FAR = 1 << 24
"""More than any height or width; its square fits 64 bits."""
_RADIUS = 2


def boundary_distances(regions: np.ndarray, far: float) -> np.ndarray:
    """Return the exact Euclidean distance to the nearest pixel of another value, ``float64[H, W]``.

    The image border is not a boundary; ``far`` is the distance in a map of a single value.
    """
    distances = np.empty(regions.shape, np.float64)
    if not regions.size:
        return distances
    vertical = np.empty(regions.shape, np.int32)
    _column_distances(regions, vertical)
    _row_distances(regions, vertical, far, distances)
    return distances


@compiled
def _column_distances(regions: np.ndarray, vertical: np.ndarray) -> None:
    """Distance to the nearest pixel of another value in the same column, or _FAR and more."""
    height, width = regions.shape
    vertical[0] = _FAR
    for y in range(1, height):
        for x in range(width):
            vertical[y, x] = vertical[y - 1, x] + 1 if regions[y, x] == regions[y - 1, x] else 1
    below = np.full(width, _FAR, np.int32)
    for y in range(height - 2, -1, -1):
        for x in range(width):
            below[x] = below[x] + 1 if regions[y, x] == regions[y + 1, x] else 1
            vertical[y, x] = min(vertical[y, x], below[x])


@compiled
def _row_distances(regions: np.ndarray, vertical: np.ndarray, far: float, distances: np.ndarray) -> None:
    height, width = regions.shape
    # Parabola i has its lowest point at place[i], of height low[i], and is the lowest of all from start[i] on.
    place = np.empty(width + 2, np.int64)
    start = np.empty(width + 2, np.int64)
    low = np.empty(width + 2, np.int64)
    for y in range(height):
        first = 0
        while first < width:
            value, stop = regions[y, first], first + 1
            while stop < width and regions[y, stop] == value:
                stop += 1
            last = -1
            for x in range(first - 1, stop + 1):
                if first <= x < stop:
                    if vertical[y, x] >= _FAR:
                        continue
                    height_here = np.int64(vertical[y, x]) ** 2
                elif x < 0 or x >= width:
                    continue
                else:
                    height_here = np.int64(0)
                begin = np.int64(first)
                while last >= 0:
                    # The first column where the new parabola is lower than the last one.
                    sum_of_squares = x * x - place[last] * place[last] + height_here - low[last]
                    begin = sum_of_squares // (2 * (x - place[last])) + 1
                    if begin > start[last]:
                        break
                    last -= 1
                if last < 0:
                    begin = np.int64(first)
                if begin < stop:
                    last += 1
                    place[last], low[last], start[last] = x, height_here, begin
            if last < 0:
                distances[y, first:stop] = far
            else:
                end = stop
                for number in range(last, -1, -1):
                    begin = max(start[number], first)  # type: ignore[call-overload,type-var,assignment,arg-type]
                    for x in range(begin, end):
                        distances[y, x] = np.sqrt(np.float64((x - place[number]) ** 2 + low[number]))
                    end = min(end, begin)  # type: ignore[assignment]
            first = stop


def inside_gradients(regions: np.ndarray, distances: np.ndarray, repeat_border: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradient (down, right) of each pixel's distance within its region, ``float64[H, W]`` each.

    It is the sum over a 5x5 neighborhood of offset / squared length times distance; pixels of other regions count as 0,
    and so do pixels outside the map unless ``repeat_border``.
    """
    padded = np.pad(distances, _RADIUS, mode="edge" if repeat_border else "constant")  # type: ignore[call-overload]
    # Outside of the map the values of its border: there the distances alone decide.
    padded_regions = np.pad(regions, _RADIUS, mode="edge")
    down, right = np.empty(regions.shape), np.empty(regions.shape)
    _gradients(padded_regions, padded, down, right)
    return down, right


@compiled
def _gradients(regions: np.ndarray, distances: np.ndarray, down: np.ndarray, right: np.ndarray) -> None:
    height, width = down.shape
    for y in range(height):
        for x in range(width):
            value = regions[y + 2, x + 2]
            near = distances[y + 2, x + 2] < 3.0  # else all of the neighborhood, up to sqrt(8) away, is one region
            sum_down, sum_right = 0.0, 0.0
            # Opposite pixels together, so that what is equal cancels exactly.
            for dy in range(3):
                for dx in range(-2 if dy else 1, 3):
                    ahead = distances[y + 2 + dy, x + 2 + dx]
                    behind = distances[y + 2 - dy, x + 2 - dx]
                    if near:
                        if regions[y + 2 + dy, x + 2 + dx] != value:
                            ahead = 0.0
                        if regions[y + 2 - dy, x + 2 - dx] != value:
                            behind = 0.0
                    slope = (ahead - behind) / (dy * dy + dx * dx)
                    sum_down += dy * slope
                    sum_right += dx * slope
            down[y, x] = sum_down
            right[y, x] = sum_right
