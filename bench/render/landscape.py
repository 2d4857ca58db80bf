"""Paint the image of a tile: streets, cars, buildings and chimneys at true scale, seen obliquely through haze.

`paint` turns a scene and its chimneys into (512, 512, 3) uint8 RGB; `style.py` has the colours and materials. It paints
the ground, streets, cars and the sea first, then the shadows on them. Then it paints buildings and chimneys from the
far side to the near side as the satellite sees them, so that near ones hide far ones. Haze and camera come last.

The image shows the scale in several ways. Each varies between scenes:

- The line of sight: visible walls of buildings with storeys of equal height, the length of a chimney relative to its
  width and to its shadow, and in `town` the path radiance, which grows as tan(tilt).
- The sensor, and so the GSD: width of streets, length of cars, size of blocks, sharpness and colour balance.

Not painted: shadows on walls and roofs, terrain, clouds, smoke.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from bench.render.scene import TILE, Chimney, Scene

SUBPIXEL = 4  # fractional bits of OpenCV's fixed-point coordinates


@dataclass(frozen=True)
class Buildings:
    """Columns of a table of n boxes."""

    corners: list[np.ndarray]
    """n outlines (4 or 16, 2) float64: feet of the corners in pixels, in circular order."""
    height: np.ndarray
    """(n,) float64: metres."""
    roof: np.ndarray
    """(n, 3) float64: RGB albedo, 0 to 255."""
    wall: np.ndarray
    """(n, 3) float64: RGB albedo, 0 to 255."""


def paint(scene: Scene, chimneys: list[Chimney], rng: np.random.Generator) -> np.ndarray:
    """Paint one tile, (512, 512, 3) uint8 RGB."""
    streets = _Streets.draw(scene, rng)
    feet = np.array([chimney.base for chimney in chimneys])
    uses = streets.land_uses(scene, feet, rng)
    sea = _draw_sea(scene, feet, rng)
    buildings = _draw_buildings(scene, streets, uses, feet, sea, rng)

    canvas = _ground(scene, rng)
    _paint_blocks(canvas, scene, streets, uses, rng)
    _paint_streets(canvas, scene, streets, rng)
    _paint_sea(canvas, scene, sea, rng)
    _cast_shadows(canvas, scene, buildings, chimneys)
    _paint_standing(canvas, scene, buildings, chimneys)
    return _through_the_air(canvas, scene, rng)


# --- The ground plan.


@dataclass(frozen=True)
class _Streets:
    """A square grid of streets; the blocks 0 … n−1 in both directions cover the tile."""

    origin: np.ndarray
    axes: np.ndarray  # (2, 2) unit vectors, rows
    block: float  # pixels
    n: int

    @classmethod
    def draw(cls, scene: Scene, rng: np.random.Generator) -> _Streets:
        block = scene.block_m / scene.sensor.gsd
        cos, sin = math.cos(scene.grid_angle), math.sin(scene.grid_angle)
        n = math.ceil(TILE * math.sqrt(2) / block) + 2
        axes = np.array([[cos, sin], [-sin, cos]])
        centre = TILE / 2 + rng.uniform(-0.5, 0.5, 2) * block
        return cls(centre - n / 2 * block * axes.sum(0), axes, block, n)

    def at(self, along: np.ndarray) -> np.ndarray:
        """Grid coordinates (…, 2) in blocks → pixels (…, 2)."""
        return self.origin + self.block * along @ self.axes

    def land_uses(self, scene: Scene, feet: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(n, n) index of the style's land use; a block with a chimney is always industrial."""
        uses = rng.choice(len(scene.land_use), size=(self.n, self.n), p=scene.land_use)
        cells = np.floor((feet - self.origin) @ self.axes.T / self.block).astype(int)
        uses[cells[:, 0], cells[:, 1]] = scene.style.industry
        return uses


def _draw_buildings(
    scene: Scene, streets: _Streets, uses: np.ndarray, feet: np.ndarray, sea: np.ndarray, rng: np.random.Generator
) -> Buildings:
    """Fill the blocks with buildings, except outside the tile, in the sea and where a chimney stands."""
    style, gsd = scene.style, scene.sensor.gsd
    centres, sizes, heights, kinds = [], [], [], []
    for kind, use in enumerate(style.land_uses):
        columns, rows = use.grid
        cells = np.argwhere(uses == kind)
        slots = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), -1).reshape(-1, 2)
        within = 0.08 + 0.84 * (slots + 0.5) / (columns, rows)  # the rest is street
        centre = (cells[:, None] + within + rng.normal(0, 0.01, (len(cells), len(slots), 2))).reshape(-1, 2)
        storeys = scene.storeys if use.storeys is None else use.storeys
        centres.append(centre)
        sizes.append(np.array(use.size) * np.exp(rng.normal(0, 0.12, (len(centre), 2))))
        heights.append(style.storey * np.rint(np.maximum(1, storeys * np.exp(rng.normal(0, 0.15, len(centre))))))
        kinds.append(np.full(len(centre), kind))
    centre, half = streets.at(np.concatenate(centres)), np.concatenate(sizes) / 2 / gsd
    height, kind_of = np.concatenate(heights), np.concatenate(kinds)

    reach = np.abs(centre - TILE / 2).max(1) - half.max(1) - height * max(map(abs, scene.layover))
    clear = np.abs((feet[:, None] - centre) @ streets.axes.T) > half + 12 / gsd  # 12 m from wall to foot
    keep = (reach < TILE / 2) & clear.any(-1).all(0) & (rng.random(len(centre)) < 0.85)
    x, y = np.clip(centre.astype(int), 0, TILE - 1).T
    keep &= sea[y, x] < -half.max(1)
    outlines = [_CIRCLE if style.land_uses[kind].round else 2 * _SQUARE - 1 for kind in kind_of[keep]]
    corners = [c + (h * o) @ streets.axes for c, h, o in zip(centre[keep], half[keep], outlines, strict=True)]

    tint = np.array([24.0, 0.0, -14.0]) * (0.4 + scene.warmth)
    roofs = np.array(style.roofs)
    roof = roofs[kind_of, rng.integers(roofs.shape[1], size=len(centre))] + tint + rng.normal(0, 16, (len(centre), 1))
    roof -= np.array([use.darker for use in style.land_uses])[kind_of, None]
    walls = np.array([use.wall or (math.nan,) * 3 for use in style.land_uses])[kind_of]
    wall = walls + tint / 2 + rng.normal(0, 14, (len(centre), 1))
    wall = np.where(np.isnan(wall), roof, wall)
    return Buildings(corners, height[keep], roof[keep], wall[keep])


def _draw_sea(scene: Scene, feet: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(512, 512) float32: pixels from the shore, positive in the sea, which leaves 35 m to every chimney."""
    if scene.style.ground.water is None:
        return np.full((TILE, TILE), -math.inf, np.float32)
    direction = rng.uniform(0, 2 * math.pi)
    seaward = np.array([math.cos(direction), math.sin(direction)], np.float32)
    wiggle = 15 / scene.sensor.gsd
    shore = (feet @ seaward).max() + 50 / scene.sensor.gsd + rng.uniform(0, TILE / 4)
    noise = cv2.resize(rng.standard_normal((7, 7), np.float32), (TILE, TILE), interpolation=cv2.INTER_CUBIC)
    x = np.arange(TILE, dtype=np.float32)
    return x * seaward[0] + x[:, None] * seaward[1] - np.float32(shore) + wiggle * np.clip(noise, -1, 1)


# --- The ground.


def _soil_and_grass(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    ground = scene.style.ground
    soil = np.array(ground.soil) + scene.warmth * np.array([16, 0, -12])
    grass = np.array(ground.grass) + (1 - scene.greenness) * np.array(ground.dry_grass)
    return soil, grass


def _ground(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Soil and grass, mixed by noise of three octaves; (512, 512, 3) uint8."""
    mixture = np.zeros((128, 128), np.float32)
    for cells, weight in scene.style.ground.octaves:
        octave = rng.standard_normal((cells, cells), np.float32)
        mixture += weight * cv2.resize(octave, mixture.shape, interpolation=cv2.INTER_CUBIC)
    share = np.clip(scene.greenness + 0.6 * mixture, 0, 1)[..., None]
    soil, grass = _soil_and_grass(scene)
    small = (soil * (1 - share) + grass * share) * (1 + 0.12 * mixture[..., None])
    return cv2.resize(np.clip(small, 0, 255).astype(np.uint8), (TILE, TILE), interpolation=cv2.INTER_LINEAR)


def _paint_blocks(
    canvas: np.ndarray, scene: Scene, streets: _Streets, uses: np.ndarray, rng: np.random.Generator
) -> None:
    """Pave the yards, plough the fields, plant the trees."""
    soil, grass = _soil_and_grass(scene)
    ground = scene.style.ground
    for kind, use in enumerate(scene.style.land_uses):
        for cell in np.argwhere(uses == kind):
            if use.surface == "paved":
                _fill(canvas, streets.at(cell + _SQUARE), np.array(ground.pavement) + rng.normal(0, 12))
            elif use.surface == "parcels":
                edges = np.linspace(0, 1, int(rng.integers(ground.parcels[0], ground.parcels[1] + 1)))
                for left, right in itertools.pairwise(edges):
                    share = np.clip(rng.normal(scene.greenness, 0.35), 0, 1)
                    parcel = cell + (_SQUARE * (right - left, 1) + (left, 0))
                    _fill(canvas, streets.at(parcel), soil + share * (grass - soil) + rng.normal(0, 10))
    for x, y, radius in rng.uniform((0, 0, 1.5), (TILE, TILE, 4), (ground.trees, 3)):
        shadow = (x + 4 * scene.shadow[0], y + 4 * scene.shadow[1])
        for (u, v), colour in ((shadow, 0.5 * grass), ((x, y), 0.75 * grass)):
            cv2.circle(canvas, (int(u), int(v)), int(radius / scene.sensor.gsd), colour.tolist(), -1)


def _paint_streets(canvas: np.ndarray, scene: Scene, streets: _Streets, rng: np.random.Generator) -> None:
    """Asphalt between the blocks, and cars of true size in both lanes."""
    gsd, n, look = scene.sensor.gsd, streets.n, scene.style.streets
    width = look.width / gsd / streets.block  # of a block
    asphalt = np.array(look.colour) + rng.normal(0, 5)
    paint_of_cars = np.array([[215, 215, 212], [150, 152, 155], [40, 40, 44], [140, 44, 40], [50, 66, 110]])
    for direction in (0, 1):
        lines = np.arange(n + 1)
        strip = np.zeros((n + 1, 4, 2))
        strip[..., direction] = np.array([0, n, n, 0])
        strip[..., 1 - direction] = lines[:, None] + width / 2 * np.array([-1, -1, 1, 1])
        for corners in streets.at(strip):
            _fill(canvas, corners, asphalt)
        middle = strip.mean(1)[:, None, :].repeat(2, 1)
        middle[..., direction] = (0, n)
        cv2.polylines(canvas, list(_fixed(streets.at(middle))), False, look.line, 1, cv2.LINE_AA, SUBPIXEL)

        cars = rng.uniform(0, n, (look.vehicles * n, 2))
        lane = width / 4 * rng.choice((-1, 1), len(cars))
        cars[:, 1 - direction] = np.floor(cars[:, 1 - direction]) + lane
        half = np.array(look.vehicle if direction == 0 else look.vehicle[::-1]) / 2 / gsd / streets.block
        boxes = streets.at(cars[:, None] + half * (2 * _SQUARE - 1))
        boxes = boxes[(np.abs(boxes[:, 0] - TILE / 2) < TILE / 2).all(1)]
        colours = paint_of_cars[rng.integers(len(paint_of_cars), size=len(boxes))]
        for corners, colour in zip(boxes, colours, strict=True):
            _fill(canvas, corners, colour)


def _paint_sea(canvas: np.ndarray, scene: Scene, sea: np.ndarray, rng: np.random.Generator) -> None:
    """A beach of 12 m, and water that is darker farther out, with waves along the rows of the image."""
    water = scene.style.ground.water
    if water is None:
        return
    beach = np.full_like(canvas, np.clip(np.array(scene.style.ground.soil) + 24, 0, 255))
    cv2.copyTo(beach, (sea > -12 / scene.sensor.gsd).astype(np.uint8), canvas)
    waves = cv2.resize(rng.standard_normal((170, 40), np.float32), (128, 170))
    offshore = cv2.resize(sea, (128, 170)) * scene.sensor.gsd  # metres
    brightness = (1 + 0.07 * waves) * np.clip(1.25 - offshore / 200, 0.8, 1.25)
    small = np.clip(brightness[..., None] * np.array(water), 0, 255).astype(np.uint8)
    cv2.copyTo(cv2.resize(small, (TILE, TILE)), (sea > 0).astype(np.uint8), canvas)


def _cast_shadows(canvas: np.ndarray, scene: Scene, buildings: Buildings, chimneys: list[Chimney]) -> None:
    """Darken the ground in the shadow of every building and chimney, in place."""
    shadow = np.array(scene.shadow)
    mask = np.zeros(canvas.shape[:2], np.uint8)
    for feet, height in zip(buildings.corners, buildings.height, strict=True):
        outline = np.concatenate([feet, feet + height * shadow]).astype(np.float32)
        _fill(mask, cv2.convexHull(outline)[:, 0], 255)
    across = np.array([-shadow[1], shadow[0]]) / np.hypot(*shadow) / scene.sensor.gsd
    for chimney in chimneys:
        foot, (wide, narrow) = np.array(chimney.base), chimney.radius
        top = foot + chimney.height * shadow
        sides = [foot - wide * across, top - narrow * across, top + narrow * across, foot + wide * across]
        _fill(mask, np.array(sides), 255)
    light = scene.style.light
    levels = np.arange(256, dtype=np.uint8)
    darker = np.stack([cv2.convertScaleAbs(levels, alpha=share).ravel() for share in light.shade], -1)
    dark = cv2.LUT(canvas, darker[None])
    if light.softness == 0:
        cv2.copyTo(dark, mask, canvas)
    else:
        inside = cv2.GaussianBlur(mask, (0, 0), light.softness / scene.sensor.gsd).astype(np.float32)
        cv2.blendLinear(dark, canvas, inside, 255 - inside, canvas)


# --- Buildings and chimneys.


def _paint_standing(canvas: np.ndarray, scene: Scene, buildings: Buildings, chimneys: list[Chimney]) -> None:
    """Paint buildings and chimneys, the farthest from the satellite first."""
    away = np.array(scene.layover)
    centres = np.array([feet.mean(0) for feet in buildings.corners]).reshape(-1, 2)
    depths = [*(centres @ away), *(np.array(chimney.base) @ away for chimney in chimneys)]
    for i in np.argsort(depths)[::-1]:
        if i < len(buildings.height):
            _paint_box(canvas, scene, buildings, int(i))
        else:
            _paint_chimney(canvas, scene, chimneys[i - len(buildings.height)])


def _sunlight(scene: Scene, normals: np.ndarray) -> np.ndarray:
    """Light on walls with horizontal `normals` (…, 2), relative to sunlit flat ground."""
    sunward = -np.array(scene.shadow) * scene.sensor.gsd  # its length is cot(elevation)
    shade = scene.style.light.shade[0]
    return np.minimum(shade + 0.15 + (1 - shade) * np.maximum(0, normals @ sunward), 1.35)


def _paint_box(canvas: np.ndarray, scene: Scene, buildings: Buildings, i: int) -> None:
    feet, height, wall = buildings.corners[i], buildings.height[i], buildings.wall[i]
    layover = np.array(scene.layover)
    edges = np.roll(feet, -1, 0) - feet
    normals = np.stack([edges[:, 1], -edges[:, 0]], 1) / np.hypot(*edges.T)[:, None]  # outward
    light = _sunlight(scene, normals)
    levels = np.arange(scene.style.storey / 2, height, scene.style.storey)[:, None, None] * layover
    for side in np.flatnonzero(normals @ layover < 0):  # walls that face the satellite
        foot = feet[[side, (side + 1) % len(feet)]]
        _fill(canvas, np.concatenate([foot, foot[::-1] + height * layover]), wall * light[side])
        windows = list(_fixed(foot + levels))
        colour = (scene.style.windows * wall * light[side]).tolist()
        cv2.polylines(canvas, windows, False, colour, 1, cv2.LINE_AA, SUBPIXEL)
    _fill(canvas, feet + height * layover, buildings.roof[i])


def _paint_chimney(canvas: np.ndarray, scene: Scene, chimney: Chimney) -> None:
    """Paint the shaft, and the ends of its flues if it has several."""
    stack, gsd, base = scene.style.stack, scene.sensor.gsd, np.array(chimney.base)
    wide, narrow = chimney.radius
    material = 255 * chimney.albedo * np.array(stack.materials[chimney.material])
    level = np.array(stack.levels)
    bands = [material] * (len(level) - 1)
    for k in stack.painted if chimney.banded else ():
        bands[k] = np.array(stack.paint)
    radius = wide + level ** (1 / stack.flare) * (narrow - wide)
    shaft = 1.0 if chimney.flues == 1 else 0.94
    _paint_shaft(canvas, scene, base, level * shaft * chimney.height, radius / gsd, bands)
    _paint_opening(canvas, base + shaft * chimney.height * np.array(scene.layover), narrow / gsd, material)
    if chimney.flues > 1:
        angle = scene.grid_angle + 2 * math.pi * np.arange(chimney.flues) / chimney.flues
        feet = base + 0.5 * narrow / gsd * np.stack([np.cos(angle), np.sin(angle)], 1)
        for foot in feet[np.argsort(-feet @ scene.layover)]:  # the farthest from the satellite first
            ends = np.array([shaft, 1.0]) * chimney.height
            _paint_shaft(canvas, scene, foot, ends, np.full(2, 0.4 * narrow / gsd), [0.85 * material])
            _paint_opening(canvas, foot + chimney.height * np.array(scene.layover), 0.4 * narrow / gsd, material)


def _paint_shaft(
    canvas: np.ndarray, scene: Scene, base: np.ndarray, level: np.ndarray, radius: np.ndarray, bands: list[np.ndarray]
) -> None:
    """Paint strips of the visible half of a round shaft, in bands.

    `level` is in metres above `base` and `radius` in pixels at each level; between two levels is a band.
    """
    layover = np.array(scene.layover)
    away = layover / np.hypot(*layover)
    angle = np.linspace(-math.pi / 2, math.pi / 2, 7)
    outward = np.stack([np.cos(angle), np.sin(angle)], 1) @ np.array([-away, [-away[1], away[0]]])
    surface = (base + level[:, None] * layover)[:, None] + radius[:, None, None] * outward  # (levels, 7, 2)
    light = _sunlight(scene, (outward[:-1] + outward[1:]) / 2)
    for k, band in enumerate(bands):
        for j in range(len(light)):
            quad = np.array([surface[k, j], surface[k, j + 1], surface[k + 1, j + 1], surface[k + 1, j]])
            _fill(canvas, quad, band * light[j])


def _paint_opening(canvas: np.ndarray, centre: np.ndarray, radius: float, material: np.ndarray) -> None:
    """Paint the rim and the dark opening."""
    for part, colour in ((1.0, 0.9 * material), (0.65, 0.2 * material)):
        x, y, r = _fixed(np.array([*centre, part * radius])).tolist()
        cv2.circle(canvas, (x, y), r, colour.tolist(), -1, cv2.LINE_AA, SUBPIXEL)


# --- Haze and camera.


def _through_the_air(canvas: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Apply texture, haze, point spread, colour balance and noise."""
    sensor, style = scene.sensor, scene.style
    grain = np.frombuffer(rng.bytes(TILE * TILE), np.uint8).reshape(TILE, TILE).astype(np.float32) / 128 - 1
    coarse = cv2.resize(grain[: TILE // 4, : TILE // 4], (TILE, TILE), interpolation=cv2.INTER_LINEAR)
    fine, blotchy = style.ground.grain
    texture = scene.exposure * (1 + fine * grain + blotchy * coarse)
    light: np.ndarray = cv2.LUT(canvas, _linear(*style.light.tone)) * texture[..., None]
    light = cv2.GaussianBlur(light, (0, 0), sensor.blur)

    path = scene.haze * style.light.path_radiance(scene.tan_tilt, scene.cos_sun)
    air = np.array([0.88, 1.0, 1.18]) * path  # air scatters blue light most
    gain = np.array(sensor.gain) * 255
    light = light * (gain * (1 - 1.2 * path)).astype(np.float32) + (gain * air).astype(np.float32)
    noise = np.frombuffer(rng.bytes(light.size), np.uint8).reshape(light.shape).astype(np.float32)
    light += (noise - 127.5) * np.float32(sensor.noise * math.sqrt(12))
    return np.clip(light, 0, 255).astype(np.uint8)


def _linear(factor: float, exponent: float) -> np.ndarray:
    """Perceptual level 0 … 255 → linear light."""
    table: np.ndarray = (factor * (np.arange(256) / 255) ** exponent).astype(np.float32)
    return table


# --- Drawing with OpenCV.

_SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64)
_CIRCLE = np.stack([np.cos(np.arange(16) * math.pi / 8), np.sin(np.arange(16) * math.pi / 8)], 1)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * 2**SUBPIXEL).astype(np.int32)


def _fill(image: np.ndarray, polygon: np.ndarray, colour: np.ndarray | float) -> None:
    """Fill a convex (n, 2) polygon in place, antialiased."""
    value = np.clip(colour, 0, 255).tolist()
    cv2.fillConvexPoly(image, _fixed(polygon), value, cv2.LINE_AA, SUBPIXEL)
