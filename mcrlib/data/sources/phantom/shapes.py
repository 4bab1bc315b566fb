"""Soft shapes from which phantoms are drawn (ours).

A shape is an array [S, S] from 0 to 1, soft at its edge and exactly 0 away from it. Shapes need
only exact arithmetic (no exp, no cos), so a picture has the same bytes on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

import numpy as np

Field = np.ndarray  # float32 or float64 [S, S], one number for each pixel
Point = tuple[float, float]  # x, y


def step(distance: Field, width: float = 0.06) -> Field:
    """0 outside, 1 inside, smooth over `width` where the signed `distance` to the edge is 0."""
    ramp = distance * (1.0 / width) + 0.5
    np.clip(ramp, 0.0, 1.0, out=ramp)  # in place: fresh memory costs more than the arithmetic
    return ramp * ramp * (3.0 - 2.0 * ramp)


def band(value: Field, low: float, high: float, width: float = 0.06) -> Field:
    """1 where `value` lies between `low` and `high`, smooth over `width` at both ends."""
    above_low = step(value - low, width)
    below_high = step(high - value, width)
    return above_low * below_high


def wave(turns: Field) -> Field:
    """Parabolas in place of a cosine: -1 at whole `turns`, 1 halfway between them."""
    phase = turns - np.floor(turns)
    return 8.0 * phase * (1.0 - phase) - 1.0


def cloud(rng: np.random.Generator, size: int, cells: int) -> Field:
    """Smooth noise, float32 [size, size]: `cells` x `cells` normal numbers, interpolated by cubic
    B-splines."""
    spline = _spline(size, cells)
    values = rng.standard_normal((cells, cells))
    return (spline @ values @ spline.T).astype(np.float32)


@cache  # every picture of a data set needs the same two
def _spline(size: int, cells: int) -> np.ndarray:
    """Weight of each of the `cells` numbers for each pixel of a row, [size, cells]."""
    pixels = (np.arange(size) + 0.5)[:, None]
    positions = pixels * (cells - 3) / size + 1.0
    distance = np.abs(positions - np.arange(cells))
    outer = np.maximum(2.0 - distance, 0.0) ** 3
    inner = np.maximum(1.0 - distance, 0.0) ** 3
    return (outer - 4.0 * inner) / 6.0


def _tilted(x, y, tilt):
    tilted_x = x + tilt * y
    tilted_y = y - tilt * x
    return tilted_x, tilted_y


@dataclass(frozen=True)
class Plane:
    """The coordinates of a picture's pixels, and the shapes drawn on them.

    Coordinates run from about -1 to 1, down and to the picture's right.
    """

    x: Field
    y: Field
    pixel: float  # length of a pixel's side

    @cached_property
    def lateral(self) -> Field:
        """Distance from the midline: the absolute value of x."""
        return np.abs(self.x)

    @property
    def edge(self) -> float:
        """Width of a soft edge, at least 1.5 pixels."""
        return max(0.03, 1.5 * self.pixel)

    def disc(
        self, x: float, y: float, radius_x: float, radius_y: float, tilt: float = 0.0
    ) -> Field:
        """An ellipse around (x, y): a paraboloid, 1 in the middle and 0 from the rim outwards."""
        from_x = self.x - x
        from_y = self.y - y
        if tilt:  # most discs have none, and each operation on a field takes time
            from_x, from_y = _tilted(from_x, from_y, tilt)
        across = from_x * (1.0 / radius_x)
        along = from_y * (1.0 / radius_y)
        height = 1.0 - across * across - along * along
        return np.maximum(height, 0.0, out=height)

    def blob(
        self, x: float, y: float, radius_x: float, radius_y: float, tilt: float = 0.0
    ) -> Field:
        """An evenly filled ellipse around (x, y) with a soft edge."""
        disc = self.disc(x, y, radius_x, radius_y, tilt)
        distance = disc * min(radius_x, radius_y)
        return step(distance - 0.6 * self.edge, self.edge)

    def stroke(self, half_width: float, points: Sequence[Point]) -> Field:
        """A line through `points`, never thinner than the pixels can show."""
        nearest = np.inf
        for start, end in pairwise(points):
            nearest = np.minimum(nearest, self._squared_distance(start, end))
        distance = np.sqrt(nearest)
        visible = max(half_width, 0.6 * self.pixel)
        return step(visible - distance, 1.5 * self.pixel)

    def _squared_distance(self, start: Point, end: Point) -> Field:
        """Of each pixel to the straight line from `start` to `end`."""
        start_x, start_y = start
        end_x, end_y = end
        line_x = end_x - start_x
        line_y = end_y - start_y
        from_x = self.x - start_x
        from_y = self.y - start_y
        projection = from_x * line_x + from_y * line_y
        squared_length = line_x * line_x + line_y * line_y
        fraction = np.clip(projection * (1.0 / squared_length), 0.0, 1.0)
        miss_x = from_x - fraction * line_x
        miss_y = from_y - fraction * line_y
        return miss_x**2 + miss_y**2
