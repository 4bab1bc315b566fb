"""Every finding that a phantom may have, by its label, and the choice among them (ours).

A label is "finding|side|zone|severity"; parts that do not apply are empty.
"""

from dataclasses import dataclass
from itertools import product
from zlib import crc32

import numpy as np

from mcrlib.data.sources.phantom import devices, findings
from mcrlib.data.sources.phantom.anatomy import Anatomy
from mcrlib.data.sources.phantom.kinds import BOTH_SIDES, Kind, Site
from mcrlib.data.sources.phantom.shapes import Field

DIRECTIONS = {"left": 1, "right": -1, "": 0}  # sign of x on the patient's side
# Centres of the left lung's zones; the right lung's are their mirror images.
ZONE_CENTRES = {
    "upper": (0.35, -0.45),
    "middle": (0.46, -0.12),
    "lower": (0.58, 0.20),
    "": (0.0, 0.0),
}


@dataclass(frozen=True)
class Finding:
    """A kind of finding on one side, in one zone and of one severity: what a label stands for."""

    kind: Kind
    side: str
    zone: str
    severity: str

    @property
    def label(self) -> str:
        """Its name in a row's labels: "finding|side|zone|severity"."""
        return "|".join([self.kind.name, self.side, self.zone, self.severity])

    @property
    def odds(self) -> float:
        """Its kind's share, spread evenly over sides, zones and severities."""
        each_side = self.kind.share / len(self.kind.sides)
        each_zone = each_side / len(self.kind.zones)
        return each_zone / len(self.kind.severities)

    def territory(self) -> set[tuple[str, str]]:
        """Each (side, zone or organ) that it fills, on both sides if it has no side."""
        parts = self.kind.fills or (self.zone,)
        if self.severity == self.kind.severities[-1]:
            parts = parts + self.kind.severest_fills
        sides = (self.side,) if self.side else BOTH_SIDES
        return set(product(sides, parts))

    def attenuation(self, anatomy: Anatomy) -> Field:
        """What it adds to the anatomy's attenuation, [S, S]."""
        return self.kind.mark(self._site(anatomy))

    def _site(self, anatomy: Anatomy) -> Site:
        direction = DIRECTIONS[self.side]
        label_seed = crc32(self.label.encode())
        rng = np.random.default_rng([*anatomy.findings_seed, label_seed])
        shift_x = rng.uniform(-0.04, 0.04)
        shift_y = rng.uniform(-0.04, 0.04)
        centre_x, centre_y = ZONE_CENTRES[self.zone]
        lung = anatomy.visible_lung
        if direction:
            on_side = direction * anatomy.plane.x >= 0.0
            lung = np.where(on_side, lung, 0.0)
        plane = anatomy.plane
        if self.kind.grown:
            plane = anatomy.warped_plane
        return Site(
            anatomy=anatomy,
            plane=plane,
            lung=lung,
            side=direction,
            x=direction * (centre_x + shift_x),
            y=centre_y + shift_y,
            severity=self.severity,
        )


# The order is part of the data set: another order draws other findings from the same seed.
KINDS = (
    findings.Cardiomegaly(),
    findings.EnlargedCardiomediastinum(),
    findings.PleuralEffusion(),
    findings.Pneumothorax(),
    findings.Consolidation(),
    findings.LungOpacity(),
    findings.Atelectasis(),
    findings.Nodule(),
    findings.Mass(),
    findings.LungLesion(),
    findings.Edema(),
    findings.Emphysema(),
    findings.PleuralThickening(),
    findings.Fracture(),
    devices.Pacemaker(),
    devices.EndotrachealTube(),
    devices.CentralLine(),
    devices.NasogastricTube(),
    devices.SternalWires(),
    devices.ChestTube(),
)


def _all_findings() -> list[Finding]:
    every = []
    for kind in KINDS:
        for side, zone, severity in product(kind.sides, kind.zones, kind.severities):
            every.append(Finding(kind, side, zone, severity))
    return every


ALL_FINDINGS = _all_findings()
LABELS = {finding.label: finding for finding in ALL_FINDINGS}
ODDS = [finding.odds for finding in ALL_FINDINGS]
PROBABILITIES = np.array(ODDS) / sum(ODDS)


def choose(rng: np.random.Generator, count: int) -> list[Finding]:
    """`count` random findings, no two of them in the same zone or organ."""
    chosen = []
    taken = set()
    while len(chosen) < count:
        finding = ALL_FINDINGS[rng.choice(len(ALL_FINDINGS), p=PROBABILITIES)]
        territory = finding.territory()
        if taken.isdisjoint(territory):
            taken |= territory
            chosen.append(finding)
    return chosen
