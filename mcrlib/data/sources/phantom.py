"""Drawn chest radiographs with written reports: the data set that needs no download (ours).

A picture is a film of attenuation: an anatomy, a pure function of its seed, plus one field for
each finding, zero outside the finding's place; removing a finding changes nothing elsewhere.
Coordinates run from -1 to 1, down and to the picture's right, where the patient's left is.
A label is "finding|side|zone|severity"; of a support device the kind stands for the severity.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise, product
from types import SimpleNamespace
from typing import NamedTuple
from zlib import crc32

import numpy as np

from mcrlib.config import Config
from mcrlib.data.schema import SPLITS, Row

NORMAL_SHARE = 0.28  # of a split's pairs have no finding
COUNTS = (1, 1, 1, 2, 2, 2, 2, 3, 3, 4)  # findings of the others
HABITS = 40  # ways in which most normal reports are worded, the first the most common
SIDES = {"left": 1, "right": -1, "": 0}
CENTRES = {"upper": (0.35, -0.45), "middle": (0.46, -0.12), "lower": (0.58, 0.20), "": (0.0, 0.0)}

Seed = int | Sequence[int]


# Shapes: float32 [S, S] from 0 to 1, soft at the edge, exactly 0 away from the shape. Nothing but
# exact arithmetic (no exp, no cos), so that a picture has the same bytes on every machine.


def _step(distance, width=0.06):
    t = np.clip(distance * (1.0 / width) + 0.5, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _band(value, low, high, width=0.06):
    return _step(value - low, width) * _step(high - value, width)


def _wave(turns):
    t = turns - np.floor(turns)
    return 8.0 * t * (1.0 - t) - 1.0


def _disc(a, x, y, rx, ry, tilt=0.0):
    u, v = a.x - x, a.y - y
    u, v = (u + tilt * v) * (1.0 / rx), (v - tilt * u) * (1.0 / ry)
    return np.maximum(1.0 - u * u - v * v, 0.0)


def _blob(a, x, y, rx, ry, tilt=0.0):
    return _step(_disc(a, x, y, rx, ry, tilt) * min(rx, ry) - 0.6 * a.edge, a.edge)


def _stroke(a, width, *points):
    near = 9.0
    for (x0, y0), (x1, y1) in pairwise(points):
        dx, dy, u, v = x1 - x0, y1 - y0, a.x - x0, a.y - y0
        t = np.clip((u * dx + v * dy) * (1.0 / (dx * dx + dy * dy)), 0.0, 1.0)
        near = np.minimum(near, (u - t * dx) ** 2 + (v - t * dy) ** 2)
    return _step(max(width, 0.6 * a.pixel) - np.sqrt(near), 1.5 * a.pixel)


def _cloud(rng, size, cells):
    at = np.abs((np.arange(size) + 0.5)[:, None] * (cells - 3) / size + 1.0 - np.arange(cells))
    spline = (np.maximum(2.0 - at, 0.0) ** 3 - 4.0 * np.maximum(1.0 - at, 0.0) ** 3) / 6.0
    return (spline @ rng.standard_normal((cells, cells)) @ spline.T).astype(np.float32)


def _heart(a, scale):
    grown = scale - 1.0
    left = _blob(a, 0.13 + 0.16 * grown, 0.45 - 0.26 * scale, 0.48 * scale, 0.31 * scale, 0.5)
    right = _blob(a, -0.05 - 0.1 * grown, 0.46 - 0.23 * scale, 0.17 * scale, 0.28 * scale)
    return np.maximum(left, right)


def _anatomy(seed: Seed, size: int, view: str, study: int) -> SimpleNamespace:
    """Fields [size, size] of a patient without findings. The build follows `seed` alone; position,
    exposure and noise follow `study` too."""
    seed = np.atleast_1d(seed).tolist()
    build, shot = np.random.default_rng(seed), np.random.default_rng([*seed, 1, study])
    wide, tall, high, fat, beat, rib, twig = build.uniform(-1.0, 1.0, 7).tolist()
    right, down, turn, zoom, dose = shot.uniform(-1.0, 1.0, 5).tolist()
    grid = ((np.arange(size) + 0.5) * 2.0 / size - 1.0).astype(np.float32) * (1.0 - 0.03 * zoom)
    x = grid[None] - 0.02 * right + 0.03 * turn * grid[:, None]
    y = grid[:, None] - 0.02 * down - 0.03 * turn * grid[None]
    a = SimpleNamespace(x=x, y=y, u=np.abs(x), pixel=2.0 / size, seed=[*seed, 2, study])
    a.edge, a.dose, a.heart_scale = max(0.03, 1.5 * a.pixel), 0.95 + 0.1 * dose, 0.97 + 0.04 * beat
    a.cloud, fine = _cloud(shot, size, 10), _cloud(shot, size, 34)
    a.noise = shot.standard_normal((size, size), np.float32) * (0.010 if view == "PA" else 0.015)

    half, rise = 0.80 + 0.04 * wide, 1.20 - 0.03 * tall
    a.cage = half * (1.0 - np.sqrt((a.u / half) ** 2 + ((y - 0.38) / rise) ** 2))
    curve = np.maximum(1.9 * (a.u - 0.4), 0.5 * (0.4 - a.u)) * np.abs(a.u - 0.4)
    floor = 0.44 + 0.05 * high + 0.04 * (x > 0.0) + curve - y
    inner = a.u - 0.09 - 1.6 * np.maximum(-y - 0.42, 0.0) ** 2
    a.lung = _step(np.minimum(np.minimum(a.cage, inner), 0.75 * floor), a.edge)
    vessels = np.maximum(_blob(a, 0.11, -0.37, 0.11, 0.12), _blob(a, 0.10, -0.19, 0.14, 0.21))
    trunk = _step(0.105 + 0.04 * _step(-0.6 - y, 0.3) - a.u, 0.07)
    a.core = np.maximum(np.maximum(trunk, vessels), _heart(a, a.heart_scale))
    a.marks = _lung_markings(a, fine, twig)
    a.ribs, bones = _bones(a, tall, 0.08 * rib)
    a.tissue = _soft_tissue(a, fat) + 0.40 * trunk * _step(0.7 - y, 0.5) + bones + a.marks
    return a


def _bones(a, tall, shift):
    u, y = a.u, a.y + shift
    back = _wave((y - 0.10 * u - 0.42 * u * u * u) * (1.0 / 0.165) + 0.5)
    back = _step(back - 0.25, 0.7) * (1.0 - 0.45 * _step(back - 0.72, 0.5)) * _step(0.7 - y, 0.3)
    front = _wave((y + 0.62 * u - 0.25 * u * u) * (1.0 / 0.21))
    front = _step(front - 0.35, 0.7) * _step(0.3 - y, 0.3) * _step(u - 0.42, 0.3)
    ribs = _step(a.cage + 0.03) * _step(u - 0.05) * (0.20 * back + 0.08 * front)
    spine = _step(0.085 - u) * (0.12 + 0.06 * _wave(y * (1.0 / 0.17) + tall))
    line = np.abs(a.y + 0.57 + 0.03 * tall + 0.36 * u - 0.12 * u * u)
    clavicle = _step(0.036 - line) * (1.0 - 0.4 * _step(0.018 - line, 0.02))
    return ribs, ribs + spine + 0.30 * clavicle * _band(u, 0.06, 0.76)


def _lung_markings(a, fine, twig):
    across, along = a.u - 0.13, a.y + 0.07
    r = np.sqrt(across * across + along * along)
    angle = along / (np.abs(across) + np.abs(along) + 0.01) + 0.25 * a.cloud * r + twig
    large = np.maximum(_wave(2.5 * angle + 0.3 * _wave(0.9 * r) + 0.4 * (a.x > 0.0)), 0.0) ** 2
    small = np.maximum(_wave(5.5 * angle + 0.4 * _wave(1.3 * r)), 0.0) ** 2
    twigs = np.maximum(1.0 - 1.25 * r, 0.0) * (0.20 * large + 0.18 * small * _step(r - 0.2, 0.2))
    hila = _disc(a, 0.17, -0.05, 0.13, 0.22) ** 2 + _disc(a, -0.16, -0.02, 0.13, 0.22) ** 2
    return a.lung * (0.04 + twigs + 0.30 * hila + 0.05 * fine)


def _soft_tissue(a, fat):
    body = np.maximum(0.26 + 0.02 * fat - a.u, a.y + 1.04 - 0.36 * a.u)
    body = np.minimum(body, 1.02 + 0.05 * fat + 0.08 * np.minimum(a.y, 0.3) - a.u)
    muscle = (0.85 + 0.05 * a.cloud) * _step(body, 0.08) + 0.2 * _step(body - 0.15, 0.4)
    abdomen = 0.30 * _step(a.y - 0.52, 0.3) - 0.4 * _disc(a, 0.36, 0.62, 0.2, 0.12) ** 2  # gas
    breasts = _disc(a, -0.42, 0.35, 0.4, 0.35) ** 2 + _disc(a, 0.42, 0.35, 0.4, 0.35) ** 2
    windpipe = _step(0.045 - np.abs(a.x + 0.012), 0.05) * _step(-0.27 - a.y, 0.08)
    chest = muscle + a.lung * (0.80 * a.core - 0.77) - 0.42 * windpipe
    return chest + abdomen * (1.0 - a.lung) + 0.12 * (1.0 + fat) * breasts


def _pneumothorax(f):
    gap = (0.20, 0.27, 0.45)[f.level] * np.clip((0.0, 0.5, 1.5)[f.level] - 2.0 * f.y, 0.0, 1.0)
    air = _step(gap - f.cage, 0.02)
    pleura = _step(0.022 - np.abs(f.cage - gap), 0.02) * (gap > 0.0)
    collapsed = 0.1 * f.level * (gap > 0.0) * (1.0 - air)
    return f.lung * (0.40 * pleura + collapsed - (f.marks + 0.24) * air)


def _ball(f, radius):
    return _blob(f, f.cx, f.cy, radius, radius)


class Kind(NamedTuple):
    """A type of finding. Its mark is the attenuation [S, S] added to the anatomy `f`, which has
    the finding's side (1 left, -1 right, 0 none), the lung of that side, a spot (cx, cy) and the
    level, the index of the severity."""

    share: int  # how often, beside the others
    sides: tuple[str, ...]
    zones: tuple[str, ...]
    severities: tuple[str, ...]
    fills: str  # zones or organs that no other finding may share; "" = its own zone
    reach: str  # what the severest fills besides
    mark: Callable[[SimpleNamespace], np.ndarray]
    words: str  # wordings, split by /, + before a plural


NONE, BOTH, ZONES = ("",), ("left", "right"), ("upper", "middle", "lower")
GRADES, SIZES = ("mild", "moderate", "severe"), ("small", "moderate", "large")
# fmt: off
KINDS = {
    "Cardiomegaly": Kind(5, NONE, NONE, GRADES, "heart", "lower", lambda f: 0.75 * f.lung
        * np.maximum(_heart(f, f.heart_scale * (1.24, 1.42, 1.62)[f.level]) - f.core, 0.0),
        "{severity} cardiomegaly/{severity} enlargement of the heart/{severity} heart enlargement"),
    "Enlarged Cardiomediastinum": Kind(2, NONE, NONE, GRADES, "mediastinum", "", lambda f: f.lung
        * _step((0.22, 0.28, 0.36)[f.level] - np.abs(f.x), 0.14) * _band(f.y, -0.75, -0.12, 0.25),
        "{severity} widening of the mediastinum/{severity} mediastinal widening"),
    "Pleural Effusion": Kind(7, BOTH, ("lower",), SIZES, "lower", "middle",
        lambda f: 1.1 * f.lung * _step(
            f.y - (0.50, 0.27, 0.0)[f.level] + 0.7 * np.maximum(f.u - 0.3, 0.0) ** 2, 0.07),
        "a {severity} {side} pleural effusion/a {severity} pleural effusion on the {side}"),
    "Pneumothorax": Kind(5, BOTH, NONE, SIZES, "upper middle", "lower", _pneumothorax,
        "a {severity} {side} pneumothorax/a {severity} pneumothorax on the {side}"),
    "Consolidation": Kind(5, BOTH, ZONES, SIZES, "", "",
        lambda f: f.lung * np.maximum(0.9 - 1.5 * f.marks, 0.5) * _step(
            (0.16, 0.27, 0.42)[f.level] * f.u - np.abs(f.y - f.cy) - 0.01, 0.05),
        "a {severity} consolidation in the {where}/a {severity} {where} consolidation"),
    "Lung Opacity": Kind(5, BOTH, ZONES, GRADES, "", "",
        lambda f: (0.36, 0.55, 0.80)[f.level] * f.lung * _disc(f, f.cx, f.cy, 0.38, 0.36) ** 2,
        "a {severity} hazy opacity in the {where}/{severity} ground-glass opacity in the {where}"),
    "Atelectasis": Kind(4, BOTH, ("middle", "lower"), GRADES, "", "", lambda f: 0.85 * f.lung * sum(
            _stroke(f, 0.024, (f.cx - 0.24, f.cy + y), (f.cx + 0.24, f.cy + y - 0.1 * f.side))
            for y in (0.0, 0.13, -0.13)[:f.level + 1]),
        "{severity} linear atelectasis in the {where}/{severity} {where} atelectasis"),
    "Nodule": Kind(4, BOTH, ZONES, ("small", "large"), "", "",
        lambda f: 1.2 * f.lung * _ball(f, (0.07, 0.12)[f.level]),
        "a {severity} nodule in the {where}/a {severity} {where} nodule"),
    "Mass": Kind(4, BOTH, ZONES, ("", "large"), "", "",
        lambda f: 1.15 * f.lung * _ball(f, (0.17, 0.25)[f.level]),
        "a {severity} mass in the {where}/a {severity} {where} mass"),
    "Lung Lesion": Kind(3, BOTH, ZONES, NONE, "", "",
        lambda f: f.lung * (1.2 * _ball(f, 0.20) - (f.marks + 1.35) * _ball(f, 0.15)),
        "a cavitary lesion in the {where}/a thick-walled cavity in the {where}/a {where} cavity"),
    "Edema": Kind(4, NONE, NONE, GRADES, "middle", "", lambda f: f.lung * (
            0.30, 0.58, 1.00)[f.level] * (1.0 + 0.5 * np.clip(f.cloud, -1.0, 1.0))
        * (_disc(f, -0.3, -0.05, 0.45, 0.52) ** 2 + _disc(f, 0.3, -0.05, 0.45, 0.52) ** 2),
        "{severity} pulmonary edema/{severity} interstitial edema/{severity} bilateral edema"),
    "Emphysema": Kind(3, NONE, NONE, GRADES, "upper", "",
        lambda f: -f.lung * (f.marks + (0.08, 0.15, 0.23)[f.level]) * _step(0.2 - f.y, 0.4),
        "{severity} emphysema/+{severity} emphysematous changes with hyperlucent upper lungs"),
    "Pleural Thickening": Kind(3, BOTH, ZONES, ("mild", "severe"), "", "",
        lambda f: 0.9 * f.lung * _step((0.08, 0.16)[f.level] - f.cage, 0.03)
        * _band(f.y, f.cy - 0.22, f.cy + 0.22, 0.2),
        "{severity} {side} {zone} pleural thickening/{severity} {side} {zone} pleural scarring"),
    "Fracture": Kind(4, BOTH, ZONES, NONE, "", "",
        lambda f: (0.1 + 5.0 * f.ribs) * _disc(f, 1.15 * f.cx, f.cy, 0.2, 0.2) ** 2 * (
            1.0 - 1.5 * _stroke(f, 0.02, (f.cx * 1.1, f.cy - 0.2), (f.cx * 1.2, f.cy + 0.2))),
        "a {side} {zone} rib fracture/a fracture of a {zone} rib on the {side}"),
    "Support Devices/pacemaker": Kind(3, BOTH, NONE, ("pacemaker",), "upper vein", "",
        lambda f: 1.5 * _step(_disc(f, f.side * 0.6, -0.41, 0.17, 0.14) - 0.25, 0.2) + _stroke(
            f, 0.013, (f.side * 0.6, -0.42), (f.side * 0.52, -0.58), (f.side * 0.2, -0.6),
            (-0.07, -0.48), (-0.09, -0.2), (-0.06, 0.1), (0.06, 0.28), (0.24, 0.34)),
        "a {side} chest wall pacemaker/a {side}-sided pacemaker with its lead in the ventricle"),
    "Support Devices/endotracheal tube": Kind(3, NONE, NONE, ("endotracheal tube",), "trachea", "",
        lambda f: 2.0 * _stroke(f, 0.024, (-0.01, -1.1), (-0.012, -0.38)),
        "an endotracheal tube/an endotracheal tube with its tip above the carina"),
    "Support Devices/central line": Kind(3, BOTH, NONE, ("central line",), "vein", "",
        lambda f: 2.0 * _stroke(
            f, 0.016, (f.side * 0.24, -1.1), (f.side * 0.2, -0.75), (-0.1, -0.45), (-0.11, 0.0)),
        "a {side} internal jugular central line/a {side} central venous catheter"),
    "Support Devices/nasogastric tube": Kind(3, NONE, NONE, ("nasogastric tube",), "stomach", "",
        lambda f: 2.0 * _stroke(f, 0.017, (0.05, -1.1), (0.05, 0.42), (0.14, 0.6), (0.42, 0.7)),
        "a nasogastric tube/an enteric tube coursing into the stomach/a feeding tube"),
    "Support Devices/sternal wires": Kind(3, NONE, NONE, ("sternal wires",), "sternum", "",
        lambda f: 2.0 * sum(_stroke(f, 0.015, (-0.05, y - 0.03), (0.05, y + 0.03), (0.05, y - 0.03),
                                    (-0.05, y + 0.03)) for y in (-0.4, -0.22, -0.04, 0.14, 0.32)),
        "+median sternotomy wires/+sternal wires/+postoperative wires in the sternum"),
    "Support Devices/chest tube": Kind(3, BOTH, NONE, ("chest tube",), "tube", "",
        lambda f: 1.3 * _stroke(f, 0.022, (f.side * 0.95, 0.38), (f.side * 0.66, 0.18),
                                (f.side * 0.48, -0.15), (f.side * 0.4, -0.55)),
        "a {side} chest tube/a {side} pleural drain/a drainage catheter in the {side} chest"),
}
LABELS = {
    "|".join((name.split("/")[0], *parts)): kind for name, kind in KINDS.items()
    for parts in product(kind.sides, kind.zones, kind.severities)
}
ODDS = [k.share / len(k.sides) / len(k.zones) / len(k.severities) for k in LABELS.values()]
WHERE = {"": "", "upper": "upper lobe/upper lung zone", "middle": "mid lung/mid lung zone",
         "lower": "lower lobe/lower lung zone/lung base"}
DEGREES = {"mild": "mild/slight", "severe": "severe/marked"}
FRAMES = "{0}./There {1} {0}./{0} {1} seen./{0} {1} noted."
AIRSPACE = "Consolidation, Lung Opacity, Atelectasis, Mass, Lung Lesion, Edema"
LUNGS = AIRSPACE + ", Nodule, Emphysema, Pleural Effusion, Pneumothorax, Pleural Thickening"
STATEMENTS = (  # topic, findings beside which it would be wrong, wordings
    ("heart", "Cardiomegaly", "The heart size is normal./Heart size is within normal limits."),
    ("heart", "Cardiomegaly, Enlarged Cardiomediastinum",
     "The cardiomediastinal silhouette is normal./Cardiac and mediastinal contours are normal."),
    ("pleura", "Pleural Effusion, Pneumothorax",
     "No pleural effusion or pneumothorax./There is no pneumothorax or pleural effusion."),
    ("pleura", "Pneumothorax", "No pneumothorax./There is no pneumothorax."),
    ("pleura", "Pleural Effusion", "No pleural effusion./There is no effusion."),
    ("lungs", LUNGS, "The lungs are clear./Lungs are clear bilaterally./Both lungs are clear."),
    ("lungs", AIRSPACE, "No focal consolidation./There is no focal airspace disease."),
    ("vessels", "Edema", "No pulmonary edema./Pulmonary vascularity is normal."),
    ("bones", "Fracture", "No acute osseous abnormality./The bony thorax is intact."),
)
FILLERS = ("A single frontal view was obtained./Clinical correlation is advised./No prior study is "
           "available for comparison./Comparison is made with the prior study.")
NORMAL = ("No acute cardiopulmonary process./No acute cardiopulmonary abnormality./Normal chest."
          "/No evidence of acute cardiopulmonary disease./Normal chest radiograph.")
# fmt: on


def draw(seed: Seed, labels: list[str], size: int, view: str = "PA", study: int = 0) -> np.ndarray:
    """The picture uint8 [size, size] of patient `seed` in his study number `study` with the
    findings `labels`. Raises ValueError for a label that is not one of the phantom's."""
    a = _anatomy(seed, size, view, study)
    t = np.maximum(sum((_field(a, label) for label in sorted(labels)), a.tissue), 0.0) * a.dose
    film = 1.0 - 1.0 / (1.0 + t * (1.0 + t * (0.5 + t / 6.0)))  # nearly 1 - exp(-t)
    return (np.clip(0.02 + 0.98 * film + a.noise, 0.0, 1.0) * 255.0).round().astype(np.uint8)


def place(seed: Seed, label: str, size: int, view: str = "PA", study: int = 0) -> np.ndarray:
    """Where the finding changes that picture: bool [size, size]."""
    return _field(_anatomy(seed, size, view, study), label) != 0.0


def _field(a, label):
    if label not in LABELS:
        raise ValueError(f"{label!r} is no finding of a phantom: see LABELS for those that are.")
    finding, side, zone, severity = label.split("|")
    level, s, (x, y) = LABELS[label].severities.index(severity), SIDES[side], CENTRES[zone]
    rng = np.random.default_rng([*a.seed, crc32(label.encode())])
    dx, dy = rng.uniform(-0.04, 0.04, 2).tolist()
    f = SimpleNamespace(**vars(a) | {"side": s, "level": level, "cx": s * (x + dx), "cy": y + dy})
    f.lung = a.lung * (1.0 - 0.5 * a.core) * (s * a.x >= 0.0)
    if finding != "Support Devices":  # what grows is less regular than what is made
        f.x, f.y = a.x + 0.06 * a.cloud, a.y + 0.06 * a.cloud.T
    return LABELS[label].mark(f)


def _pick(rng, wordings: str) -> str:
    choices = wordings.split("/")
    return choices[rng.integers(len(choices))]


def _findings(rng, count: int) -> list[str]:
    """Labels of `count` findings, no two of them in the same zone or organ."""
    every, odds = list(LABELS), np.array(ODDS) / sum(ODDS)
    labels, taken = [], set()
    while len(labels) < count:
        label = every[rng.choice(len(every), p=odds)]
        kind, (_, side, zone, severity) = LABELS[label], label.split("|")
        reach = kind.reach if severity == kind.severities[-1] else ""
        parts = f"{kind.fills or zone} {reach}".split()
        space = {(s, part) for s in ([side] if side else BOTH) for part in parts}
        if not space & taken:
            taken |= space
            labels.append(label)
    return labels


def _phrase(rng, label: str, severe: bool) -> str:
    _, side, zone, severity = label.split("|")
    where, degree = _pick(rng, WHERE[zone]), _pick(rng, DEGREES.get(severity, severity))
    phrase = _pick(rng, LABELS[label].words).format(
        side=side, zone=zone, where=f"{side} {where}", severity=degree if severe else ""
    )
    return " ".join(phrase.split())


def _report(rng, labels: list[str]) -> str:
    """FINDINGS and IMPRESSION that are true of a picture with these findings."""
    if not labels and rng.random() < 0.8:
        rng = np.random.default_rng(int(HABITS * rng.random() ** 2))
    said, brief = [], []
    for label in labels:
        phrase = _phrase(rng, label, severe=True)
        verb = "are" if phrase.startswith("+") else "is"
        said.append(_pick(rng, FRAMES).format(phrase.removeprefix("+"), verb))
        phrase = _phrase(rng, label, severe=rng.random() < 0.5).removeprefix("+")
        brief.append(phrase.removeprefix("a ").removeprefix("an ") + ".")
    names = {label.split("|")[0] for label in labels}
    true = [s for s in STATEMENTS if names.isdisjoint(s[1].split(", "))]
    topics = rng.permutation(sorted({topic for topic, _, _ in true}))[: max(1, 4 - len(labels))]
    said += [_pick(rng, "/".join(words for t, _, words in true if t == topic)) for topic in topics]
    said += [_pick(rng, FILLERS)] if rng.random() < 0.4 else []
    findings, impression = (
        " ".join(text[0].upper() + text[1:] for text in rng.permutation(texts).tolist())
        for texts in (said, brief or [_pick(rng, NORMAL)])
    )
    return f"FINDINGS: {findings}\n\nIMPRESSION: {impression}"


def rows(config: Config) -> Iterator[Row]:
    """Drawn pairs, `config.sizes` of them in train, validate and test, one image a study and one to
    three studies a patient; the same for the same `sizes`, `cache_size` and `data_seed`."""
    for split, (name, count) in enumerate(zip(SPLITS, config.sizes, strict=True)):
        rng = np.random.default_rng([config.data_seed, 1, split])
        normal = rng.permutation(count) < round(NORMAL_SHARE * count)
        patients = np.repeat(np.arange(count), rng.integers(1, 4, count))[:count].tolist()
        for i, patient in enumerate(patients):
            own = np.random.default_rng([config.data_seed, 2, split, i])
            labels = [] if normal[i] else _findings(own, int(own.choice(COUNTS)))
            view, seed = _pick(own, "PA/AP"), (config.data_seed, 3, split, patient)
            study = i - patients.index(patient)
            image = partial(draw, seed, labels, config.cache_size, view, study)
            yield Row(
                pair_id=f"{name}-{i:05d}", patient_id=f"{name}-patient-{patient:05d}",
                study_id=f"{name}-study-{i:05d}", split=name, view=view, source="phantom",
                text=_report(own, labels), labels=labels, image=image,
            )  # fmt: skip
