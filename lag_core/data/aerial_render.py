"""From a scene to pixels: layers of material and height, one light for all of them, then a camera.

Heights share the unit of the ground (pixels), so that roofs, crowns and cars are shaded by their slope, and
throw shadows by one search along the direction of the sun, without a case for any kind of object. Ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lag_core.data.aerial_materials import FIRST, GRAIN, HEIGHT, INDEX, LABEL, PATCHY, SECOND
from lag_core.data.aerial_scene import SHADOW, Car, Crown, Domain, Roof, Scene, Sun

Plane = NDArray[np.floating[Any]]
"""float32 everywhere; the wide type is for the checker, which takes a Python number for float64."""

PAD = SHADOW + 8
"""Rim around the tile, in pixels, on which things stand that throw a shadow into it."""
BANK = 512
BANDS = {"irrg": slice(0, 3), "rgb": slice(1, 4)}
BALANCE = {"irrg": (0.74, 1.0, 1.0), "rgb": (1.0, 1.0, 1.0)}
"""Gain of each band: the false colour camera is turned down in near infrared, or lawns would glare."""
SKYLIGHT = np.array([0.12, 0.18, 0.22, 0.28], np.float32)
"""Light in the shade relative to full sun (NIR, R, G, B): the sky is blue and has little near infrared."""


@dataclass
class Layers:
    """What the sensor would see without light, on [S+2*PAD, S+2*PAD].

    `material` index of the surface on top; `height` of it above ground; `relief` the part of the height whose
    slope shades it (a wall has none); `tone` factor on its reflectance; `mix` added to the blend of its two
    reflectances.
    """

    material: NDArray[np.uint8]
    height: Plane
    relief: Plane
    tone: Plane
    mix: Plane

    def window(self, x: float, y: float, reach: float) -> tuple[slice, slice] | None:
        """The part of the canvas within `reach` pixels of tile position (x, y), None if there is none."""
        n = self.material.shape[0]
        x0, x1 = max(0, math.floor(x + PAD - reach)), min(n, math.ceil(x + PAD + reach) + 1)
        y0, y1 = max(0, math.floor(y + PAD - reach)), min(n, math.ceil(y + PAD + reach) + 1)
        return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else None


@cache
def noise(kind: str) -> Plane:
    """[BANK, BANK] periodic noise, mean 0, deviation 1: `cloud` (metres), `mottle` (decimetres), `grain`."""
    rng = np.random.default_rng({"cloud": 1, "mottle": 2, "grain": 3}[kind])
    f = np.hypot(np.fft.fftfreq(BANK)[:, None], np.fft.rfftfreq(BANK)[None])
    shape = {
        "cloud": 1 / (f + 0.006) ** 1.5,
        "mottle": np.exp(-(((f - 0.11) / 0.07) ** 2)),
        "grain": np.exp(-((f / 0.45) ** 2)),
    }
    spectrum = np.fft.rfft2(rng.standard_normal((BANK, BANK))) * shape[kind]
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, (BANK, BANK))
    return (field / field.std()).astype(np.float32)


def cut(kind: str, rng: Random, size: int) -> Plane:
    """A random [size, size] part of a noise bank, wrapped round where the bank ends."""
    y, x = rng.randrange(BANK), rng.randrange(BANK)
    if y + size <= BANK and x + size <= BANK:
        return noise(kind)[y : y + size, x : x + size]
    rows = noise(kind).take(range(y, y + size), 0, mode="wrap")
    return rows.take(range(x, x + size), 1, mode="wrap")


def lay_ground(scene: Scene) -> Layers:
    """Rasterises the shapes; everything above them is still missing."""
    n = scene.size + 2 * PAD
    picture = Image.new("L", (n, n), INDEX[scene.ground])
    draw = ImageDraw.Draw(picture)
    for shape in scene.shapes:
        points = [(x + PAD, y + PAD) for x, y in shape.points]
        if shape.width:
            draw.line(points, INDEX[shape.material], shape.width, joint="curve")
        else:
            draw.polygon(points, INDEX[shape.material])
    material = np.array(picture)
    height = (HEIGHT * scene.scale).take(material)
    return Layers(material, height, height.copy(), np.ones((n, n), np.float32), np.zeros((n, n), np.float32))


def local_axes(window: tuple[slice, slice], x: float, y: float, angle: float) -> tuple[Plane, Plane]:
    """Coordinates along and across an object at (x, y) for the pixels of a window, in pixels."""
    dy = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] - np.float32(y + PAD)
    dx = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None] - np.float32(x + PAD)
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return c * dx + s * dy, c * dy - s * dx


def put_roof(layers: Layers, roof: Roof) -> None:
    """Raises a roof where nothing higher stands; its faces are the planes that rise from its edges."""
    window = layers.window(roof.x, roof.y, math.hypot(roof.length, roof.width) / 2 + 1)
    if window is None:
        return
    along, across = local_axes(window, roof.x, roof.y, roof.angle)
    from_end, from_side = roof.length / 2 - np.abs(along), roof.width / 2 - np.abs(across)
    edge = np.minimum(from_end, from_side)
    if roof.cover.kind == "flat":
        parapet = (edge < 1.6).astype(np.float32)
        relief, tone = 2.2 * parapet, 1 + 0.25 * parapet
    else:
        run = from_side if roof.cover.kind == "gable" else edge
        relief = roof.cover.pitch * run
        tone = courses(along, across, from_side)
    height = relief + roof.eave
    on = (edge > 0) & (height > layers.height[window])
    material = np.full(height.shape, INDEX[roof.cover.material], np.uint8)
    for f in roof.fittings:
        here = (np.abs(along - f.along) < f.length / 2) & (np.abs(across - f.across) < f.width / 2)
        # A fitting keeps the slope of the roof under it, and throws its own shadow by its rise.
        material[here] = INDEX[f.material]
        height[here] += f.rise
        tone[here] = 1
    write(layers, window, on, material, height, relief, tone, roof.cover.weathering - 0.5)


def courses(along: Plane, across: Plane, from_side: Plane) -> Plane:
    """Tone of a pitched roof: courses of tiles, a light ridge and a dark gutter."""
    tone = 1 + 0.05 * np.sin(from_side * 2.0) + 0.025 * np.sin(along * 2.4)
    tone += 0.22 * (np.abs(across) < 0.9)
    tone -= 0.25 * (from_side < 1.3)
    return tone


def write(
    layers: Layers,
    window: tuple[slice, slice],
    on: NDArray[np.bool_],
    material: int | NDArray[np.uint8],
    height: Plane,
    relief: Plane,
    tone: Plane | np.float32,
    mix: float,
) -> None:
    """Puts a surface on top of the layers where `on`."""
    np.copyto(layers.material[window], material, where=on, casting="unsafe")
    np.copyto(layers.height[window], height, where=on)
    np.copyto(layers.relief[window], relief, where=on)
    np.copyto(layers.tone[window], tone, where=on, casting="unsafe")
    np.copyto(layers.mix[window], np.float32(mix), where=on)


@lru_cache(maxsize=512)
def car_sprite(degrees: int, length: int, body: int) -> tuple[NDArray[np.uint8], Plane]:
    """Parts [D, D] of a car from above (0 nothing, 1 paint, 2 glass, 3 roof) and their height in car heights.

    `body` 0 is a saloon, 1 an estate, 2 a van; `degrees` the direction in which it looks.
    """
    half = length // 2 + 2
    grid = np.arange(-half, half + 1, dtype=np.float32)
    a = math.radians(degrees)
    u = (math.cos(a) * grid[None] + math.sin(a) * grid[:, None]) / (length / 2)
    v = (math.cos(a) * grid[:, None] - math.sin(a) * grid[None]) / (length * 0.205)
    hull = np.abs(u) ** 5 + np.abs(v) ** 5 < 1
    back = (-0.62, -0.86, -0.9)[body]
    front = (0.42, 0.4, 0.62)[body]
    cabin = (u > back) & (u < front) & (np.abs(v) < 0.86) & hull
    roof = (u > back + 0.2) & (u < front - 0.24) & (np.abs(v) < 0.64)
    parts = hull.astype(np.uint8)
    parts[cabin] = 2
    parts[roof] = 3
    return parts, (0.55 * hull + 0.25 * cabin + 0.2 * roof).astype(np.float32)


def put_car(layers: Layers, car: Car, scale: float) -> None:
    parts, rise = car_sprite(round(math.degrees(car.angle)) % 360, round(car.length), car.body)
    half = parts.shape[0] // 2
    x, y = round(car.x) + PAD - half, round(car.y) + PAD - half
    n = layers.material.shape[0]
    if x < 0 or y < 0 or x + parts.shape[1] > n or y + parts.shape[0] > n:
        return
    window = slice(y, y + parts.shape[0]), slice(x, x + parts.shape[1])
    paint = np.array([0, INDEX[car.paint], INDEX["glass"], INDEX[car.paint]], np.uint8)
    tone = np.array([1, 0.92, 1, 1.08], np.float32).take(parts)
    write(layers, window, parts > 0, paint.take(parts), rise * (1.5 * scale), rise * 2, tone, 0.0)


@lru_cache(maxsize=256)
def crown_sprite(radius: int, variant: int, conical: bool) -> tuple[Plane, Plane]:
    """Height [D, D] over the lowest leaves in pixels (negative: no leaves), and tone; made of small tufts."""
    rng = np.random.default_rng((radius, variant, conical))
    half = radius + 3
    grid = np.arange(-half, half + 1, dtype=np.float32)
    height = np.full((2 * half + 1, 2 * half + 1), -1, np.float32)
    squash = 1 + 0.15 * rng.uniform(-1, 1)
    for _ in range(int(16 + radius * 4)):
        rho, t = radius * 0.9 * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
        size = rng.uniform(0.1, 0.26) * radius + 1.3
        dome = radius * ((1.5 * (1 - rho / radius)) if conical else 0.8 * math.sqrt(1 - (rho / radius) ** 2))
        d2 = (
            (grid[None] - rho * math.cos(t) * squash) ** 2 + (grid[:, None] - rho * math.sin(t) / squash) ** 2
        ) / size**2
        np.maximum(
            height,
            np.where(d2 < 1, dome + size * np.sqrt(np.maximum(1 - d2, 0)) - size * 0.4, -1),
            out=height,
        )
    # Less light reaches leaves between and below the tufts.
    tone = 0.62 + 0.5 * np.clip(height / (radius * 1.05), 0, 1)
    return height, tone.astype(np.float32)


def put_crown(layers: Layers, crown: Crown, scale: float) -> None:
    """A tree stands before what is lower; its leaves begin at about a third of its height."""
    conical = crown.material == "conifer"
    height, tone = crown_sprite(max(4, round(crown.radius)), crown.variant % 4, conical)
    turn = crown.variant // 4
    if turn & 1:
        height, tone = height.T, tone.T
    if turn & 2:
        height, tone = height[::-1], tone[::-1]
    if turn & 4:
        height, tone = height[:, ::-1], tone[:, ::-1]
    half, n = height.shape[0] // 2, layers.material.shape[0]
    x, y = round(crown.x) + PAD - half, round(crown.y) + PAD - half
    if x < 0 or y < 0 or x + 2 * half >= n or y + 2 * half >= n:
        return
    window = slice(y, y + 2 * half + 1), slice(x, x + 2 * half + 1)
    top = height + (1.2 * scale + 0.8 * crown.radius)
    on = (height > -0.5) & (top > layers.height[window])
    write(layers, window, on, INDEX[crown.material], top, height * np.float32(0.8), tone, crown.weathering - 0.5)


def shadow(height: Plane, sun: Sun, size: int) -> Plane:
    """Share of direct light that is blocked, [size, size], by searching `SHADOW` pixels towards the sun.

    In two levels of eight: the highest obstacle within eight pixels, then the highest of those, eight apart.
    """
    (dx, dy), fall = sun.towards, math.tan(sun.elevation)
    n, m = height.shape[0], height.shape[0] - 16
    near = height[8 : 8 + m, 8 : 8 + m].copy()
    for t in range(1, 8):
        oy, ox = 8 + round(t * dy), 8 + round(t * dx)
        np.maximum(near, height[oy : oy + m, ox : ox + m] - np.float32(t * fall), out=near)
    margin = PAD - 8
    far = near[margin : margin + size, margin : margin + size].copy()
    for t in range(8, SHADOW, 8):
        oy, ox = margin + round(t * dy), margin + round(t * dx)
        np.maximum(far, near[oy : oy + size, ox : ox + size] - np.float32(t * fall), out=far)
    far -= height[PAD : n - PAD, PAD : n - PAD]
    return np.clip(far * np.float32(0.5), 0, 1, out=far)


def shading(relief: Plane, sun: Sun) -> Plane:
    """Lambert's cosine over that of flat ground, [S, S], from the slope of a relief [S+2, S+2]."""
    (dx, dy), flat = sun.towards, math.sin(sun.elevation)
    gx = (relief[1:-1, 2:] - relief[1:-1, :-2]) * np.float32(0.5)
    gy = (relief[2:, 1:-1] - relief[:-2, 1:-1]) * np.float32(0.5)
    lean = np.float32(-dx * math.cos(sun.elevation)) * gx + np.float32(-dy * math.cos(sun.elevation)) * gy
    gx *= gx
    gy *= gy
    gx += gy
    gx += 1
    lean += np.float32(flat)
    lean /= np.sqrt(gx, out=gx)
    lean *= np.float32(1 / flat)
    return np.clip(lean, 0, 1.7, out=lean)


def crop_rows(scene: Scene) -> Plane:
    """[S, S] wave across the rows of a field or of mowing, parallel to the street."""
    axis = np.arange(scene.size, dtype=np.float32)
    phase = axis[:, None] * np.float32(math.cos(scene.angle)) - axis[None] * np.float32(math.sin(scene.angle))
    return np.sin(phase * np.float32(6.28 / (1.3 * scene.scale)))


def reflectance(layers: Layers, scene: Scene, domain: Domain, rng: Random) -> Plane:
    """[3, S, S] reflectance in the three bands of a domain."""
    size = scene.size
    inner = slice(PAD, PAD + size), slice(PAD, PAD + size)
    material = layers.material[inner].astype(np.intp)
    blend = cut("cloud", rng, size) + np.float32(0.5) * cut("mottle", rng, size)
    blend *= PATCHY.take(material)
    blend += layers.mix[inner]
    blend += np.float32(0.5)
    np.clip(blend, 0, 1, out=blend)
    tone = cut("grain", rng, size) * GRAIN.take(material)
    tone += 1
    tone *= layers.tone[inner]
    if any(s.material == "crop" or s.material == "stubble" for s in scene.shapes):
        rows = (material == INDEX["crop"]) | (material == INDEX["stubble"])
        tone += 0.16 * crop_rows(scene) * rows
    out = np.empty((3, size, size), np.float32)
    for band, first, second in zip(out, FIRST[BANDS[domain]], SECOND[BANDS[domain]], strict=True):
        np.multiply((second - first).take(material), blend, out=band)
        band += first.take(material)
        band *= tone
    return out


def expose(radiance: Plane, domain: Domain, rng: Random) -> NDArray[np.uint8]:
    """The camera: radiance [3, S, S], which is overwritten, to uint8 [S, S, 3].

    Vignette, haze, optics, tone curve, sensor noise.
    """
    size = radiance.shape[1]
    gain, haze, spread = rng.uniform(1.0, 1.4), rng.uniform(0.0, 0.016), rng.uniform(0.1, 0.19)
    noisy = cut("grain", rng, size) * np.float32(rng.uniform(1.0, 3.2))
    axis = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    vignette = 1 - np.float32(rng.uniform(0.0, 0.09)) * (axis[:, None] + axis[None])
    out = np.empty((size, size, 3), np.uint8)
    for i, band in enumerate(radiance):
        band *= vignette * np.float32(gain * BALANCE[domain][i] * rng.uniform(0.95, 1.05))
        band += np.float32(haze * (0.7, 0.85, 1.15)[i])
        band = blur(blur(band, spread).T, spread).T
        np.sqrt(band, out=band)
        band *= 255
        band += noisy
        out[..., i] = np.clip(band, 0, 255, out=band)
    return out


def blur(plane: Plane, spread: float) -> Plane:
    """Moves the share `spread` of each pixel of [S, S] to either neighbour along the first axis."""
    part = plane * np.float32(spread)
    out = plane - 2 * part
    out[1:] += part[:-1]
    out[:-1] += part[1:]
    out[0] += part[0]
    out[-1] += part[-1]
    return out


def build(scene: Scene) -> Layers:
    """All layers of a scene, from the ground up."""
    layers = lay_ground(scene)
    for roof in scene.roofs:
        put_roof(layers, roof)
    for car in scene.cars:
        put_car(layers, car, scene.scale)
    for crown in scene.crowns:
        put_crown(layers, crown, scene.scale)
    return layers


def render(scene: Scene, domain: Domain, rng: Random) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image uint8 [S, S, 3] and mask uint8 [S, S] of a scene."""
    size, layers = scene.size, build(scene)
    radiance = reflectance(layers, scene, domain, rng)
    rim = slice(PAD - 1, PAD + size + 1)
    direct = shading(layers.relief[rim, rim], scene.sun)
    direct *= 1 - shadow(layers.height, scene.sun, size)
    for band, sky in zip(radiance, SKYLIGHT[BANDS[domain]], strict=True):
        band *= direct * (1 - sky) + sky
    mask = LABEL.take(layers.material[PAD : PAD + size, PAD : PAD + size])
    return expose(radiance, domain, rng), mask
