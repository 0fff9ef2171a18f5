"""What stands on a street: fences, poles, lights, signs, trees, cars, people and bicycles, in meters."""

from __future__ import annotations

import numpy as np

from openseg_demo.canvas import Canvas, Color

__all__ = ["StreetObjects", "dim", "pick", "vary"]

FENCE, POLE, LIGHT, SIGN = 13, 17, 19, 20
VEGETATION, PERSON, RIDER, CAR, BICYCLE = 21, 24, 25, 26, 33

_PAINTS: list[Color] = [
    (30, 32, 36),
    (170, 174, 180),
    (215, 215, 212),
    (130, 24, 28),
    (28, 50, 104),
    (70, 78, 84),
    (34, 74, 60),
]
_CLOTHES: list[Color] = [
    (30, 32, 44),
    (140, 40, 44),
    (52, 78, 128),
    (190, 180, 160),
    (70, 96, 70),
    (180, 140, 50),
    (90, 90, 96),
]
_BRIGHT: list[Color] = [(226, 222, 60), (240, 128, 40), (70, 206, 222), (236, 90, 150)]
_SKINS: list[Color] = [(224, 178, 150), (190, 140, 110), (120, 84, 64)]
_HAIR: list[Color] = [(40, 30, 24), (96, 70, 44), (28, 28, 30)]
_LEAVES: list[Color] = [(72, 98, 44), (58, 84, 48), (98, 112, 52), (124, 100, 44)]


def vary(rng: np.random.Generator, color: Color, amount: float = 12.0) -> Color:
    """A color near ``color``."""
    return tuple(float(c) for c in np.clip(np.asarray(color) + rng.normal(0, amount, 3), 5, 250))


def dim(color: Color, factor: float) -> Color:
    """``color`` under less (or more) light."""
    return tuple(c * factor for c in color)


def pick(rng: np.random.Generator, colors: list[Color], amount: float = 10.0) -> Color:
    """A color near one of ``colors``."""
    return vary(rng, colors[int(rng.integers(len(colors)))], amount)


def _box(x0: float, x1: float, y0: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _ring(radius: float, steps: int = 16) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return radius * np.stack([np.sin(turn), np.cos(turn)], axis=1)


class StreetObjects:
    """Painters of single things, each at a distance ``z`` and a place ``x`` across the street."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator, shadow: float, sun_side: int) -> None:
        self.canvas, self.camera, self.rng = canvas, canvas.camera, rng
        self.shadow, self.sun_side = shadow, sun_side
        self.count = 0

    def number(self) -> int:
        """The next instance number."""
        self.count += 1
        return self.count

    def fence(self, z_end: float, x: float, z: float) -> None:
        """A stretch of fence along the street, from ``z`` to ``z_end``."""
        color, top = (78, 84, 80), 1.1

        def panel(z0: float, z1: float, y0: float, y1: float, tone: Color, **options: object) -> None:
            self.canvas.polygon([(x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)], tone, FENCE, **options)

        panel(z, z_end, 0, top, (104, 112, 92), grain=(7.0, 8.0))
        for bar in np.arange(z, z_end, 0.35):
            panel(bar, bar + 0.1, 0, top, color)
        panel(z, z_end, top - 0.08, top + 0.02, dim(color, 0.8))

    def _bar(self, x: float, z: float, low: float, high: float, width: float, color: Color, label: int) -> None:
        """A vertical bar, at least two canvas pixels wide."""
        half = max(width, 2.2 / self.camera.pixels(1.0, z)) / 2
        self.canvas.upright(_box(-half, half, low, high), (x, z), color, label)
        self.canvas.upright(_box(0, half, low, high), (x, z), dim(color, 0.75), label)

    def pole(self, z: float, x: float, side: int) -> None:
        """A street lamp, or the post of a traffic light or sign."""
        rng, canvas = self.rng, self.canvas
        color = pick(rng, [(110, 112, 112), (74, 80, 78), (140, 140, 136)], 6)
        kind = rng.random()
        tall = rng.uniform(5.5, 8.5) if kind < 0.4 else rng.uniform(2.8, 3.8)
        canvas.shade([(x - 0.1, 0, z), (x + 0.1, 0, z), (x + 3 * self.sun_side, 0, z + 1.2)], self.shadow)
        self._bar(x, z, 0, tall, rng.uniform(0.16, 0.28), color, POLE)
        if kind < 0.4:
            reach = -side * rng.uniform(1.0, 2.0)
            thick = max(0.09, 2.2 / self.camera.pixels(1.0, z))
            arm = [(0, tall - thick), (reach, tall + 0.3 - thick), (reach, tall + 0.3), (0, tall)]
            canvas.upright(arm, (x, z), color, POLE)
        elif kind < 0.7:
            self._traffic_light(x, z, tall)
        else:
            self._sign(x, z, tall)

    def _traffic_light(self, x: float, z: float, top: float) -> None:
        self.canvas.upright(_box(-0.24, 0.24, top - 0.97, top + 0.07), (x, z), (28, 30, 30), LIGHT)
        on = int(self.rng.choice([0, 0, 1, 2, 2]))
        for i, lamp in enumerate([(226, 48, 40), (236, 176, 44), (60, 214, 120)]):
            self.canvas.disc((x, top - 0.13 - 0.31 * i, z), 0.125, lamp if i == on else dim(lamp, 0.25), LIGHT)

    def _sign(self, x: float, z: float, top: float) -> None:
        rng, canvas = self.rng, self.canvas
        kind, r = int(rng.integers(4)), rng.uniform(0.38, 0.55)
        if kind == 0:
            for scale, color in ((1.25, (196, 34, 38)), (0.8, (236, 234, 226))):
                low, high = top - 0.6 * r * scale, top + 1.1 * r * scale
                canvas.upright([(-r * scale, low), (r * scale, low), (0, high)], (x, z), color, SIGN)
        elif kind == 1:
            canvas.disc((x, top, z), r, (200, 34, 40), SIGN)
            canvas.disc((x, top, z), r * 0.72, (238, 236, 230), SIGN)
        elif kind == 2:
            canvas.disc((x, top, z), r, (30, 84, 176), SIGN)
            canvas.upright(_box(-0.06, 0.06, top - r * 0.5, top + r * 0.5), (x, z), (236, 238, 240), SIGN)
        else:
            color = pick(rng, [(236, 200, 40), (34, 92, 170), (40, 120, 70)], 6)
            canvas.upright(_box(-r * 1.3, r * 1.3, top - r, top + r * 0.7), (x, z), color, SIGN)
            canvas.upright(_box(-r * 0.9, r * 0.9, top - r * 0.2, top), (x, z), (240, 240, 236), SIGN)

    def tree(self, z: float, x: float) -> None:
        """A tree with its trunk, or sometimes a bush."""
        rng = self.rng
        tall, size = rng.uniform(1.8, 3.2), rng.uniform(1.2, 2.6)
        reach = x + 2.2 * size * self.sun_side
        self.canvas.shade(
            [(x - 0.2, 0, z - 0.4), (reach, 0, z - 0.6), (reach, 0, z + 1.0), (x, 0, z + 0.6)], self.shadow
        )
        if rng.random() < 0.2:
            self.crown((x, 0.5, z), rng.uniform(0.6, 1.0))
            return
        self._bar(x, z, 0, tall + size * 0.5, rng.uniform(0.16, 0.32), vary(rng, (84, 68, 54), 6), VEGETATION)
        self.crown((x, tall + size * 0.7, z), size)

    def crown(self, center: tuple[float, float, float], size: float) -> None:
        """Foliage: a few balls, eaten away by noise at their rim."""
        rng, canvas, camera = self.rng, self.canvas, self.camera
        (u, v), radius = camera.project([center])[0], camera.pixels(size, center[2])
        left, top = int(max(u - 1.6 * radius, 0)), int(max(v - 1.5 * radius, 0))
        right, bottom = int(min(u + 1.6 * radius + 1, camera.width)), int(min(v + 1.5 * radius + 1, camera.height))
        if right <= left or bottom <= top:
            return
        rows, columns = np.mgrid[top:bottom, left:right].astype(np.float32)
        field = np.full(rows.shape, -9.0, np.float32)
        for _ in range(7):
            du, dv = rng.normal(0, 0.38, 2) * radius
            ball = radius * rng.uniform(0.45, 0.75)
            field = np.maximum(field, 1 - np.hypot(columns - u - du, rows - v - dv) / ball)
        area = (slice(top, bottom), slice(left, right))
        mask = field + 0.22 * canvas.grain["soft"][area] > 0.05
        canvas.paint(mask, (top, left), pick(rng, _LEAVES, 8), center[2], VEGETATION, grain=(11.0, 12.0))
        light = np.clip((columns - u) * self.sun_side - (rows - v), -radius, radius) / (radius + 1e-6)
        canvas.rgb[area] *= 1 + 0.18 * (light * mask)[..., None]

    def car(self, z: float, x: float, side: int) -> None:
        """A car along the street, seen from behind and from the flank towards ``-side``."""
        rng, canvas = self.rng, self.canvas
        color, number = pick(rng, _PAINTS, 8), self.number()
        long, half, tall = rng.uniform(3.7, 4.7), rng.uniform(0.82, 0.92), rng.uniform(1.38, 1.75)
        belt = tall * 0.6
        near, far = x - side * half, x + side * half
        under = [(x - half - 0.25, 0, z - 0.3), (x + half + 0.25, 0, z - 0.3)]
        under += [(px, 0, z + long) for px, _, _ in reversed(under)]
        canvas.shade(under, min(self.shadow + 0.25, 0.7))
        wheels = (0.75, long - 0.8)
        for wheel in wheels:
            for flank in (near, far):
                tyre = [(flank, 0.31 + y, z + wheel + dz) for y, dz in _ring(0.31)]
                canvas.polygon(tyre, (22, 22, 24), CAR, instance=number)
        lower = [(0, 0.3), (0, belt), (long * 0.74, belt), (long, belt * 0.86), (long, 0.3)]
        cabin = [(0, belt), (0.45, tall * 0.96), (0.75, tall), (long * 0.55, tall), (long * 0.74, belt)]
        for part in (lower, cabin):
            points = [(flank, y, z + dz) for dz, y in part for flank in (near, far)]
            canvas.hull(points, dim(color, 0.8), CAR, instance=number)
        lit = 1.1 if side == self.sun_side else 0.85
        for part in (lower, cabin):
            canvas.polygon([(near, y, z + dz) for dz, y in part], dim(color, lit), CAR, instance=number)
        panes = [(0.5, belt + 0.04), (0.72, tall - 0.1), (long * 0.53, tall - 0.1), (long * 0.69, belt + 0.04)]
        canvas.polygon([(near, y, z + dz) for dz, y in panes], (40, 48, 56), CAR, instance=number)
        for wheel in wheels:
            for r, tone in ((0.33, (20, 20, 22)), (0.19, (136, 138, 142))):
                tyre = [(near, 0.33 + y, z + wheel + dz) for y, dz in _ring(r)]
                canvas.polygon(tyre, tone, CAR, instance=number)
        self._rear(z, x, half, belt, tall, color, number)

    def _rear(self, z: float, x: float, half: float, belt: float, tall: float, color: Color, number: int) -> None:
        def part(shape: list[tuple[float, float]], tone: Color) -> None:
            self.canvas.upright(shape, (x, z), tone, CAR, instance=number)

        part(_box(-half, half, 0.3, belt), dim(color, 0.95))
        top = tall * 0.95
        part([(-half * 0.88, belt), (half * 0.88, belt), (half * 0.72, top), (-half * 0.72, top)], (46, 54, 62))
        part(_box(-half, half, 0.28, 0.46), dim(color, 0.6))
        part(_box(-0.26, 0.26, 0.52, 0.64), (226, 224, 210))
        for lamp in (-half, half * 0.72):
            part(_box(lamp, lamp + half * 0.28, belt * 0.66, belt * 0.88), (182, 26, 28))

    def person(self, z: float, x: float) -> None:
        """Somebody standing or walking."""
        number = self.number()
        shadow = [(x - 0.25, 0, z - 0.1), (x + 0.25, 0, z - 0.1), (x + 1.2 * self.sun_side, 0, z + 0.7)]
        self.canvas.shade(shadow, self.shadow)
        self._figure(x, z, self.rng.uniform(1.5, 1.88), PERSON, number, ground=0.0)

    def _figure(self, x: float, z: float, tall: float, label: int, number: int, ground: float) -> None:
        """Legs, trunk, arms and head, in a random pose."""
        rng = self.rng
        shirt = pick(rng, _BRIGHT if label == RIDER else _CLOTHES)
        trousers, skin = pick(rng, _CLOTHES), pick(rng, _SKINS, 6)
        hip, shoulder, neck = tall * 0.48, tall * 0.82, tall * 0.87
        stride = rng.uniform(0.02, 0.17) * tall
        wide = 0.125 * tall * rng.uniform(0.75, 1.1)

        def part(shape: list[tuple[float, float]], color: Color) -> None:
            raised = [(dx, ground + y) for dx, y in shape]
            self.canvas.upright(raised, (x, z), color, label, instance=number)

        def limb(x0: float, y0: float, x1: float, y1: float, w: float, color: Color) -> None:
            part([(x0 - w, y0), (x0 + w, y0), (x1 + w * 0.8, y1), (x1 - w * 0.8, y1)], color)

        for step in (-1, 1):
            limb(step * wide * 0.45, hip, step * stride, 0, 0.045 * tall, dim(trousers, 1.0 if step > 0 else 0.82))
            elbow = wide * 1.15 + rng.uniform(0, 0.06)
            limb(step * wide * 0.95, shoulder, step * elbow, hip * 0.95, 0.026 * tall, dim(shirt, 0.85))
        half = [(wide * 0.8, hip * 0.95), (wide, shoulder), (wide * 0.5, neck)]
        part(half + [(-dx, y) for dx, y in reversed(half)], shirt)
        for height, radius, stretch, color in (
            (0.935, 0.062, 1.2, skin),
            (0.965, 0.060, 0.75, pick(rng, _HAIR, 5)),
        ):
            center = (x, ground + tall * height, z)
            self.canvas.disc(center, radius * tall, color, label, stretch=stretch, instance=number)

    def bicycle(self, z: float, x: float) -> None:
        """Two spoked wheels and a frame, seen from the side; what shows between the spokes belongs to it."""
        rng, canvas, number = self.rng, self.canvas, self.number()
        color = pick(rng, [*_PAINTS, (190, 40, 44), (30, 120, 140)], 8)
        r, base = 0.34, 0.52
        canvas.shade(
            [(x - 0.8, 0, z - 0.1), (x + 0.8, 0, z - 0.1), (x + 0.8, 0, z + 0.2), (x - 0.8, 0, z + 0.2)], self.shadow
        )
        for hub in (-base, base):
            canvas.disc((x + hub, r, z), r, (26, 26, 28), BICYCLE, instance=number)
            canvas.disc((x + hub, r, z), r * 0.86, (118, 116, 112), BICYCLE, instance=number, grain=(9.0, 6.0))
        rear, front, crank, seat, bar = (-base, r), (base, r), (-0.05, 0.34), (-0.18, 0.86), (0.36, 0.82)
        tubes = [(rear, seat), (seat, bar), (crank, bar), (rear, crank), (front, (0.36, 1.0)), (crank, (-0.2, 0.95))]
        thick = max(0.035, 2.0 / self.camera.pixels(1.0, z)) / 2
        for start, end in tubes:
            along = np.subtract(end, start)
            across = np.array([along[1], -along[0]]) * thick / max(float(np.hypot(*along)), 1e-6)
            shape = [start - across, start + across, end + across, end - across]
            canvas.upright(shape, (x, z), color, BICYCLE, instance=number)
        canvas.upright(_box(-0.32, -0.06, 0.93, 0.99), (x, z), (30, 28, 28), BICYCLE, instance=number)

    def rider(self, z: float, x: float) -> None:
        """Somebody on a bicycle."""
        self.bicycle(z, x)
        self._figure(x - 0.05, z, self.rng.uniform(1.35, 1.55), RIDER, self.number(), ground=0.38)
