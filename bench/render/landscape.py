"""Paint the image of a tile: streets, cars, buildings and chimneys at true scale, seen obliquely through haze.

`paint` turns a scene and its chimneys into (512, 512, 3) uint8 RGB. It paints the ground, streets and cars first, then
the shadows on them. Then it paints buildings and chimneys from the far side to the near side as the satellite sees
them, so that near ones hide far ones. Haze and camera come last.

The image shows the scale in several ways. Each varies between scenes:

- The line of sight: visible walls of buildings with storeys of 3 m, the length of a chimney relative to its width and
  to its shadow, and the path radiance, which grows as tan(tilt). That growth is steeper than in nature, so that a small
  network learns it within minutes: sixfold between the smallest and the largest tilt, where the air mass adds a quarter
  at an optical depth of 0.3.
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

STOREY = 3.0  # metres
STREET = 10.0  # metres
CAR = (4.5, 1.9)  # metres
LAND_USES = ("apartments", "houses", "halls", "yard", "field")
# Columns and rows of a block's buildings, and their length and depth in metres.
LAYOUT = {
    "apartments": (1, 3, 66.0, 13.0),
    "houses": (5, 4, 11.0, 10.0),
    "halls": (1, 2, 64.0, 28.0),
    "yard": (2, 1, 14.0, 9.0),
    "field": (1, 1, 10.0, 8.0),
}
SHADE = 0.38  # light of the sky relative to that of sun and sky on flat ground
# The colours below are perceptual, but a sensor is linear in the light. Full scale is 1. With this exponent and
# factor the mean image has the RGB mean (.30 .27 .28) and the standard deviation (about .16) of the real release.
LINEAR = (1.88 * (np.arange(256) / 255) ** 2.6).astype(np.float32)
SUBPIXEL = 4  # fractional bits of OpenCV's fixed-point coordinates


@dataclass(frozen=True)
class Buildings:
    """Columns of a table of n boxes."""

    corners: np.ndarray
    """(n, 4, 2) float64: feet of the corners in pixels, in circular order."""
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
    buildings = _draw_buildings(scene, streets, uses, feet, rng)

    canvas = _ground(scene, rng)
    _paint_blocks(canvas, scene, streets, uses, rng)
    _paint_streets(canvas, scene, streets, rng)
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
        """(n, n) index into `LAND_USES`; a block with a chimney is always industrial."""
        uses = rng.choice(len(LAND_USES), size=(self.n, self.n), p=scene.land_use)
        cells = np.floor((feet - self.origin) @ self.axes.T / self.block).astype(int)
        uses[cells[:, 0], cells[:, 1]] = LAND_USES.index("halls")
        return uses


def _draw_buildings(
    scene: Scene, streets: _Streets, uses: np.ndarray, feet: np.ndarray, rng: np.random.Generator
) -> Buildings:
    """Fill the blocks with buildings, except outside the tile and where a chimney stands."""
    gsd = scene.sensor.gsd
    centres, sizes, heights, kinds = [], [], [], []
    for kind, use in enumerate(LAND_USES):
        columns, rows, length, depth = LAYOUT[use]
        cells = np.argwhere(uses == kind)
        slots = np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), -1).reshape(-1, 2)
        within = 0.08 + 0.84 * (slots + 0.5) / (columns, rows)  # the rest is street
        centre = (cells[:, None] + within + rng.normal(0, 0.01, (len(cells), len(slots), 2))).reshape(-1, 2)
        storeys = {"apartments": scene.storeys, "houses": 2.5, "halls": 4.0}.get(use, 1.5)
        centres.append(centre)
        sizes.append(np.array([length, depth]) * np.exp(rng.normal(0, 0.12, (len(centre), 2))))
        heights.append(STOREY * np.rint(np.maximum(1, storeys * np.exp(rng.normal(0, 0.15, len(centre))))))
        kinds.append(np.full(len(centre), kind))
    centre, half = streets.at(np.concatenate(centres)), np.concatenate(sizes) / 2 / gsd
    height, kind_of = np.concatenate(heights), np.concatenate(kinds)

    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    boxes = centre[:, None] + (half[:, None] * corners) @ streets.axes
    reach = np.abs(centre - TILE / 2).max(1) - half.max(1) - height * max(map(abs, scene.layover))
    clear = np.abs((feet[:, None] - centre) @ streets.axes.T) > half + 12 / gsd  # 12 m from wall to foot
    keep = (reach < TILE / 2) & clear.any(-1).all(0) & (rng.random(len(centre)) < 0.85)

    tint = np.array([24.0, 0.0, -14.0]) * (0.4 + scene.warmth)
    roofs = np.array([[140, 140, 136], [128, 112, 104], [124, 138, 160], [186, 184, 176], [112, 106, 98]])
    roof = roofs[rng.integers(len(roofs), size=len(centre))] + tint + rng.normal(0, 16, (len(centre), 1))
    wall = np.array([150, 144, 134]) + tint / 2 + rng.normal(0, 14, (len(centre), 1))
    roof[kind_of == LAND_USES.index("apartments")] -= 22  # tar, tanks and ducts
    return Buildings(boxes[keep], height[keep], roof[keep], wall[keep])


# --- The ground.


def _soil_and_grass(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    soil = np.array([112, 92, 76]) + scene.warmth * np.array([16, 0, -12])
    grass = np.array([62, 74, 44]) + (1 - scene.greenness) * np.array([34, 12, 12])
    return soil, grass


def _ground(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Soil and grass, mixed by noise of three octaves; (512, 512, 3) uint8."""
    mixture = np.zeros((128, 128), np.float32)
    for cells, weight in ((5, 0.5), (17, 0.35), (50, 0.25)):
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
    for kind, use in enumerate(LAND_USES):
        for cell in np.argwhere(uses == kind):
            if use in ("halls", "yard"):
                _fill(canvas, streets.at(cell + _SQUARE), np.array([128, 122, 114]) + rng.normal(0, 12))
            elif use == "field":
                edges = np.linspace(0, 1, int(rng.integers(3, 6)))
                for left, right in itertools.pairwise(edges):
                    share = np.clip(rng.normal(scene.greenness, 0.35), 0, 1)
                    parcel = cell + (_SQUARE * (right - left, 1) + (left, 0))
                    _fill(canvas, streets.at(parcel), soil + share * (grass - soil) + rng.normal(0, 10))
    for x, y, radius in rng.uniform((0, 0, 1.5), (TILE, TILE, 4), (70, 3)):
        shadow = (x + 4 * scene.shadow[0], y + 4 * scene.shadow[1])
        for (u, v), colour in ((shadow, 0.5 * grass), ((x, y), 0.75 * grass)):
            cv2.circle(canvas, (int(u), int(v)), int(radius / scene.sensor.gsd), colour.tolist(), -1)


def _paint_streets(canvas: np.ndarray, scene: Scene, streets: _Streets, rng: np.random.Generator) -> None:
    """Asphalt between the blocks, and cars of true size in both lanes."""
    gsd, n = scene.sensor.gsd, streets.n
    width = STREET / gsd / streets.block  # of a block
    asphalt = np.array([74, 73, 74]) + rng.normal(0, 5)
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
        cv2.polylines(canvas, list(_fixed(streets.at(middle))), False, (170, 168, 160), 1, cv2.LINE_AA, SUBPIXEL)

        cars = rng.uniform(0, n, (26 * n, 2))
        lane = width / 4 * rng.choice((-1, 1), len(cars))
        cars[:, 1 - direction] = np.floor(cars[:, 1 - direction]) + lane
        half = np.array(CAR if direction == 0 else CAR[::-1]) / 2 / gsd / streets.block
        boxes = streets.at(cars[:, None] + half * (2 * _SQUARE - 1))
        boxes = boxes[(np.abs(boxes[:, 0] - TILE / 2) < TILE / 2).all(1)]
        colours = paint_of_cars[rng.integers(len(paint_of_cars), size=len(boxes))]
        for corners, colour in zip(boxes, colours, strict=True):
            _fill(canvas, corners, colour)


def _cast_shadows(canvas: np.ndarray, scene: Scene, buildings: Buildings, chimneys: list[Chimney]) -> None:
    """Darken the ground in the shadow of every building and chimney, in place."""
    shadow = np.array(scene.shadow)
    mask = np.zeros(canvas.shape[:2], np.uint8)
    tops = buildings.corners + buildings.height[:, None, None] * shadow
    for outline in np.concatenate([buildings.corners, tops], 1).astype(np.float32):
        _fill(mask, cv2.convexHull(outline)[:, 0], 255)
    across = np.array([-shadow[1], shadow[0]]) / np.hypot(*shadow) / scene.sensor.gsd
    for chimney in chimneys:
        foot, (wide, narrow) = np.array(chimney.base), chimney.radius
        top = foot + chimney.height * shadow
        sides = [foot - wide * across, top - narrow * across, top + narrow * across, foot + wide * across]
        _fill(mask, np.array(sides), 255)
    dark = cv2.convertScaleAbs(canvas, alpha=SHADE)
    cv2.copyTo(dark, mask, canvas)


# --- Buildings and chimneys.


def _paint_standing(canvas: np.ndarray, scene: Scene, buildings: Buildings, chimneys: list[Chimney]) -> None:
    """Paint buildings and chimneys, the farthest from the satellite first."""
    away = np.array(scene.layover)
    depths = [*(buildings.corners.mean(1) @ away), *(np.array(chimney.base) @ away for chimney in chimneys)]
    for i in np.argsort(depths)[::-1]:
        if i < len(buildings.height):
            _paint_box(canvas, scene, buildings, int(i))
        else:
            _paint_chimney(canvas, scene, chimneys[i - len(buildings.height)])


def _sunlight(scene: Scene, normals: np.ndarray) -> np.ndarray:
    """Light on walls with horizontal `normals` (…, 2), relative to sunlit flat ground."""
    sunward = -np.array(scene.shadow) * scene.sensor.gsd  # its length is cot(elevation)
    return np.minimum(SHADE + 0.15 + (1 - SHADE) * np.maximum(0, normals @ sunward), 1.35)


def _paint_box(canvas: np.ndarray, scene: Scene, buildings: Buildings, i: int) -> None:
    feet, height, wall = buildings.corners[i], buildings.height[i], buildings.wall[i]
    layover = np.array(scene.layover)
    edges = np.roll(feet, -1, 0) - feet
    normals = np.stack([edges[:, 1], -edges[:, 0]], 1) / np.hypot(*edges.T)[:, None]  # outward
    light = _sunlight(scene, normals)
    levels = np.arange(STOREY / 2, height, STOREY)[:, None, None] * layover
    for side in np.flatnonzero(normals @ layover < 0):  # walls that face the satellite
        foot = feet[[side, (side + 1) % 4]]
        _fill(canvas, np.concatenate([foot, foot[::-1] + height * layover]), wall * light[side])
        windows = list(_fixed(foot + levels))
        colour = (0.55 * wall * light[side]).tolist()
        cv2.polylines(canvas, windows, False, colour, 1, cv2.LINE_AA, SUBPIXEL)
    _fill(canvas, feet + height * layover, buildings.roof[i])


def _paint_chimney(canvas: np.ndarray, scene: Scene, chimney: Chimney) -> None:
    """Paint a tapered cylinder: strips of its visible half in bands, then the rim and the dark opening."""
    gsd, layover = scene.sensor.gsd, np.array(scene.layover)
    away = layover / np.hypot(*layover)
    angle = np.linspace(-math.pi / 2, math.pi / 2, 7)
    outward = np.stack([np.cos(angle), np.sin(angle)], 1) @ np.array([-away, [-away[1], away[0]]])
    level = np.linspace(0, 1, 8)  # seven bands
    radius = (chimney.radius[0] + level * (chimney.radius[1] - chimney.radius[0])) / gsd
    axis = np.array(chimney.base) + (level * chimney.height)[:, None] * layover
    surface = axis[:, None] + radius[:, None, None] * outward  # (8, 7, 2)
    light = _sunlight(scene, (outward[:-1] + outward[1:]) / 2)
    concrete = 255 * chimney.albedo * np.array([1.0, 0.97, 0.92])
    for k in range(len(level) - 1):
        paint_of_band = np.array([205, 62, 50]) if chimney.banded and k % 2 == 0 else concrete
        for j in range(len(light)):
            quad = np.array([surface[k, j], surface[k, j + 1], surface[k + 1, j + 1], surface[k + 1, j]])
            _fill(canvas, quad, paint_of_band * light[j])
    for part, colour in ((1.0, 0.9 * concrete), (0.65, 0.2 * concrete)):
        x, y, r = _fixed(np.array([*axis[-1], part * radius[-1]])).tolist()
        cv2.circle(canvas, (x, y), r, colour.tolist(), -1, cv2.LINE_AA, SUBPIXEL)


# --- Haze and camera.


def _through_the_air(canvas: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Apply texture, haze, point spread, colour balance and noise."""
    sensor = scene.sensor
    grain = np.frombuffer(rng.bytes(TILE * TILE), np.uint8).reshape(TILE, TILE).astype(np.float32) / 128 - 1
    coarse = cv2.resize(grain[: TILE // 4, : TILE // 4], (TILE, TILE), interpolation=cv2.INTER_LINEAR)
    texture = scene.exposure * (1 + 0.20 * grain + 0.18 * coarse)
    light: np.ndarray = cv2.LUT(canvas, LINEAR) * texture[..., None]
    light = cv2.GaussianBlur(light, (0, 0), sensor.blur)

    path = scene.haze * scene.tan_tilt
    air = np.array([0.88, 1.0, 1.18]) * path  # air scatters blue light most
    gain = np.array(sensor.gain) * 255
    light = light * (gain * (1 - 1.2 * path)).astype(np.float32) + (gain * air).astype(np.float32)
    noise = np.frombuffer(rng.bytes(light.size), np.uint8).reshape(light.shape).astype(np.float32)
    light += (noise - 127.5) * np.float32(sensor.noise * math.sqrt(12))
    return np.clip(light, 0, 255).astype(np.uint8)


# --- Drawing with OpenCV.

_SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64)


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.rint(points * 2**SUBPIXEL).astype(np.int32)


def _fill(image: np.ndarray, polygon: np.ndarray, colour: np.ndarray | float) -> None:
    """Fill a convex (n, 2) polygon in place, antialiased."""
    value = np.clip(colour, 0, 255).tolist()
    cv2.fillConvexPoly(image, _fixed(polygon), value, cv2.LINE_AA, SUBPIXEL)
