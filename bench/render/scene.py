"""The geometry of a rendered scene: where chimneys stand, and where their tops and shadows appear.

A *scene* is one acquisition: one sensor, one line of sight, one position of the sun, one region. All tiles of a scene
share these, and therefore the *scale*, which the network has to learn:

    scale = height / length_px = gsd / sqrt(tan² roll + tan² pitch)        metres per pixel

This module draws scenes and chimneys from a random generator. It does not paint (`landscape.py` does) or write files
(`release.py` does). Image coordinates are pixels, x to the east and y to the south; heights and sizes are metres.

Two vectors define the whole geometry, both in pixels per metre of height:

- `Scene.layover`: a point at height z appears at z · layover from its foot. In the published labels the vector is (tan
  roll, tan pitch) / gsd, rotated by −7° to −8.5° (the inclination of the ground track) and reversed for some passes.
  The same is done here.
- `Scene.shadow`: the shadow of that point falls at z · shadow from its foot. Its length is 1 / tan(sun elevation) /
  gsd. It points away from the sun at the latitude, date and hour of the scene.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date, timedelta
from statistics import NormalDist

import numpy as np

from bench.render.style import TOWN, Sensor, Style

TILE = 512  # pixels per side
SCALE_LIMITS = (0.8, 3.6)  # metres per pixel
HEIGHT_LIMITS = (40.0, 298.0)  # metres
LENGTH_LIMITS = (17.0, 319.0)  # pixels
MARGIN = 4  # pixels between a labelled point and the tile's edge

# ln(1+h) of the release has mean 4.60 and standard deviation 0.43, and the mean height is 109 m. This normal
# distribution has the same moments after it is truncated to 40–298 m.
LOG_HEIGHT = (4.57, 0.48)
# ln(scale) of the release has mean ln 1.5 and standard deviation 0.30: 0.12 from the GSDs of the two sensors, the rest
# from the tilt.
LOG_TAN_TILT = (math.log(0.414), 0.275)
CHIMNEYS_A_TILE = (0.76, 0.165, 0.075)  # probability of 1, 2, 3: mean 1.315 = 10,590 / 8,052

# Country code in the file name → latitude and longitude of its industrial regions in degrees.
COUNTRIES = {
    "CHN": (36.0, 116.0),
    "KOR": (36.5, 127.5),
    "JPN": (35.0, 137.0),
    "IND": (22.0, 80.0),
    "VNM": (19.0, 106.0),
    "POL": (51.0, 19.0),
    "USA": (38.0, -84.0),
}


@dataclass(frozen=True)
class Scene:
    """One acquisition: everything that its tiles share."""

    name: str
    """`SENSOR_COUNTRY_YYYYMMDDhhmmss`, UTC."""
    style: Style
    sensor: Sensor
    roll: float
    """Degrees, rounded to eight decimals as in the label."""
    pitch: float
    """Degrees, rounded to eight decimals as in the label."""
    layover: tuple[float, float]
    """Displacement in pixels per metre of height, away from the satellite."""
    shadow: tuple[float, float]
    """Shadow in pixels per metre of height, away from the sun."""
    haze: float
    """Factor of the style's path radiance, full scale 1."""
    exposure: float
    """Brightness relative to the mean scene."""
    greenness: float
    """0 (bare soil, winter) to 1 (full vegetation)."""
    warmth: float
    """Colour of soil and roofs, −1 (grey) to 1 (red)."""
    grid_angle: float
    """Direction of the streets in radians."""
    block_m: float
    """Distance between streets in metres."""
    storeys: float
    """Typical number of storeys of the apartment buildings."""
    land_use: tuple[float, ...]
    """Probability of each land use of the style."""

    @property
    def tan_tilt(self) -> float:
        """sqrt(tan² roll + tan² pitch)."""
        return math.hypot(math.tan(math.radians(self.roll)), math.tan(math.radians(self.pitch)))

    @property
    def cos_sun(self) -> float:
        """Cosine of the horizontal angle between the line of sight and the direction to the sun."""
        (u, v), (x, y) = self.layover, self.shadow
        return -(u * x + v * y) / math.hypot(u, v) / math.hypot(x, y)

    @property
    def scale(self) -> float:
        """Metres of height per pixel of polyline."""
        return self.sensor.gsd / self.tan_tilt


@dataclass(frozen=True)
class Chimney:
    """One chimney of a tile."""

    base: tuple[float, float]
    """Centre of the foot in pixels."""
    height: float
    """Metres."""
    radius: tuple[float, float]
    """At the foot and at the top, metres."""
    banded: bool
    """Whether it has the bands of an aviation obstacle."""
    albedo: float
    """Brightness of the material, full scale 1."""
    material: int = 0
    """Index into the style's materials."""
    flues: int = 1

    def polyline(self, scene: Scene) -> np.ndarray:
        """(2, 2) int64: base and top in whole pixels (x, y), as an annotator would click them."""
        base = np.array(self.base)
        return np.rint(np.stack([base, base + self.height * np.array(scene.layover)])).astype(np.int64)


def labelled_height(polyline: np.ndarray, scene: Scene) -> float:
    """`chi_height_m` in metres of a (2, 2) polyline in pixels: length · gsd / sqrt(tan² roll + tan² pitch).

    The formula reproduces every published label to the printed digits.
    """
    (x0, y0), (x1, y1) = polyline.tolist()
    return math.hypot(x1 - x0, y1 - y0) * scene.scale


def draw_scenes(count: int, rng: np.random.Generator, style: Style = TOWN) -> list[Scene]:
    """Draw `count` scenes with different names. The style changes no tilt, no resolution and no direction.

    The tilts are stratified: one from each of `count` equally probable strata. Even a release of sixty scenes
    therefore has the distribution of scales of the real one.
    """
    strata = (rng.permutation(count) + rng.random(count)) / count
    sensors = rng.permutation(np.arange(count) % len(style.sensors))
    scenes: dict[str, Scene] = {}
    for quantile, sensor in zip(strata, sensors, strict=True):
        scene = _draw_scene(style, style.sensors[sensor], float(quantile), rng)
        while scene.name in scenes:
            scene = _draw_scene(style, style.sensors[sensor], float(quantile), rng)
        scenes[scene.name] = scene
    return list(scenes.values())


def _draw_scene(style: Style, sensor: Sensor, tilt_quantile: float, rng: np.random.Generator) -> Scene:
    tilts = NormalDist(*LOG_TAN_TILT)
    low, high = (tilts.cdf(math.log(sensor.gsd / limit)) for limit in reversed(SCALE_LIMITS))
    tan_tilt = math.exp(tilts.inv_cdf(low + tilt_quantile * (high - low)))
    direction = rng.uniform(0, 2 * math.pi)
    roll = round(math.degrees(math.atan(tan_tilt * math.cos(direction))), 8)
    pitch = round(math.degrees(math.atan(tan_tilt * math.sin(direction))), 8)
    track = math.radians(rng.normal(-7.7, 0.6)) + math.pi * rng.integers(2)
    across, along = math.tan(math.radians(roll)), math.tan(math.radians(pitch))
    layover = (
        (across * math.cos(track) - along * math.sin(track)) / sensor.gsd,
        (across * math.sin(track) + along * math.cos(track)) / sensor.gsd,
    )

    country = str(rng.choice(list(COUNTRIES)))
    latitude, longitude = (x + rng.normal(0, 2) for x in COUNTRIES[country])
    day = date(2015, 6, 1) + timedelta(days=int(rng.integers(0, 7 * 365)))
    late = rng.normal(0, 0.2)  # hours
    light = style.light
    seconds = int((light.hour - longitude / 15 + late) % 24 * 3600)
    clock = f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
    year_angle = 2 * math.pi * (day.timetuple().tm_yday - 81) / 365  # 0 at the spring equinox
    summer = math.sin(year_angle)  # −1 in December, 1 in June
    cot_elevation, sunward = _sun(
        math.radians(latitude), math.radians(23.44) * summer, light.hour + light.spread * late / 0.2
    )
    shadow = (-sunward[0] * cot_elevation / sensor.gsd, -sunward[1] * cot_elevation / sensor.gsd)

    return Scene(
        name=f"{sensor.name}_{country}_{day:%Y%m%d}{clock}",
        style=style,
        sensor=sensor,
        roll=roll,
        pitch=pitch,
        layover=layover,
        shadow=shadow,
        haze=light.haze[0] * math.exp(rng.normal(0, light.haze[1])),
        exposure=math.exp(rng.normal(0, light.exposure)),
        greenness=float(np.clip(0.5 + 0.3 * summer + rng.normal(0, 0.15), 0, 1)),
        warmth=float(np.clip(rng.normal(0, 0.4), -1, 1)),
        grid_angle=rng.uniform(0, math.pi / 2),
        block_m=style.streets.block * math.exp(rng.normal(0, 0.08)),
        storeys=style.storeys * math.exp(rng.normal(0, 0.12)),
        land_use=tuple(rng.dirichlet([use.weight for use in style.land_uses]).tolist()),
    )


def _sun(latitude: float, declination: float, hour: float) -> tuple[float, tuple[float, float]]:
    """Cotangent of the sun's elevation (at most 2.5), and the unit vector (east, south) to the sun."""
    hour_angle = math.radians(15 * (hour - 12))
    east = -math.cos(declination) * math.sin(hour_angle)
    north = math.cos(latitude) * math.sin(declination)
    north -= math.sin(latitude) * math.cos(declination) * math.cos(hour_angle)
    horizontal = math.hypot(east, north)
    up = math.sqrt(1 - horizontal**2)
    return min(horizontal / up, 2.5), (east / horizontal, -north / horizontal)


def draw_chimneys(scene: Scene, rng: np.random.Generator) -> list[Chimney]:
    """Draw one to three chimneys inside a tile; their labels are within all published limits."""
    wanted = 1 + int(rng.choice(len(CHIMNEYS_A_TILE), p=CHIMNEYS_A_TILE))
    chimneys: list[Chimney] = []
    while len(chimneys) < wanted:
        chimney = _draw_chimney(scene, rng)
        feet_apart = [math.dist(chimney.base, other.base) * scene.sensor.gsd for other in chimneys]
        if _is_publishable(chimney, scene) and min(feet_apart, default=math.inf) > 25:
            chimneys.append(chimney)
    stack = scene.style.stack  # drawn last, so that no style moves a chimney
    materials = rng.integers(len(stack.materials), size=wanted).tolist()
    flues = [stack.flues[k] for k in rng.integers(len(stack.flues), size=wanted)]
    return [replace(c, material=m, flues=n) for c, m, n in zip(chimneys, materials, flues, strict=True)]


def _draw_chimney(scene: Scene, rng: np.random.Generator) -> Chimney:
    height = math.expm1(rng.normal(*LOG_HEIGHT))
    reach = height * np.array(scene.layover)
    lowest = MARGIN + np.maximum(0, -reach)
    highest = TILE - 1 - MARGIN - np.maximum(0, reach)
    x, y = (lowest + (highest - lowest) * rng.random(2)).tolist()  # outside the tile if the chimney is too high to fit
    stack = scene.style.stack
    slenderness, spread = stack.slenderness
    foot = height / math.exp(rng.normal(math.log(slenderness), spread)) / 2
    return Chimney(
        base=(x, y),
        height=height,
        radius=(foot, foot * rng.uniform(*stack.taper)),
        banded=bool(rng.random() < 0.45),
        albedo=rng.uniform(0.6, 0.85),
    )


def _is_publishable(chimney: Chimney, scene: Scene) -> bool:
    polyline = chimney.polyline(scene)
    length = math.dist(*polyline.tolist())
    return bool(
        HEIGHT_LIMITS[0] <= labelled_height(polyline, scene) <= HEIGHT_LIMITS[1]
        and LENGTH_LIMITS[0] <= length <= LENGTH_LIMITS[1]
        and polyline.min() >= MARGIN
        and polyline.max() <= TILE - 1 - MARGIN
    )
