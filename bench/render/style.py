"""The two looks of a rendered release: `town` and `coast`.

A recipe that is chosen on one renderer may rest on its habits. The two styles therefore share only what the labels
share: the satellites' tilts and resolutions, the heights and positions of the chimneys, and the layout of the release.
With the same seed and counts, both have the same polylines and heights. All that can be seen differs:

- `town`: a grid of streets with houses, halls and fields. The sun is in the south-west, shadows are dark and sharp.
  Haze grows with the tilt, so brightness alone tells a network much of the scale.
- `coast`: a port with water, sand, tanks, containers and towers. The sun is in the south-east, shadows are pale and
  soft. Haze grows with the square of the tilt and towards the sun. Chimneys are stouter, flared at the foot, of brick,
  steel or concrete, with bands near the top only, and some have several flues.

This module has the numbers; `scene.py` and `landscape.py` draw and paint by them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

Colour: TypeAlias = tuple[float, float, float]
"""RGB albedo, 0 to 255."""
StyleName = Literal["town", "coast"]


@dataclass(frozen=True)
class Sensor:
    """How one of the two cameras records the ground."""

    name: str
    """Prefix of the file names."""
    gsd: float
    """Ground sampling distance in metres per pixel, the label's `img_resolution`."""
    gain: tuple[float, float, float]
    """Relative response in red, green and blue."""
    blur: float
    """Standard deviation of the point spread function in pixels (MTF)."""
    noise: float
    """Standard deviation of the noise, full scale 1."""


@dataclass(frozen=True)
class LandUse:
    """What covers a block and stands on it."""

    name: str
    weight: float
    """Parameter of the Dirichlet distribution from which a scene draws the shares of its land uses."""
    grid: tuple[int, int]
    """Columns and rows of buildings."""
    size: tuple[float, float]
    """Length and depth of a building in metres."""
    storeys: float | None
    """Typical number of storeys. None: the scene's."""
    roofs: tuple[Colour, ...]
    """As many for each land use of a style."""
    wall: Colour | None
    """None: as the roof."""
    surface: Literal["ground", "paved", "parcels"] = "ground"
    round: bool = False
    darker: float = 0.0
    """How much darker roofs are: tar, tanks and ducts."""


@dataclass(frozen=True)
class Ground:
    """Colours and frequencies of the ground."""

    soil: Colour
    grass: Colour
    dry_grass: Colour
    """Difference to `grass` where nothing is green."""
    octaves: tuple[tuple[int, float], ...]
    """Cells per side and weight of each octave of the noise that mixes soil and grass."""
    parcels: tuple[int, int]
    """Fewest and most edges of the parcels of a block."""
    pavement: Colour
    trees: int
    grain: tuple[float, float]
    """Contrast of the texture at one pixel and at four."""
    water: Colour | None = None
    """Colour of the sea; None: there is none."""


@dataclass(frozen=True)
class Streets:
    """Streets and their vehicles."""

    block: float
    """Mean distance in metres."""
    width: float
    """Metres."""
    colour: Colour
    line: Colour
    vehicle: tuple[float, float]
    """Length and width in metres."""
    vehicles: int
    """Per street and block."""


@dataclass(frozen=True)
class Stack:
    """How chimneys look."""

    slenderness: tuple[float, float]
    """Median height ÷ width at the foot, and the standard deviation of its logarithm."""
    taper: tuple[float, float]
    """Lowest and highest radius at the top ÷ radius at the foot."""
    flare: float
    """1: a cone. 3: most of the taper is near the foot."""
    materials: tuple[Colour, ...]
    """Colour relative to the chimney's brightness."""
    flues: tuple[int, ...]
    """Flues of a chimney, equally probable. 1: the shaft is the flue."""
    levels: tuple[float, ...]
    """Ends of the bands, 0 (foot) to 1 (top)."""
    painted: tuple[int, ...]
    """Which bands have the paint of an aviation obstacle."""
    paint: Colour


@dataclass(frozen=True)
class Light:
    """Sun, shadows, air and tone."""

    hour: float
    """Mean local solar time of the pass."""
    spread: float
    """Hours by which the sun's position moves for one standard deviation of the time of the pass."""
    shade: Colour
    """Light of the sky relative to that of sun and sky on flat ground, in red, green and blue."""
    softness: float
    """Standard deviation of a shadow's edge in metres; 0: sharp."""
    haze: tuple[float, float]
    """Median of a scene's haze, full scale 1, and the standard deviation of its logarithm."""
    path_radiance: Callable[[float, float], float]
    """From the tangent of the tilt and the cosine of the angle between line of sight and sun, relative to the haze."""
    exposure: float
    """Standard deviation of the logarithm of a scene's brightness."""
    tone: tuple[float, float]
    """Factor and exponent from perceptual colours to the sensor's linear ones, full scale 1.

    With these the mean image has about the RGB mean (.30 .27 .28) and standard deviation (.16) of the real release."""


@dataclass(frozen=True)
class Style:
    """The look of all scenes of a release."""

    sensors: tuple[Sensor, ...]
    land_uses: tuple[LandUse, ...]
    industry: int
    """Index of the land use around a chimney."""
    ground: Ground
    streets: Streets
    stack: Stack
    light: Light
    storey: float
    """Height in metres."""
    storeys: float
    """Mean number of storeys of the highest buildings."""
    windows: float
    """Brightness of a row of windows relative to the wall."""

    @property
    def roofs(self) -> list[tuple[Colour, ...]]:
        """For each land use its colours."""
        return [use.roofs for use in self.land_uses]


def _grows_with_the_tilt(tan_tilt: float, cos_sun: float) -> float:
    """Steeper than in nature, so that a small network learns it within minutes.

    It grows sixfold between the smallest and the largest tilt, where the air mass adds a quarter at an optical depth of
    0.3.
    """
    return tan_tilt


def _grows_with_the_air_mass(tan_tilt: float, cos_sun: float) -> float:
    """The excess of the air mass grows as tan² / 2, and aerosols scatter forward.

    Steeper than in nature, for the same reason.
    """
    return (0.3 + 3 * tan_tilt**2) * (1 + 0.2 * cos_sun)


_TOWN_ROOFS: tuple[Colour, ...] = (
    (140, 140, 136),
    (128, 112, 104),
    (124, 138, 160),
    (186, 184, 176),
    (112, 106, 98),
)
_TOWN_WALL: Colour = (150, 144, 134)

TOWN = Style(
    sensors=(
        Sensor("K3", gsd=0.7, gain=(1.06, 0.98, 0.97), blur=0.85, noise=0.010),
        Sensor("K3A", gsd=0.55, gain=(0.99, 0.97, 1.07), blur=0.60, noise=0.015),
    ),
    land_uses=(
        LandUse("apartments", 3, (1, 3), (66, 13), None, _TOWN_ROOFS, _TOWN_WALL, darker=22),
        LandUse("houses", 3, (5, 4), (11, 10), 2.5, _TOWN_ROOFS, _TOWN_WALL),
        LandUse("halls", 3, (1, 2), (64, 28), 4.0, _TOWN_ROOFS, _TOWN_WALL, "paved"),
        LandUse("yard", 2, (2, 1), (14, 9), 1.5, _TOWN_ROOFS, _TOWN_WALL, "paved"),
        LandUse("field", 2, (1, 1), (10, 8), 1.5, _TOWN_ROOFS, _TOWN_WALL, "parcels"),
    ),
    industry=2,
    ground=Ground(
        soil=(112, 92, 76),
        grass=(62, 74, 44),
        dry_grass=(34, 12, 12),
        octaves=((5, 0.5), (17, 0.35), (50, 0.25)),
        parcels=(3, 5),
        pavement=(128, 122, 114),
        trees=70,
        grain=(0.20, 0.18),
    ),
    streets=Streets(100, 10.0, (74, 73, 74), (170, 168, 160), (4.5, 1.9), 26),
    stack=Stack(
        slenderness=(17, 0.18),  # h/12 to h/25, 2 σ
        taper=(0.6, 0.85),
        flare=1,
        materials=((1.0, 0.97, 0.92),),
        flues=(1,),
        levels=tuple(np.linspace(0, 1, 8).tolist()),  # seven bands
        painted=(0, 2, 4, 6),
        paint=(205, 62, 50),
    ),
    light=Light(
        hour=13.5,  # when KOMPSAT-3 and -3A pass
        spread=0,
        shade=(0.38, 0.38, 0.38),
        softness=0,
        haze=(0.30, 0.11),
        path_radiance=_grows_with_the_tilt,
        exposure=0.07,
        tone=(1.88, 2.6),
    ),
    storey=3.0,
    storeys=15,
    windows=0.55,
)

_CONTAINERS: tuple[Colour, ...] = ((172, 66, 48), (40, 84, 140), (52, 120, 92), (206, 148, 52), (150, 150, 154))
_TANKS: tuple[Colour, ...] = ((214, 214, 208), (206, 208, 212), (196, 190, 178), (220, 218, 214), (168, 150, 128))
_TERRACOTTA: tuple[Colour, ...] = ((188, 104, 72), (172, 92, 66), (200, 120, 84), (150, 84, 66), (204, 196, 184))
_PLASTER: Colour = (214, 206, 192)

COAST = Style(
    sensors=(
        Sensor("K3", gsd=0.7, gain=(1.0, 1.0, 1.0), blur=0.70, noise=0.012),
        Sensor("K3A", gsd=0.55, gain=(1.0, 1.0, 1.0), blur=0.75, noise=0.012),
    ),
    land_uses=(
        LandUse("towers", 6, (2, 3), (21, 19), None, _TERRACOTTA, _PLASTER),
        LandUse("villas", 3, (4, 6), (12, 9), 2.4, _TERRACOTTA, _PLASTER),
        LandUse("tanks", 3, (3, 3), (33, 33), 5.5, _TANKS, None, "paved", round=True),
        LandUse("containers", 2, (6, 9), (12.2, 7.5), 3.5, _CONTAINERS, None, "paved"),
        LandUse("paddies", 2, (1, 1), (9, 7), 1.5, _TERRACOTTA, _PLASTER, "parcels"),
    ),
    industry=2,
    ground=Ground(
        soil=(180, 156, 122),
        grass=(104, 112, 70),
        dry_grass=(40, 22, 14),
        octaves=((3, 0.55), (24, 0.2), (90, 0.3)),
        parcels=(10, 18),
        pavement=(160, 158, 152),
        trees=30,
        grain=(0.13, 0.07),
        water=(44, 84, 98),
    ),
    streets=Streets(150, 8.0, (148, 142, 132), (160, 154, 142), (13.0, 2.6), 6),
    stack=Stack(
        slenderness=(13, 0.12),
        taper=(0.45, 0.65),
        flare=3,
        materials=((0.84, 0.50, 0.36), (0.98, 1.0, 1.04), (0.74, 0.72, 0.68)),
        flues=(1, 1, 2, 3),
        levels=(0, 0.06, 0.14, 0.28, 0.5, 0.76, 0.82, 0.88, 0.94, 1),
        painted=(5, 7),
        paint=(34, 46, 92),
    ),
    light=Light(
        hour=10.2,
        spread=0.8,
        shade=(0.52, 0.56, 0.64),
        softness=1.0,
        haze=(0.14, 0.12),
        path_radiance=_grows_with_the_air_mass,
        exposure=0.07,
        tone=(0.86, 1.9),
    ),
    storey=2.6,
    storeys=17,
    windows=0.78,
)

STYLES: dict[StyleName, Style] = {"town": TOWN, "coast": COAST}
