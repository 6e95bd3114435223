"""The streets of an aerial tile: lanes, walks, markings, and what stands along them. In metres. Ours."""

from __future__ import annotations

import math

from lag_core.data.aerial_scene import Block, Planner

QUARTER = math.pi / 2
PAVEMENTS = {"slabs": 3, "setts": 2, "red pavers": 1}


def lay_streets(p: Planner) -> list[Block]:
    """Draws the main street, and often a crossing one; returns the blocks that they leave."""
    rng, r = p.rng, p.reach
    v, half, walk = rng.uniform(-13, 13), rng.uniform(*p.style.street), rng.uniform(1.6, 2.6)
    crossing = p.chance(0.38)
    u, half_u = rng.uniform(-16, 16), rng.uniform(*p.style.street) * 0.85
    pavement, surface = p.pick(PAVEMENTS), p.pick({"asphalt": 5, "old asphalt": 3, "fresh asphalt": 1.5})
    p.area(pavement, -r, r, v - half - walk, v + half + walk)
    if crossing:
        p.area(pavement, u - half_u - walk, u + half_u + walk, -r, r)
    p.area("curb", -r, r, v - half - 0.2, v + half + 0.2)
    if crossing:
        p.area("curb", u - half_u - 0.2, u + half_u + 0.2, -r, r)
        p.area(surface, u - half_u, u + half_u, -r, r)
        round_corners(p, u, v, half_u, half, surface, pavement, walk)
    p.area(surface, -r, r, v - half, v + half)
    if surface == "asphalt" and p.chance(0.7):
        tracks(p, v, half)
    wear(p, -r, r, v - 0.8 * half, v + 0.6 * half, rng.randint(2, 9))
    gap = (u - half_u - 4, u + half_u + 4) if crossing else None
    mark_lane(p, v, half, gap)
    if crossing and p.chance(0.6):
        zebra(p, u + (half_u + 2.2) * rng.choice((-1, 1)), v, half)
    park_along(p, v, half, gap)
    line_trees(p, v, half + walk * 0.6, gap)
    edges = [(-r, u - half_u - walk), (u + half_u + walk, r)] if crossing else [(-r, r)]
    if crossing:
        park_across(p, u, half_u, v, half)
    low, high = v - half - walk, v + half + walk
    return [Block(a, b, front, s, r - s * front) for a, b in edges for front, s in ((low, -1), (high, 1))]


def round_corners(
    p: Planner, u: float, v: float, half_u: float, half_v: float, surface: str, pavement: str, walk: float
) -> None:
    """Gives the four corners of a crossing a radius, for the walk first and then for the lane."""
    radius, inset = 3.5, 0.1
    arc = [(1 - math.sin(t), 1 - math.cos(t)) for t in (i * QUARTER / 6 for i in range(7))]
    for material, extra in ((pavement, walk), ("curb", 0.2), (surface, 0.0)):
        for su, sv in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            cu, cv = u + su * (half_u + extra), v + sv * (half_v + extra)
            # A little over the edges, so that rounding leaves no seam along them.
            inner = [(cu + su * radius, cv - sv * inset), (cu - su * inset, cv - sv * inset)]
            inner.append((cu - su * inset, cv + sv * radius))
            p.outline(
                material,
                inner[1:] + [(cu + su * radius * a, cv + sv * radius * b) for a, b in arc[::-1]] + inner[:1],
            )


def tracks(p: Planner, v: float, half: float) -> None:
    """Where tyres run, asphalt turns lighter."""
    for offset in (-0.62, -0.28, 0.28, 0.62):
        p.line("tyre tracks", -p.reach, v + offset * half, p.reach, v + offset * half, 3)


def wear(p: Planner, u0: float, u1: float, v0: float, v1: float, n: int) -> None:
    """Repairs of a paved rectangle: darker and lighter patches, manholes and cracks."""
    rng = p.rng
    for _ in range(n):
        u, v = rng.uniform(u0, u1), rng.uniform(v0, v1)
        what = rng.random()
        if what < 0.4:
            wide, deep = rng.uniform(1, 7), rng.uniform(0.4, 1.6)
            p.area(rng.choice(("asphalt patch", "old asphalt", "asphalt")), u, u + wide, v, v + deep)
        elif what < 0.65:
            p.outline("manhole", [(u + 0.35 * math.cos(t), v + 0.35 * math.sin(t)) for t in range(6)])
        else:
            p.line("asphalt patch", u, v, u + rng.uniform(3, 14), v + rng.uniform(-0.6, 0.6))


def mark_lane(p: Planner, v: float, half: float, gap: tuple[float, float] | None) -> None:
    """A dashed line in the middle, sometimes solid lines at the edges."""
    if half < 3 and p.chance(0.6):
        return
    width = 2 if half > 4 else 1
    u = -p.reach + p.rng.uniform(0, 5)
    while u < p.reach:
        if not gap or not gap[0] < u + 1.5 < gap[1]:
            p.line("marking", u, v, u + 2.6, v, width)
        u += 5.6
    if p.chance(0.35) and not gap:
        for side in (-1, 1):
            p.line("marking", -p.reach, v + side * (half - 0.35), p.reach, v + side * (half - 0.35))


def zebra(p: Planner, u: float, v: float, half: float) -> None:
    n = int(2 * half / 1.1)
    for i in range(n):
        c = v - half + 0.4 + i * (2 * half - 0.8) / n
        p.area("marking", u - 1.4, u + 1.4, c, c + 0.5)


def park_along(p: Planner, v: float, half: float, gap: tuple[float, float] | None) -> None:
    """Cars at both kerbs, and few on the move."""
    rng = p.rng
    for side in (-1, 1):
        density = rng.choice((0.0, 0.25, 0.55, 0.8)) if half > 3 else rng.choice((0.0, 0.2, 0.45))
        u = -p.reach + rng.uniform(0, 6)
        while u < p.reach:
            if p.chance(density) and not (gap and gap[0] - 2 < u < gap[1] + 2):
                p.car(u, v + side * (half - 1.05))
            elif p.chance(0.05):
                p.car(u, v + side * half * 0.42 * (half > 3.2))
            u += rng.uniform(5.5, 7)


def park_across(p: Planner, u: float, half: float, v: float, half_v: float) -> None:
    """Cars along the crossing street."""
    density, side, c = p.rng.choice((0.0, 0.3, 0.6)), p.rng.choice((-1, 1)), -p.reach
    while c < p.reach:
        if p.chance(density) and abs(c - v) > half_v + 7:
            p.car(u + side * (half - 1.05), c, QUARTER)
        c += p.rng.uniform(5.6, 7)


def line_trees(p: Planner, v: float, offset: float, gap: tuple[float, float] | None) -> None:
    """Street trees of one kind, in little beds of the walk."""
    for side in (-1, 1):
        if not p.chance(0.4 * p.style.greenery):
            continue
        kind, size = p.pick(p.style.trees), p.rng.uniform(1.5, 2.9)
        u = -p.reach + p.rng.uniform(0, 8)
        while u < p.reach:
            if not (gap and gap[0] - 1 < u < gap[1] + 1) and p.chance(0.8):
                p.area("bed", u - 0.7, u + 0.7, v + side * offset - 0.7, v + side * offset + 0.7)
                p.tree(u, v + side * offset, size * p.rng.uniform(0.8, 1.2), kind)
            u += p.rng.uniform(7, 10)
