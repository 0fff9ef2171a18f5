"""Rendered street scenes with exact labels, in the ids of Cityscapes: the demo's data and the tests' fixture.

A scene is a street between houses with pavements, trees, poles, signs, lights, cars, people and cyclists under random
light and weather. Poles, twigs and spokes are thin and boundaries cluttered on purpose: there boundary work shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from openseg.io.images import write_image, write_label
from openseg_demo.canvas import Camera, Canvas, Color
from openseg_demo.street_objects import StreetObjects, dim, pick, vary

__all__ = ["Scene", "render_scene", "write_scene"]

ROAD, SIDEWALK, BUILDING, TERRAIN, SKY = 7, 8, 11, 22, 23
SPLIT_OFFSETS = {"train": 0, "val": 500_000}
"""First scene of each split."""
_OVERSAMPLING = 2
_FAR = 160.0
_NEAR = 3.2


@dataclass(frozen=True)
class Scene:
    """``image: uint8[H, W, 3]``, ``label: uint8[H, W]`` (labelIds), ``instance: uint16[H, W]``."""

    image: np.ndarray
    label: np.ndarray
    instance: np.ndarray


def write_scene(where: tuple[Path, int], size: tuple[int, int], seed: int) -> None:
    """Render scene ``where[1]`` of a split into ``where[0]/{image,label,instance}``; a scene that is there is kept.

    The name of the folder takes part in the draw, so that no two splits hold the same scene.
    """
    folder, number = where
    index = number + SPLIT_OFFSETS.get(folder.name, 0)
    name = f"demo_{seed:06d}_{index:06d}"
    instance = folder / "instance" / f"{name}_gtFine_instanceIds.png"
    if instance.exists():  # written last
        return
    scene = render_scene(index, size, seed)
    write_image(folder / "image" / f"{name}_leftImg8bit.png", scene.image)
    write_label(folder / "label" / f"{name}_leftImg8bit.png", scene.label)
    write_label(instance, scene.instance)


def render_scene(index: int, size: tuple[int, int] = (256, 512), seed: int = 1) -> Scene:
    """Scene number ``index`` of a seed at ``size`` = (height, width); the same arguments give the same scene."""
    rng = np.random.default_rng([seed, index])
    height, width = (length * _OVERSAMPLING for length in size)
    camera = Camera(
        height, width, rng.uniform(0.40, 0.50), rng.uniform(0.40, 0.60), rng.uniform(0.5, 0.65), rng.uniform(1.4, 2.1)
    )
    street = _Street(camera, rng)
    street.draw()
    return _develop(street.canvas, size, rng)


def _develop(canvas: Canvas, size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Average the oversampled image; add the lens and the sensor."""
    half = _OVERSAMPLING // 2
    label = canvas.label[half::_OVERSAMPLING, half::_OVERSAMPLING].copy()
    instance = canvas.instance[half::_OVERSAMPLING, half::_OVERSAMPLING].copy()
    rgb = cv2.resize(canvas.rgb, size[::-1], interpolation=cv2.INTER_AREA)
    rgb = cv2.GaussianBlur(rgb, (3, 3), rng.uniform(0.3, 0.7))
    v, u = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]), indexing="ij")
    rgb *= (1 - rng.uniform(0.03, 0.10) * (u**2 + v**2))[..., None].astype(np.float32)
    rgb *= rng.uniform(0.8, 1.15) * (1 + rng.uniform(-0.05, 0.05, 3)).astype(np.float32)
    rgb += rng.normal(0, rng.uniform(1.5, 4.5), rgb.shape).astype(np.float32)
    return Scene(np.clip(rgb, 0, 255).astype(np.uint8), label, instance)


_FACADES: list[Color] = [
    (168, 150, 128),
    (150, 96, 78),
    (190, 182, 168),
    (132, 128, 124),
    (176, 150, 100),
    (120, 84, 70),
    (205, 196, 176),
]


class _Street:
    """One scene: its layout is drawn first, then everything is painted from far to near."""

    def __init__(self, camera: Camera, rng: np.random.Generator) -> None:
        self.rng, self.camera = rng, camera
        overcast = rng.random() < 0.4
        self.sky_top: Color = vary(rng, (172, 178, 184) if overcast else (86, 132, 190), 10)
        self.sky_low: Color = vary(rng, (200, 202, 204) if overcast else (188, 206, 222), 8)
        self.canvas = Canvas(camera, self.sky_low, rng.uniform(180, 450), rng)
        self.shadow = rng.uniform(0.12, 0.25) if overcast else rng.uniform(0.3, 0.5)
        self.sun_side = int(rng.choice([-1, 1]))
        self.road = rng.uniform(3.6, 6.5)
        self.walk = rng.uniform(2.0, 4.2)
        self.objects = StreetObjects(self.canvas, rng, self.shadow, self.sun_side)

    def draw(self) -> None:
        self._sky()
        self._ground()
        if self.rng.random() < 0.6:
            self._tree_line()
        for side in (-1, 1):
            self._houses(side)
        things = self._things()
        for _, paint in sorted(things, key=lambda thing: -thing[0]):
            paint()

    def _sky(self) -> None:
        canvas, height = self.canvas, self.camera.height
        mix = np.clip(np.arange(height) / max(self.camera.horizon, 1), 0, 1)[:, None, None]
        sky = np.asarray(self.sky_top) * (1 - mix) + np.asarray(self.sky_low) * mix
        canvas.rgb[:] = sky.astype(np.float32)
        clouds = np.clip(canvas.grain["broad"] * 0.6 + canvas.grain["soft"] * 0.15 - 0.2, 0, 1)[..., None]
        canvas.rgb += clouds * (np.array([238, 238, 240], np.float32) - canvas.rgb) * 0.7
        canvas.label[:] = SKY
        canvas.instance[:] = SKY

    def _strip(
        self, x0: float, x1: float, z0: float, z1: float, color: Color, label: int | None, **options: object
    ) -> None:
        """A strip of ground, in pieces so that haze and texture follow the distance."""
        edges = np.geomspace(z0, z1, 10) if z1 > 2 * z0 else np.array([z0, z1])
        for a, b in zip(edges[-2::-1], edges[:0:-1], strict=True):
            self.canvas.polygon([(x0, 0, a), (x1, 0, a), (x1, 0, b), (x0, 0, b)], color, label, **options)

    def _ground(self) -> None:
        rng, road, walk = self.rng, self.road, self.walk
        grass = vary(rng, (96, 116, 62), 10)
        asphalt = pick(rng, [(92, 92, 96), (112, 110, 108), (78, 80, 86)], 6)
        paving = pick(rng, [(150, 146, 140), (132, 122, 114), (166, 160, 150)], 6)
        near = 1.2
        self._strip(-80, 80, near, _FAR, grass, TERRAIN, grain=(7.0, 9.0))
        self.verge = {side: rng.random() < 0.45 for side in (-1, 1)}
        for side in (-1, 1):
            strip = sorted((side * road, side * (road + walk)))
            self._strip(*strip, near, _FAR, paving, SIDEWALK, grain=(4.0, 5.0))
            for z in np.arange(2.0, 40, 1.2):  # joints between the slabs
                self._strip(*strip, z, z + 0.04, dim(paving, 0.82), None)
            if not self.verge[side]:  # paved up to the houses
                self._strip(*sorted((side * (road + walk), side * 80)), near, _FAR, dim(paving, 0.97), SIDEWALK)
        self._strip(-road, road, near, _FAR, asphalt, ROAD, grain=(5.0, 6.0))
        for side in (-1, 1):
            kerb = sorted((side * road, side * (road + 0.18)))
            self._strip(*kerb, near, _FAR, vary(rng, (178, 174, 168), 6), SIDEWALK)
        self._markings(asphalt)

    def _markings(self, asphalt: Color) -> None:
        rng, white = self.rng, vary(self.rng, (214, 212, 204), 6)
        offset = rng.uniform(0, 4)
        for z in np.arange(1.5 + offset, 90, 6.0):
            self._strip(-0.08, 0.08, z, z + 3.0, white, None)
        if rng.random() < 0.5:
            for side in (-1, 1):
                self._strip(*sorted((side * (self.road - 0.45), side * (self.road - 0.33))), 1.3, 110, white, None)
        if rng.random() < 0.4:
            z = rng.uniform(7, 22)
            for x in np.arange(-self.road + 0.5, self.road - 0.5, 1.0):
                self._strip(x, x + 0.5, z, z + 3.2, white, None)
        for _ in range(int(rng.integers(0, 4))):  # patches of newer asphalt
            x, z = rng.uniform(-self.road, self.road - 1.5), rng.uniform(4, 30)
            self._strip(
                x, x + rng.uniform(0.8, 1.5), z, z + rng.uniform(1, 5), dim(asphalt, rng.uniform(0.8, 0.92)), None
            )

    def _tree_line(self) -> None:
        """Woods where the street ends."""
        rng = self.rng
        for x in np.arange(-70, 70, 5.0):
            self.objects.crown((x + rng.uniform(-2, 2), rng.uniform(3, 7), rng.uniform(120, 150)), rng.uniform(4, 7))

    def _houses(self, side: int) -> None:
        rng = self.rng
        x = side * (self.road + self.walk + rng.uniform(0.3, 6.0 if self.verge[side] else 2.0))
        houses, z = [], rng.uniform(-4, 3)
        while z < 130:
            length = rng.uniform(9, 24)
            if rng.random() < 0.85:
                houses.append((z, length, rng.uniform(5, 17)))
            z += length + (rng.uniform(2, 14) if rng.random() < 0.5 else 0.0)
        for z, length, height in reversed(houses):
            if z + length > 2.5:
                self._house(x, side, max(z, 2.0), z + length, height)

    def _house(self, x: float, side: int, z0: float, z1: float, height: float) -> None:
        rng, canvas = self.rng, self.canvas
        wall = pick(rng, _FACADES, 12)
        lit = 1.08 if side == self.sun_side else 0.82
        depth = x + side * rng.uniform(8, 14)

        def flank(y0: float, y1: float, a: float, b: float, color: Color, **options: object) -> None:
            canvas.polygon([(x, y0, a), (x, y0, b), (x, y1, b), (x, y1, a)], color, BUILDING, **options)

        gable = [(x, 0, z0), (depth, 0, z0), (depth, height, z0), (x, height, z0)]
        canvas.polygon(gable, dim(wall, 0.9), BUILDING, grain=(3.0, 5.0))
        flank(0, height, z0, z1, dim(wall, lit), grain=(3.0, 5.0))
        if rng.random() < 0.55:  # a pitched roof
            ridge, middle = height + rng.uniform(1.5, 3.5), (x + depth) / 2
            roof = pick(rng, [(122, 66, 52), (84, 80, 82), (98, 74, 60)], 8)
            top = (middle, ridge, z0)
            canvas.polygon([(x, height, z0), (depth, height, z0), top], dim(wall, 0.88), BUILDING)
            slope = [(x, height, z0), (x, height, z1), (middle, ridge, z1), top]
            canvas.polygon(slope, dim(roof, lit), BUILDING)
        else:
            flank(height, height + 0.35, z0, z1, dim(wall, lit * 0.75))
        glass, frame = vary(rng, (62, 72, 84), 12), dim(wall, lit * 1.18)
        step, storey = rng.uniform(1.8, 2.8), rng.uniform(2.7, 3.3)
        wide, tall = step * rng.uniform(0.35, 0.55), storey * rng.uniform(0.4, 0.6)
        for base in np.arange(0.9, height - tall - 0.3, storey):
            for z in np.arange(z0 + 0.6, z1 - wide, step):
                lights = 1.9 if rng.random() < 0.06 else rng.uniform(0.75, 1.25)
                flank(base - 0.12, base + tall + 0.1, z - 0.1, z + wide + 0.1, frame)
                flank(base, base + tall, z, z + wide, dim(glass, lights))
        canvas.shade([(x, 0, z0), (x, 0, z1), (x - side * 1.2, 0, z1), (x - side * 1.2, 0, z0)], self.shadow * 0.6)
        if side == -self.sun_side:
            reach = x - side * min(height * 0.5, self.walk + self.road)
            canvas.shade([(x, 0, z0), (x, 0, z1), (reach, 0, z1), (reach, 0, z0)], self.shadow * 0.8)

    def _things(self) -> list[tuple[float, Callable[[], None]]]:
        """(distance, painter) of everything that stands on the street."""
        rng, kerb, walk = self.rng, self.road, self.walk
        things: list[tuple[float, Callable[[], None]]] = []

        def place(paint: Callable[..., None], z: float, *arguments: object) -> None:
            things.append((z, lambda: paint(z, *arguments)))

        for side in (-1, 1):
            beyond = side * (kerb + walk + 0.2)
            if rng.random() < 0.35:
                for z in np.arange(_NEAR, rng.uniform(15, 45), 2.5):
                    place(self.objects.fence, z + 2.5, beyond, z)
            spacing, z = rng.uniform(8, 20), rng.uniform(4, 12)
            while z < 34:
                if rng.random() < 0.75:
                    place(self.objects.pole, z, side * (kerb + rng.uniform(0.3, 0.7)), side)
                z += spacing * rng.uniform(0.7, 1.3)
            for _ in range(int(rng.integers(0, 7))):
                offset = rng.uniform(0.6, walk) if rng.random() < 0.5 else walk + rng.uniform(0.5, 6)
                place(self.objects.tree, rng.uniform(5, 70), side * (kerb + offset))
            z = rng.uniform(3.5, 14)
            while z < 45:
                if rng.random() < 0.55:
                    place(self.objects.car, z, side * (kerb - rng.uniform(0.95, 1.15)), side)
                z += rng.uniform(5.6, 9)
            for _ in range(int(rng.integers(1, 6))):
                place(
                    self.objects.person,
                    rng.uniform(4, 12) if rng.random() < 0.7 else rng.uniform(12, 24),
                    side * (kerb + rng.uniform(0.4, walk)),
                )
            for _ in range(int(rng.integers(0, 3))):
                place(self.objects.bicycle, rng.uniform(4, 14), side * (kerb + rng.uniform(0.4, walk)))
        for _ in range(int(rng.integers(0, 3))):
            lane = int(rng.choice([-1, 1]))
            place(self.objects.car, rng.uniform(8, 45), lane * kerb * rng.uniform(0.25, 0.4), lane)
        for _ in range(int(rng.integers(0, 4))):
            place(self.objects.rider, rng.uniform(5, 18), rng.uniform(-0.75, 0.75) * kerb)
        if rng.random() < 0.3:
            place(self.objects.person, rng.uniform(6, 20), rng.uniform(-0.8, 0.8) * kerb)
        return things
