"""What the blocks of an aerial tile are used for. Lengths in metres. Ours.

A filling is a function of a planner and a block; adding one is one function and its name in ``FILLINGS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from random import Random

from lag_core.data.aerial_scene import (
    FLAT_ROOFS,
    STYLES,
    Block,
    Cover,
    Domain,
    Planner,
    RoofKind,
    Scene,
    Shape,
)
from lag_core.data.aerial_streets import PAVEMENTS, QUARTER, lay_streets, wear


def houses(p: Planner, block: Block) -> None:
    """Rows of detached houses, each on its parcel."""
    near = 0.0
    while near < block.depth - 8:
        far, u = near + p.rng.uniform(22, 28), block.u0
        while u < block.u1 - 4:
            width = min(p.rng.uniform(13, 19), block.u1 - u)
            parcel(p, block.part(u, u + width, near, far), street=near == 0)
            u += width
        near = far


def parcel(p: Planner, lot: Block, street: bool) -> None:
    """A house with drive, garage, path, terrace, beds and garden trees."""
    rng = p.rng
    p.strip(p.pick({"lawn": 5, "meadow": 2, "dry lawn": 1.5}), lot, 0, lot.depth)
    side, setback = rng.choice((-1, 1)), rng.uniform(2.5, 6)
    wide, deep = max(6.0, min(rng.uniform(8.5, 12.5), lot.width - 4.6)), rng.uniform(8, 11)
    middle = (lot.u0 + lot.u1) / 2
    u = middle - side * max(0.0, (lot.width - wide) / 2 - 0.9)
    drive = u + side * (wide / 2 + 1.7)
    if lot.width > 9 and p.chance(0.8):
        p.area(
            p.pick({"setts": 3, "slabs": 2, "gravel": 2, "red pavers": 2, "asphalt": 1}),
            drive - 1.7,
            drive + 1.7,
            lot.v(-0.3),
            lot.v(setback + 6),
        )
        if p.chance(0.6):
            p.roof(drive, lot.v(setback + 6), 3.5, 6.2, p.flat(2.6))
        if street and p.chance(0.55):
            p.car(drive, lot.v(min(setback, 4) - 0.4), QUARTER)
    p.area("slabs", u - 0.6, u + 0.6, lot.v(-0.2), lot.v(setback + 1))
    p.area(
        p.pick(PAVEMENTS),
        u - wide * 0.4,
        u + wide * rng.uniform(0.1, 0.4),
        lot.v(setback),
        lot.v(setback + deep + 3),
    )
    house(p, u, lot.v(setback + deep / 2), wide, deep)
    garden(p, lot, setback + deep + 1)


def house(p: Planner, u: float, v: float, wide: float, deep: float) -> None:
    """One roof, or two that meet at a right angle."""
    rng = p.rng
    cover = tiled(p, p.pick(p.style.kinds), rng.uniform(3.2, 6.0), rng.uniform(0.5, 0.95))
    if p.chance(0.12):
        cover = p.flat(6.0)
    p.roof(u, v, wide, deep, cover)
    if cover.kind != "flat" and p.chance(0.3):
        short, long = min(wide, deep) * 0.55, max(wide, deep) * 1.25
        p.roof(u + rng.uniform(-0.15, 0.15) * wide, v, short, long, cover)


def tiled(p: Planner, kind: RoofKind, eave: float, pitch: float) -> Cover:
    return Cover(kind, p.pick(p.style.roofs), eave, pitch, p.rng.random())


def garden(p: Planner, lot: Block, near: float) -> None:
    """What lies behind a house: beds, a shed, rarely a pool, hedges and trees."""
    rng, far = p.rng, lot.depth
    if p.chance(0.6):
        p.area("bed", lot.u0 + 0.8, lot.u0 + rng.uniform(2, 4), lot.v(near + 2), lot.v(far - 1))
    if p.chance(0.3):
        p.blob("flowers", rng.uniform(lot.u0 + 2, lot.u1 - 2), lot.v(rng.uniform(near + 2, far)), 1.6, 1.2)
    if p.chance(0.25):
        u, v = rng.uniform(lot.u0 + 4, lot.u1 - 4), lot.v(near + 5)
        p.area("slabs", u - 3.4, u + 3.4, v - 2.4, v + 2.4)
        p.area("pool", u - 2.6, u + 2.6, v - 1.6, v + 1.6)
    if p.chance(0.5):
        shed = Cover("gable", p.pick({"bitumen": 2, "brown tile": 1}), 2.2, 0.35, rng.random())
        p.roof(lot.u1 - 2.5, lot.v(far - 2), rng.uniform(2.4, 4), 2.6, shed)
    if p.chance(0.65):
        p.area("hedge", lot.u0 - 0.45, lot.u0 + 0.45, lot.v(0.3), lot.v(far))
    if p.chance(0.5):
        p.strip("hedge", lot, far - 0.5, far + 0.5)
    for _ in range(rng.randint(1, int(2 + 3 * p.style.greenery))):
        p.tree(rng.uniform(lot.u0, lot.u1), lot.v(rng.uniform(near + 2, far)), rng.uniform(1.3, 3.8))
    if p.chance(0.5):
        p.tree(rng.uniform(lot.u0, lot.u1), lot.v(1.5), rng.uniform(1.0, 2.2))


def terrace(p: Planner, block: Block) -> None:
    """Houses wall to wall along the street, a court with wings, sheds and trees behind them."""
    rng = p.rng
    court = p.pick({"setts": 2, "lawn": 3, "gravel": 1, "dry lawn": 1})
    p.strip(court, block, 0, block.depth)
    setback, deep, hipped = rng.choice((0.2, 0.2, 3.5)), rng.uniform(10, 13), p.chance(0.33)
    p.strip("lawn" if setback > 1 else "slabs", block, 0, setback + 1)
    same, u = p.chance(0.4), block.u0 + rng.uniform(0, 2)
    cover = tiled(p, "gable", rng.uniform(7, 10), rng.uniform(0.5, 0.85))
    while u < block.u1 - 6:
        wide = min(rng.uniform(11, 18), block.u1 - u)
        if not same:
            cover = tiled(p, "gable", cover.eave + rng.uniform(-1, 1), cover.pitch)
        # The ridge must follow the street, so a unit is never drawn shorter than it is deep.
        span = min(deep, wide - 0.2)
        front = replace(cover, kind="hip") if hipped and wide > 1.35 * span else cover
        p.roof(u + wide / 2, block.v(setback + span / 2), wide + 0.3, span, front)
        if p.chance(0.35):
            wing = replace(cover, eave=cover.eave - 2)
            p.roof(u + wide / 2, block.v(setback + deep + 4), rng.uniform(5, 7), 9, wing)
        u += wide + (rng.uniform(3, 6) if p.chance(0.15) else 0)
    yard(p, block, setback + deep + 2)


def yard(p: Planner, block: Block, near: float) -> None:
    """A court: lawn islands, parked cars, low flat sheds, trees."""
    rng = p.rng
    for _ in range(rng.randint(1, 3)):
        u, v = rng.uniform(block.u0, block.u1), block.v(near + rng.uniform(4, 14))
        p.area(p.pick({"lawn": 3, "gravel": 1, "setts": 1}), u, u + rng.uniform(6, 16), v - 3, v + 4)
    u, row = block.u0 + 2, near + rng.uniform(8, 12)
    p.strip("setts", block, row - 2.8, row + 2.8)
    while u < block.u1:
        if p.chance(0.4):
            p.car(u, block.v(row), QUARTER)
        u += 3
    if p.chance(0.6):
        u = rng.uniform(block.u0 + 5, block.u1 - 5)
        p.roof(u, block.v(row + 6.5), rng.uniform(8, 16), 5.5, p.flat(3))
    for _ in range(rng.randint(2, 2 + int(max(0, block.width) / 7 * p.style.greenery))):
        p.tree(rng.uniform(block.u0, block.u1), block.v(near + rng.uniform(1, 22)), rng.uniform(1.6, 4.2))


def parking(p: Planner, block: Block) -> None:
    """A car park with rows of stalls, islands with trees and a green rim."""
    rng = p.rng
    p.strip("lawn", block, 0, block.depth)
    surface = p.pick({"asphalt": 4, "old asphalt": 3, "setts": 2})
    left, right, rim = block.u0 + 1.5, block.u1 - 1.5, rng.uniform(1.5, 4)
    p.area(surface, left, right, block.v(rim), block.v(block.depth))
    wear(p, left, right, block.v(rim + 1), block.v(block.depth), rng.randint(3, 12))
    entrance = rng.uniform(left, max(left, right - 6))
    p.area(surface, entrance, entrance + 6, block.v(-0.5), block.v(rim))
    occupancy, depth, facing = rng.uniform(0.45, 0.95), rim + 0.3, 0
    while depth < block.depth:
        stalls(p, block, left, right, depth, occupancy)
        facing ^= 1
        depth += 11 if facing else 5.2
        if not facing and p.chance(0.5):
            island(p, left, right, block.v(depth - 0.1))
    for _ in range(int(block.width / 9 * p.style.greenery)):
        p.tree(rng.uniform(block.u0, block.u1), block.v(rim * 0.5), rng.uniform(1.4, 2.8))


def stalls(p: Planner, block: Block, left: float, right: float, depth: float, occupancy: float) -> None:
    u = left + 0.3
    while u < right - 2.5:
        p.line("marking", u, block.v(depth), u, block.v(depth + 5))
        if p.chance(occupancy):
            p.car(u + 1.3, block.v(depth + 2.6 + p.rng.uniform(-0.25, 0.25)), QUARTER)
        u += 2.6


def island(p: Planner, left: float, right: float, v: float) -> None:
    """A narrow green strip between two rows of stalls."""
    p.area("curb", left, right, v - 0.75, v + 0.75)
    p.area("lawn", left + 0.2, right - 0.2, v - 0.55, v + 0.55)
    u, kind = left + 3, p.pick(p.style.trees)
    while u < right:
        if p.chance(0.7):
            p.tree(u, v, p.rng.uniform(1.3, 2.3), kind)
        u += 7.8


def hall(p: Planner, block: Block) -> None:
    """A flat commercial building on a paved yard with stalls in front of it."""
    rng = p.rng
    p.strip(p.pick({"asphalt": 3, "setts": 2, "old asphalt": 2}), block, 0, block.depth)
    wear(p, block.u0, block.u1, block.v(8), block.v(block.depth), rng.randint(3, 10))
    p.strip("lawn", block, 0, 1.8)
    stalls(p, block, block.u0 + 2, block.u1 - 2, 2.2, rng.uniform(0.3, 0.8))
    wide, deep, front = min(rng.uniform(18, 32), block.width - 5), rng.uniform(13, 20), rng.uniform(9.5, 14)
    if wide > 8:
        cover = p.flat(rng.uniform(4, 8), {**FLAT_ROOFS, "metal": 1.5})
        u = rng.uniform(block.u0 + wide / 2 + 1, max(block.u0 + wide / 2 + 1, block.u1 - wide / 2 - 1))
        p.roof(u, block.v(front + deep / 2), wide, deep, cover)
        if p.chance(0.5):
            u, storey = u + rng.uniform(-0.2, 0.2) * wide, replace(cover, eave=cover.eave + 3)
            p.roof(u, block.v(front + deep * 0.6), wide * 0.4, deep * 0.5, storey)
    if p.chance(0.4):
        for _ in range(rng.randint(1, 4)):
            p.blob(
                "heap",
                rng.uniform(block.u0 + 2, block.u1 - 2),
                block.v(front + deep + rng.uniform(2, 5)),
                *(rng.uniform(1, 3) for _ in "uv"),
            )
    p.strip("lawn", block, front + deep + 7, block.depth)
    p.grove(rng.uniform(block.u0, block.u1), block.v(front + deep + 7), rng.randint(2, 7), 4)


def park(p: Planner, block: Block) -> None:
    """Lawn, winding paths, groves, sometimes a pond."""
    rng = p.rng
    p.strip(p.pick({"meadow": 3, "lawn": 3, "dry lawn": 1}), block, 0, block.depth)
    for _ in range(rng.randint(2, 4)):
        p.blob(
            p.pick({"meadow": 2, "dry lawn": 2, "lawn": 1}),
            rng.uniform(block.u0, block.u1),
            block.v(rng.uniform(4, block.depth)),
            rng.uniform(3, 8),
            rng.uniform(3, 6),
        )
    depth, phase = rng.uniform(4, 12), rng.uniform(0, 6)
    path(
        p,
        [(block.u0 + t * block.width / 8, block.v(depth + 2.5 * math.sin(t * 0.8 + phase))) for t in range(9)],
    )
    start = rng.uniform(block.u0 + 3, block.u1 - 3)
    path(p, [(start + 2 * math.sin(t * 0.6 + phase), block.v(t * block.depth / 8 - 0.5)) for t in range(9)])
    if p.chance(0.35):
        p.blob(
            "pond",
            rng.uniform(block.u0 + 6, block.u1 - 6),
            block.v(rng.uniform(9, 18)),
            rng.uniform(4, 8),
            rng.uniform(3, 5),
        )
    for _ in range(int(2 + block.width / 10 * p.style.greenery)):
        p.grove(rng.uniform(block.u0, block.u1), block.v(rng.uniform(3, block.depth)), rng.randint(1, 5), 3.2)


def path(p: Planner, points: list[tuple[float, float]]) -> None:
    """A gravel path through points."""
    width = round(p.rng.uniform(1.4, 2.2) * p.style.scale)
    p.scene.shapes.append(Shape("gravel", [p.px(u, v) for u, v in points], width))


def field(p: Planner, block: Block) -> None:
    """A crop in rows, a track and a line of shrubs and trees at its rim."""
    rng = p.rng
    p.strip("meadow", block, 0, block.depth)
    p.strip(p.pick({"crop": 3, "stubble": 1}), block, 5, block.depth)
    for offset in (2.6, 4.2):
        p.strip("track", block, offset, offset + 0.7)
    kind, u = p.pick(p.style.trees), block.u0
    while u < block.u1:
        if p.chance(0.6):
            p.tree(u, block.v(rng.uniform(0.8, 1.8)), rng.uniform(1.1, 2.8), kind if p.chance(0.7) else None)
        u += rng.uniform(3, 6)


FILLINGS: dict[str, Callable[[Planner, Block], None]] = {
    "houses": houses,
    "terrace": terrace,
    "parking": parking,
    "hall": hall,
    "park": park,
    "field": field,
}


def plan(seed: int, domain: Domain, size: int = 256) -> Scene:
    """The scene of a tile: streets first, then every block between them."""
    p = Planner(Random(f"aerial/{seed}/{domain}/{size}"), STYLES[domain], size)
    for block in lay_streets(p):
        for part in halves(p, block):
            FILLINGS[p.pick(p.style.fillings)](p, part)
    return p.scene


def halves(p: Planner, block: Block) -> list[Block]:
    """A long block is often used in two ways."""
    if block.width < 40 or p.chance(0.4):
        return [block]
    middle = p.rng.uniform(-8, 8)
    return [Block(a, b, block.front, block.sign, block.depth) for a, b in ((block.u0, middle), (middle, block.u1))]
