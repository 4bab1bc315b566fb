"""What makes a kind of finding, and the site where one is drawn (ours)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from mcrlib.data.sources.phantom.anatomy import Anatomy
from mcrlib.data.sources.phantom.shapes import Field, Plane, Point

BOTH_SIDES = ("left", "right")
ALL_ZONES = ("upper", "middle", "lower")
GRADES = ("mild", "moderate", "severe")
SIZES = ("small", "moderate", "large")


@dataclass(frozen=True)
class Site:
    """Where a finding is drawn, in whom and how severe."""

    anatomy: Anatomy
    plane: Plane  # the anatomy's, warped if the finding has grown
    lung: Field  # the anatomy's visible lung on the finding's side; without a side, both lungs
    side: int  # 1 the patient's left, -1 the right, 0 neither
    x: float  # the finding's centre: its zone's, moved a little; 0 without a side
    y: float
    severity: str

    def ball(self, radius: float) -> Field:
        """An evenly filled circle around the site."""
        return self.plane.blob(self.x, self.y, radius, radius)

    def mirrored(self, left: Sequence[Point]) -> list[Point]:
        """Points that are given for the patient's left, moved to the finding's side."""
        return [(self.side * x, y) for x, y in left]


class Kind(ABC):
    """A kind of finding: where and how often it occurs, how it looks and how reports name it.

    Each kind is a subclass that sets these fields. An empty side, zone or severity means that the
    finding has none. Phrases may contain {side}, {zone}, {where} (side and zone) and {severity}.
    """

    name: str  # in labels; all devices share one
    share: int  # how often it occurs, relative to the other kinds
    sides: tuple[str, ...] = ("",)
    zones: tuple[str, ...] = ("",)
    severities: tuple[str, ...] = ("",)  # the mildest first; for a device, its type
    fills: tuple[str, ...] = ()  # zones or organs closed to other findings; (): its own zone
    severest_fills: tuple[str, ...] = ()  # those closed as well by the last of its severities
    grown: bool = True  # not man-made, and so less regular
    phrases: tuple[str, ...] = ()
    plural_phrases: tuple[str, ...] = ()

    @abstractmethod
    def mark(self, site: Site) -> Field:
        """The attenuation [S, S] that the finding adds, exactly 0 away from it."""
