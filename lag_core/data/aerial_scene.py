"""What stands where on a procedural aerial tile: streets, parcels, roofs, cars, trees and one sun.

A scene is planned in metres in a street frame (u along the main street, v across it) and handed over in
pixels of the tile (x to the right, y down, 0 at the upper left corner). Nothing here knows how a material
looks; see ``aerial_render``. Ours; no published generator is followed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Literal, TypeVar

Domain = Literal["rgb", "irrg"]
RoofKind = Literal["gable", "hip", "flat"]
Point = tuple[float, float]
Name = TypeVar("Name", bound=str)

SHADOW = 64
"""The longest shadow that is looked for, in pixels; what stands further outside a tile cannot darken it."""


@dataclass(frozen=True)
class Sun:
    """Where the light comes from, in radians: azimuth in image axes (from x towards y) and elevation."""

    azimuth: float
    elevation: float

    @property
    def towards(self) -> Point:
        """Unit vector (x, y) in the image that points to the sun; shadows fall the other way."""
        return math.cos(self.azimuth), math.sin(self.azimuth)


@dataclass(frozen=True)
class Shape:
    """A patch of ground in pixels: a polygon, or a line of `width` pixels when `width` > 0."""

    material: str
    points: list[Point]
    width: int = 0


@dataclass(frozen=True)
class Cover:
    """How a building is roofed: `eave` in metres above ground, `pitch` as rise over run.

    `weathering` (0..1) mixes the two reflectances of the material.
    """

    kind: RoofKind
    material: str
    eave: float
    pitch: float
    weathering: float


@dataclass(frozen=True)
class Roof:
    """A rectangular roof in pixels; `length` along the ridge, which looks to `angle`."""

    x: float
    y: float
    angle: float
    length: float
    width: float
    eave: float
    cover: Cover
    fittings: tuple[Fitting, ...] = ()


@dataclass(frozen=True)
class Fitting:
    """Something on a roof: a rectangle in roof axes (pixels from its centre), `rise` pixels above it."""

    material: str
    along: float
    across: float
    length: float
    width: float
    rise: float


@dataclass(frozen=True)
class Car:
    """A car in pixels; `angle` is the direction in which it looks."""

    x: float
    y: float
    angle: float
    length: float
    paint: str
    body: int


@dataclass(frozen=True)
class Crown:
    """A tree crown in pixels; `variant` picks one of the stored crowns of that radius."""

    x: float
    y: float
    radius: float
    material: str
    weathering: float
    variant: int


@dataclass
class Scene:
    """Everything on one tile, in drawing order; lengths in pixels, `scale` in pixels per metre."""

    size: int
    scale: float
    angle: float
    sun: Sun
    ground: str
    shapes: list[Shape] = field(default_factory=list)
    roofs: list[Roof] = field(default_factory=list)
    cars: list[Car] = field(default_factory=list)
    crowns: list[Crown] = field(default_factory=list)


@dataclass(frozen=True)
class Style:
    """What makes a town: pixels per metre, what fills its blocks, its roofs and its streets (metres)."""

    scale: float
    fillings: dict[str, float]
    roofs: dict[str, float]
    kinds: dict[RoofKind, float]
    trees: dict[str, float]
    street: tuple[float, float]
    greenery: float


STYLES: dict[str, Style] = {
    "rgb": Style(
        scale=5.2,
        fillings={"houses": 4, "terrace": 4, "parking": 1.6, "hall": 1.1, "park": 2},
        roofs={"red tile": 3, "brown tile": 2, "slate": 2, "grey tile": 1.5, "copper": 0.3},
        kinds={"gable": 5, "hip": 2},
        trees={"broadleaf": 5, "lime": 3, "conifer": 1, "copper beech": 0.4},
        street=(3.4, 5.0),
        greenery=1.1,
    ),
    "irrg": Style(
        scale=4.6,
        fillings={"houses": 6, "terrace": 1.5, "parking": 1.4, "hall": 1, "park": 1, "field": 0.9},
        roofs={"red tile": 4, "orange tile": 3, "brown tile": 3, "slate": 1},
        kinds={"gable": 3, "hip": 4},
        trees={"broadleaf": 5, "lime": 2, "conifer": 2},
        street=(2.7, 3.8),
        greenery=1.2,
    ),
}
FLAT_ROOFS = {"bitumen": 3, "gravel roof": 2, "membrane": 1}
PAINTS = {
    "white": 4,
    "silver": 4,
    "grey": 3,
    "black": 4,
    "red": 1.3,
    "blue": 1.6,
    "green": 0.3,
    "yellow": 0.3,
}


@dataclass(frozen=True)
class Block:
    """A rectangle of land in metres, from the street edge v = `front` to `front` + `sign` * `depth`."""

    u0: float
    u1: float
    front: float
    sign: int
    depth: float

    @property
    def width(self) -> float:
        return self.u1 - self.u0

    def v(self, depth: float) -> float:
        return self.front + self.sign * depth

    def part(self, u0: float, u1: float, near: float, far: float) -> Block:
        """The part between two u and two depths."""
        return Block(u0, u1, self.v(near), self.sign, far - near)


class Planner:
    """Places things given in metres of the street frame into a scene, and remembers where buildings stand."""

    def __init__(self, rng: Random, style: Style, size: int):
        self.rng, self.style, self.size = rng, style, size
        self.angle = rng.uniform(0, 2 * math.pi)
        self.cos, self.sin = math.cos(self.angle), math.sin(self.angle)
        self.bend = rng.choice((0, 0, 1)) * rng.uniform(-0.006, 0.006)
        self.reach = size / 2 / style.scale * 1.42 + 10
        sun = Sun(rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(38, 56)))
        self.scene = Scene(size, style.scale, self.angle, sun, "lawn")
        self.built: list[tuple[float, float, float, float]] = []

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def pick(self, weights: Mapping[Name, float]) -> Name:
        return self.rng.choices(list(weights), list(weights.values()))[0]

    def px(self, u: float, v: float) -> Point:
        """Metres in the street frame, bent with the street, to pixels."""
        v += self.bend * u * u
        s, half = self.style.scale, self.size / 2
        return half + s * (self.cos * u - self.sin * v), half + s * (self.sin * u + self.cos * v)

    def heading(self, u: float) -> float:
        """Direction of the street at u, radians in the image."""
        return self.angle + math.atan(2 * self.bend * u)

    def shows(self, x: float, y: float, reach: float, shadow: float) -> bool:
        """Whether a thing within `reach` pixels of (x, y), or its `shadow` of that length, meets the tile."""
        dx, dy = self.scene.sun.towards
        return all(
            -reach - max(0.0, -shadow * d) < at < self.size + reach + max(0.0, shadow * d)
            for at, d in ((x, dx), (y, dy))
        )

    def outline(self, material: str, points: list[Point]) -> None:
        self.scene.shapes.append(Shape(material, [self.px(u, v) for u, v in points]))

    def area(self, material: str, u0: float, u1: float, v0: float, v1: float) -> None:
        """A rectangle in metres that follows the bend of the street."""
        n = 1 + (int(abs(u1 - u0) / 6) if self.bend else 0)
        us = [u0 + (u1 - u0) * i / n for i in range(n + 1)]
        self.outline(material, [(u, v0) for u in us] + [(u, v1) for u in reversed(us)])

    def strip(self, material: str, block: Block, near: float, far: float) -> None:
        """The whole width of a block between two depths."""
        self.area(material, block.u0, block.u1, block.v(near), block.v(far))

    def blob(self, material: str, u: float, v: float, ru: float, rv: float) -> None:
        """A rounded, slightly irregular patch around (u, v)."""
        a, b = self.rng.uniform(0, 6.3), self.rng.uniform(0, 6.3)
        points = []
        for i in range(20):
            t = i * math.pi / 10
            r = 1 + 0.16 * math.sin(2 * t + a) + 0.1 * math.sin(3 * t + b)
            points.append((u + ru * r * math.cos(t), v + rv * r * math.sin(t)))
        self.outline(material, points)

    def line(self, material: str, u0: float, v0: float, u1: float, v1: float, width: int = 1) -> None:
        n = 1 + (int(abs(u1 - u0) / 6) if self.bend else 0)
        points = [self.px(u0 + (u1 - u0) * i / n, v0 + (v1 - v0) * i / n) for i in range(n + 1)]
        self.scene.shapes.append(Shape(material, points, width))

    def flat(self, eave: float, weights: Mapping[str, float] = FLAT_ROOFS) -> Cover:
        """The cover of a flat roof."""
        return Cover("flat", self.pick(weights), eave, 0, self.rng.random())

    def roof(self, u: float, v: float, along: float, across: float, cover: Cover) -> None:
        """A roof of `along` x `across` metres; the ridge follows the longer side."""
        half_u, half_v = along / 2, across / 2
        self.built.append((u - half_u, u + half_u, v - half_v, v + half_v))
        (x, y), s, angle = self.px(u, v), self.style.scale, self.heading(u)
        if not self.shows(x, y, s * math.hypot(half_u, half_v), SHADOW):
            return
        if across > along:
            along, across, angle = across, along, angle + math.pi / 2
        fittings = self.fittings(cover.kind, along * s, across * s) if along > 5.5 else ()
        self.scene.roofs.append(Roof(x, y, angle, along * s, across * s, cover.eave * s, cover, fittings))

    def fittings(self, kind: RoofKind, length: float, width: float) -> tuple[Fitting, ...]:
        """Chimneys, skylights and solar panels of a pitched roof; machines and domes of a flat one."""
        rng, out = self.rng, []
        if kind == "flat":
            for _ in range(rng.randint(1, 2 + int(length * width / 3000))):
                a, b = rng.uniform(4, 9), rng.uniform(4, 12)
                spot = rng.uniform(-0.36, 0.36) * length, rng.uniform(-0.32, 0.32) * width
                out.append(Fitting(rng.choice(("metal", "skylight", "concrete")), *spot, b, a, rng.uniform(2, 7)))
            return tuple(out)
        ridge = length * (0.3 if kind == "gable" else 0.15)
        for _ in range(rng.randint(0, 2)):
            out.append(Fitting("brick", rng.uniform(-ridge, ridge), rng.uniform(-0.12, 0.12) * width, 4, 3.4, 5))
        side = rng.choice((-1, 1))
        if self.chance(0.16):
            out += [
                Fitting("solar", i * 6.6, side * width * 0.26, 5.8, width * 0.26, 0.4) for i in (-1.5, -0.5, 0.5, 1.5)
            ]
        elif self.chance(0.6):
            n = rng.randint(1, 4)
            out += [
                Fitting("skylight", (i - (n - 1) / 2) * length * 0.17, side * width * 0.25, 3.6, 4.6, 0.3)
                for i in range(n)
            ]
        return tuple(out)

    def car(self, u: float, v: float, turn: float = 0.0) -> None:
        """A car at (u, v), unless a building stands there; `turn` is its direction relative to the street."""
        x, y = self.px(u, v)
        if self.shows(x, y, 14, 12) and not self.covered(u, v, 1.5):
            angle = self.heading(u) + turn + self.rng.gauss(0, 0.025) + self.rng.choice((0, math.pi))
            length = self.rng.uniform(4.25, 4.95) * self.style.scale
            self.scene.cars.append(Car(x, y, angle, length, self.pick(PAINTS), self.rng.randrange(3)))

    def tree(self, u: float, v: float, radius: float, material: str | None = None) -> None:
        """A crown of `radius` metres, unless it would grow out of a roof."""
        x, y = self.px(u, v)
        kind = material or self.pick(self.style.trees)
        if self.shows(x, y, 1.3 * radius * self.style.scale, 36) and not self.covered(u, v, 0.55 * radius):
            rng = self.rng
            self.scene.crowns.append(Crown(x, y, radius * self.style.scale, kind, rng.random(), rng.randrange(64)))

    def grove(self, u: float, v: float, n: int, spread: float) -> None:
        """`n` trees of one kind mostly, around (u, v)."""
        kind = self.pick(self.style.trees)
        for _ in range(n):
            spot = self.rng.gauss(u, spread), self.rng.gauss(v, spread)
            self.tree(*spot, self.rng.uniform(1.7, 4.4), kind if self.chance(0.7) else None)

    def covered(self, u: float, v: float, margin: float) -> bool:
        return any(a - margin < u < b + margin and c - margin < v < d + margin for a, b, c, d in self.built)
