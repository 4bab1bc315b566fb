"""The chest of a patient without findings, as X-rays see it (ours).

Lengths are in the plane's units, in which a picture's side has length 2. The patient's left is on
the picture's right, where x is positive. Constants were chosen by eye.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from mcrlib.data.sources.phantom.shapes import Field, Plane, band, cloud, step, wave

Seed = int | Sequence[int]


class Build(NamedTuple):
    """How a patient is built. Each number lies between -1 and 1."""

    chest_width: float
    apex: float  # lowers the tops of the lungs, raises the clavicles, shifts the vertebrae
    diaphragm: float  # lowers it
    fat: float
    heart: float  # enlarges it
    ribs: float  # raises them
    vessels: float  # turns the fan of the lungs' vessels


class Shot(NamedTuple):
    """How a radiograph was taken. Each number lies between -1 and 1.

    Films vary so much that pixels alone say little: the patient lies up to 4 % of the picture's
    side off its centre and up to 7 degrees askew, and seems up to 12 % nearer or further away.
    """

    right: float
    down: float
    turn: float
    zoom: float
    exposure: float


@dataclass(frozen=True)
class Anatomy:
    """A patient without findings. Fields have the shape [S, S]."""

    findings_seed: list[int]  # seeds the positions of this study's findings
    plane: Plane
    wall_distance: Field  # from the chest wall inwards, negative outside the chest
    lung: Field  # 1 in the lungs, 0 elsewhere
    mediastinum: Field  # 1 in heart, great vessels and trunk, 0 elsewhere
    markings: Field  # attenuation of the lungs' vessels and hila
    ribs: Field  # attenuation of the ribs
    attenuation: Field  # of everything together
    heart_scale: float  # about 1
    texture: Field  # smooth noise that makes tissue and edges irregular
    noise: Field  # of the detector
    exposure: float  # factor of the attenuation

    @cached_property
    def warped_plane(self) -> Plane:
        """The plane for findings that have grown: the texture makes their shapes irregular."""
        x = self.plane.x + 0.06 * self.texture
        y = self.plane.y + 0.06 * self.texture.T
        return Plane(x, y, self.plane.pixel)

    @cached_property
    def visible_lung(self) -> Field:
        """How much of a finding in the lung shows: 1 in the open, half behind the mediastinum."""
        return self.lung * (1.0 - 0.5 * self.mediastinum)


def normal_anatomy(seed: Seed, size: int, view: str, study: int) -> Anatomy:
    """The anatomy of patient `seed` in study number `study`, fields [size, size].

    The build follows `seed` alone; position, exposure and noise follow `study` too.
    """
    seeds = np.atleast_1d(seed).tolist()
    build_rng = np.random.default_rng(seeds)
    shot_rng = np.random.default_rng([*seeds, 1, study])
    build = Build(*_uniform(build_rng, 7))
    shot = Shot(*_uniform(shot_rng, 5))
    texture = cloud(shot_rng, size, 10)
    grain = cloud(shot_rng, size, 34)
    noise_level = 0.010 if view == "PA" else 0.015
    noise = shot_rng.standard_normal((size, size), np.float32) * noise_level

    plane = _plane(size, shot)
    wall_distance = _wall_distance(plane, build)
    lung = _lung(plane, build, wall_distance)
    trunk = _trunk(plane)
    heart_scale = 0.97 + 0.04 * build.heart
    mediastinum = np.maximum(trunk, _great_vessels(plane))
    mediastinum = np.maximum(mediastinum, heart(plane, heart_scale))

    markings = _lung_markings(plane, build, lung, texture, grain)
    ribs = _ribs(plane, build, wall_distance)
    bones = ribs + _spine(plane, build)
    bones = bones + _clavicles(plane, build)
    soft_tissue = _soft_tissue(plane, build, lung, mediastinum, trunk, texture)
    return Anatomy(
        findings_seed=[*seeds, 2, study],
        plane=plane,
        wall_distance=wall_distance,
        lung=lung,
        mediastinum=mediastinum,
        markings=markings,
        ribs=ribs,
        attenuation=soft_tissue + bones + markings,
        heart_scale=heart_scale,
        texture=texture,
        noise=noise,
        exposure=0.95 + 0.2 * shot.exposure,
    )


def heart(plane: Plane, scale: float) -> Field:
    """The heart's silhouette: 1 inside, 0 outside. It grows with `scale`, mostly to the left."""
    growth = scale - 1.0
    left_x = 0.13 + 0.16 * growth
    left_y = 0.45 - 0.26 * scale
    left_width = 0.48 * scale
    left_height = 0.31 * scale
    left = plane.blob(left_x, left_y, left_width, left_height, tilt=0.5)
    right_x = -0.05 - 0.1 * growth
    right_y = 0.46 - 0.23 * scale
    right_width = 0.17 * scale
    right_height = 0.28 * scale
    right = plane.blob(right_x, right_y, right_width, right_height)
    return np.maximum(left, right)


def _uniform(rng, count):
    """Numbers from -1 to 1: Python's floats, since NumPy's would turn float32 fields to float64."""
    return rng.uniform(-1.0, 1.0, count).tolist()


def _plane(size, shot):
    """The pixels' centres, moved, turned and zoomed."""
    pixel = 2.0 / size
    centres = (np.arange(size) + 0.5) * 2.0 / size
    centred = (centres - 1.0).astype(np.float32)
    zoomed = centred * (1.0 - 0.12 * shot.zoom)
    column = zoomed[None]
    row = zoomed[:, None]
    slope = 0.12 * shot.turn
    moved_right = column - 0.08 * shot.right
    moved_down = row - 0.08 * shot.down
    return Plane(moved_right + slope * row, moved_down - slope * column, pixel)


def _wall_distance(plane, build):
    """Distance from the chest wall, an ellipse, inwards."""
    half_width = 0.80 + 0.04 * build.chest_width
    half_height = 1.20 - 0.03 * build.apex
    across = plane.lateral / half_width
    along = (plane.y - 0.38) / half_height
    radius = np.sqrt(across**2 + along**2)
    return half_width * (1.0 - radius)


def _lung(plane, build, wall_distance):
    """Both lungs: inside the chest wall, off the midline and above the diaphragm."""
    lateral = plane.lateral
    above_hila = np.maximum(-plane.y - 0.42, 0.0)
    apex_gap = 1.6 * above_hila**2  # the lungs part towards their tops
    off_midline = lateral - 0.09 - apex_gap

    # Each dome of the diaphragm is highest at lateral = 0.4 and steeper towards the chest wall.
    to_wall = 1.9 * (lateral - 0.4)
    to_midline = 0.5 * (0.4 - lateral)
    steepness = np.maximum(to_wall, to_midline)
    dome = steepness * np.abs(lateral - 0.4)
    height = 0.44 + 0.05 * build.diaphragm
    left_is_lower = np.where(plane.x > 0.0, 0.04, 0.0)
    above_diaphragm = height + left_is_lower + dome - plane.y

    inside = np.minimum(wall_distance, off_midline)
    inside = np.minimum(inside, 0.75 * above_diaphragm)
    return step(inside, plane.edge)


def _trunk(plane):
    """The strip of dense tissue along the midline, wider in the neck."""
    neck = step(-0.6 - plane.y, 0.3)
    half_width = 0.105 + 0.04 * neck
    return step(half_width - plane.lateral, 0.07)


def _great_vessels(plane):
    """Aortic arch and pulmonary trunk, on the patient's left."""
    aortic_arch = plane.blob(0.11, -0.37, 0.11, 0.12)
    pulmonary_trunk = plane.blob(0.10, -0.19, 0.14, 0.21)
    return np.maximum(aortic_arch, pulmonary_trunk)


def _ribs(plane, build, wall_distance):
    """Attenuation of the ribs."""
    y = plane.y + 0.08 * build.ribs
    back = _back_ribs(plane.lateral, y)
    front = _front_ribs(plane.lateral, y)
    inside_chest = step(wall_distance + 0.03)
    off_spine = step(plane.lateral - 0.05)
    density = 0.20 * back + 0.08 * front
    return inside_chest * off_spine * density


def _back_ribs(lateral, y):
    """Ribs behind the lungs: they slope down towards the side, ever more steeply."""
    droop = 0.42 * lateral * lateral * lateral
    course = y - 0.10 * lateral - droop
    ridge = wave(course * (1.0 / 0.165) + 0.5)
    bone = step(ridge - 0.25, 0.7)
    marrow = 0.45 * step(ridge - 0.72, 0.5)  # less dense than the rim
    above_abdomen = step(0.7 - y, 0.3)
    return bone * (1.0 - marrow) * above_abdomen


def _front_ribs(lateral, y):
    """Ribs in front of the lungs: they slope up and end in cartilage, which does not show."""
    droop = 0.25 * lateral * lateral
    course = y + 0.62 * lateral - droop
    ridge = wave(course * (1.0 / 0.21))
    bone = step(ridge - 0.35, 0.7)
    upper_chest = step(0.3 - y, 0.3)
    beyond_cartilage = step(lateral - 0.42, 0.3)
    return bone * upper_chest * beyond_cartilage


def _spine(plane, build):
    """Attenuation of the vertebrae; the discs between them are less dense."""
    y = plane.y + 0.08 * build.ribs
    turns = y * (1.0 / 0.17) + build.apex
    column = step(0.085 - plane.lateral)
    return column * (0.12 + 0.06 * wave(turns))


def _clavicles(plane, build):
    """Attenuation of the clavicles, which rise towards the shoulders."""
    lateral = plane.lateral
    level = plane.y + 0.57 + 0.03 * build.apex
    bend = 0.12 * lateral * lateral
    distance = np.abs(level + 0.36 * lateral - bend)
    bone = step(0.036 - distance)
    marrow = 0.4 * step(0.018 - distance, 0.02)  # less dense than the rim
    clavicle = bone * (1.0 - marrow)
    return 0.30 * clavicle * band(lateral, 0.06, 0.76)


def _lung_markings(plane, build, lung, texture, grain):
    """Attenuation of the lungs' vessels, of the hila that they fan out from, and of fine grain."""
    vessels = _vessels(plane, build, texture)
    left_hilum = plane.disc(0.17, -0.05, 0.13, 0.22)
    right_hilum = plane.disc(-0.16, -0.02, 0.13, 0.22)
    hila = left_hilum**2 + right_hilum**2
    density = 0.04 + vessels + 0.30 * hila
    return lung * (density + 0.05 * grain)


def _vessels(plane, build, texture):
    """Large and small vessels: rays around each hilum, of which the small start further out."""
    across = plane.lateral - 0.13
    along = plane.y + 0.07
    radius = np.sqrt(across * across + along * along)
    reach = np.abs(across) + np.abs(along)
    bend = 0.25 * texture * radius
    angle = along / (reach + 0.01) + bend + build.vessels  # grows around the hilum

    left_differs = np.where(plane.x > 0.0, 0.4, 0.0)
    large_wiggle = 0.3 * wave(0.9 * radius)
    large_rays = wave(2.5 * angle + large_wiggle + left_differs)
    large = np.maximum(large_rays, 0.0) ** 2
    small_wiggle = 0.4 * wave(1.3 * radius)
    small_rays = wave(5.5 * angle + small_wiggle)
    small = np.maximum(small_rays, 0.0) ** 2

    off_hilum = step(radius - 0.2, 0.2)
    density = 0.20 * large + 0.18 * small * off_hilum
    fading = np.maximum(1.0 - 1.25 * radius, 0.0)  # vessels taper towards the chest wall
    return fading * density


def _soft_tissue(plane, build, lung, mediastinum, trunk, texture):
    """Attenuation of everything but bones and lung markings."""
    muscle = _muscle(plane, build, texture)
    # A lung is air in place of muscle, except where the mediastinum covers it.
    air = lung * (0.80 * mediastinum - 0.77)
    chest = muscle + air - 0.42 * _windpipe(plane)
    abdomen = _abdomen(plane) * (1.0 - lung)
    breast_density = 0.12 * (1.0 + build.fat)
    breasts = breast_density * _breasts(plane)
    above_abdomen = step(0.7 - plane.y, 0.5)
    dense_trunk = 0.40 * trunk * above_abdomen
    return chest + abdomen + breasts + dense_trunk


def _muscle(plane, build, texture):
    """Attenuation of the body's wall, which thickens from the skin inwards."""
    depth = _skin_distance(plane, build)
    density = 0.85 + 0.05 * texture
    wall = density * step(depth, 0.08)
    return wall + 0.2 * step(depth - 0.15, 0.4)


def _skin_distance(plane, build):
    """Distance inside the skin: in the neck or below the shoulders, and between the flanks."""
    lateral = plane.lateral
    neck = 0.26 + 0.02 * build.fat - lateral
    below_shoulders = plane.y + 1.04 - 0.36 * lateral
    inside = np.maximum(neck, below_shoulders)
    widening = 0.08 * np.minimum(plane.y, 0.3)
    half_width = 1.02 + 0.05 * build.fat + widening
    return np.minimum(inside, half_width - lateral)


def _windpipe(plane):
    """The windpipe, a little right of the midline, down to where it branches."""
    axis_distance = np.abs(plane.x + 0.012)
    tube = step(0.045 - axis_distance, 0.05)
    above_carina = step(-0.27 - plane.y, 0.08)
    return tube * above_carina


def _abdomen(plane):
    """Attenuation of the abdomen's organs, with gas in the stomach on the patient's left."""
    below_diaphragm = step(plane.y - 0.52, 0.3)
    stomach_gas = plane.disc(0.36, 0.62, 0.2, 0.12)
    return 0.30 * below_diaphragm - 0.4 * stomach_gas**2


def _breasts(plane):
    """Both breasts, 1 in the middle of each."""
    right = plane.disc(-0.42, 0.35, 0.4, 0.35)
    left = plane.disc(0.42, 0.35, 0.4, 0.35)
    return right**2 + left**2
