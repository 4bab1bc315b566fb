"""The kinds of finding in lungs, pleura, heart and bones (ours)."""

import numpy as np

from mcrlib.data.sources.phantom.anatomy import heart
from mcrlib.data.sources.phantom.kinds import ALL_ZONES, BOTH_SIDES, GRADES, SIZES, Kind, Site
from mcrlib.data.sources.phantom.shapes import Field, band, step


class Cardiomegaly(Kind):
    """The heart reaches further into the lungs."""

    name = "Cardiomegaly"
    share = 5
    severities = GRADES
    fills = ("heart",)
    severest_fills = ("lower",)
    phrases = (
        "{severity} cardiomegaly",
        "{severity} enlargement of the heart",
        "{severity} heart enlargement",
    )

    def mark(self, site: Site) -> Field:
        """What the enlarged heart covers and the mediastinum did not."""
        growth = {"mild": 1.24, "moderate": 1.42, "severe": 1.62}[site.severity]
        enlarged = heart(site.plane, site.anatomy.heart_scale * growth)
        excess = np.maximum(enlarged - site.anatomy.mediastinum, 0.0)
        return 0.75 * site.lung * excess


class EnlargedCardiomediastinum(Kind):
    """The mediastinum above the heart is too wide."""

    name = "Enlarged Cardiomediastinum"
    share = 2
    severities = GRADES
    fills = ("mediastinum",)
    phrases = ("{severity} widening of the mediastinum", "{severity} mediastinal widening")

    def mark(self, site: Site) -> Field:
        """A wide strip along the midline, from the clavicles to the heart."""
        half_width = {"mild": 0.22, "moderate": 0.28, "severe": 0.36}[site.severity]
        strip = step(half_width - site.plane.lateral, 0.14)
        above_heart = band(site.plane.y, -0.75, -0.12, 0.25)
        return site.lung * strip * above_heart


class PleuralEffusion(Kind):
    """Fluid that fills the chest from below."""

    name = "Pleural Effusion"
    share = 7
    sides = BOTH_SIDES
    zones = ("lower",)
    severities = SIZES
    fills = ("lower",)
    severest_fills = ("middle",)
    phrases = (
        "a {severity} {side} pleural effusion",
        "a {severity} pleural effusion on the {side}",
    )

    def mark(self, site: Site) -> Field:
        """Everything below a level that climbs towards the chest wall (the meniscus)."""
        level = {"small": 0.50, "moderate": 0.27, "large": 0.0}[site.severity]
        outwards = np.maximum(site.anatomy.plane.lateral - 0.3, 0.0)
        meniscus = 0.7 * outwards**2
        fluid = step(site.plane.y - level + meniscus, 0.07)
        return 1.1 * site.lung * fluid


class Pneumothorax(Kind):
    """Air between the lung and the chest wall."""

    name = "Pneumothorax"
    share = 5
    sides = BOTH_SIDES
    severities = SIZES
    fills = ("upper", "middle")
    severest_fills = ("lower",)
    phrases = ("a {severity} {side} pneumothorax", "a {severity} pneumothorax on the {side}")

    def mark(self, site: Site) -> Field:
        """Air along the wall, the pleura's line and a collapsed lung."""
        widest = {"small": 0.20, "moderate": 0.27, "large": 0.45}[site.severity]
        extent = {"small": 0.0, "moderate": 0.5, "large": 1.5}[site.severity]
        collapse = {"small": 0.0, "moderate": 0.1, "large": 0.2}[site.severity]
        wall_distance = site.anatomy.wall_distance
        # The gap between wall and lung is widest at the top and closes further down.
        opening = extent - 2.0 * site.plane.y
        gap = widest * np.clip(opening, 0.0, 1.0)
        has_gap = gap > 0.0
        air = step(gap - wall_distance, 0.02)

        # The collapsed lung's pleura shows as a fine line, and its tissue is denser.
        pleura_distance = np.abs(wall_distance - gap)
        pleura = step(0.022 - pleura_distance, 0.02)
        line = 0.40 * np.where(has_gap, pleura, 0.0)
        denser_lung = np.where(has_gap, collapse, 0.0) * (1.0 - air)

        # Air has no markings and lets more X-rays through.
        removed = (site.anatomy.markings + 0.24) * air
        return site.lung * (line + denser_lung - removed)


class Consolidation(Kind):
    """A part of the lung filled with fluid or pus."""

    name = "Consolidation"
    share = 5
    sides = BOTH_SIDES
    zones = ALL_ZONES
    severities = SIZES
    phrases = (
        "a {severity} consolidation in the {where}",
        "a {severity} {where} consolidation",
    )

    def mark(self, site: Site) -> Field:
        """A wedge that widens towards the chest wall and hides the markings in it."""
        opening = {"small": 0.16, "moderate": 0.27, "large": 0.42}[site.severity]
        half_height = opening * site.anatomy.plane.lateral
        axis_distance = np.abs(site.plane.y - site.y)
        wedge = step(half_height - axis_distance - 0.01, 0.05)
        density = 0.9 - 1.5 * site.anatomy.markings
        return site.lung * np.maximum(density, 0.5) * wedge


class LungOpacity(Kind):
    """A hazy area without an edge."""

    name = "Lung Opacity"
    share = 5
    sides = BOTH_SIDES
    zones = ALL_ZONES
    severities = GRADES
    phrases = (
        "a {severity} hazy opacity in the {where}",
        "{severity} ground-glass opacity in the {where}",
    )

    def mark(self, site: Site) -> Field:
        """A wide haze, densest in the middle."""
        density = {"mild": 0.36, "moderate": 0.55, "severe": 0.80}[site.severity]
        haze = site.plane.disc(site.x, site.y, 0.38, 0.36)
        return density * site.lung * haze**2


class Atelectasis(Kind):
    """Collapsed lung tissue in the shape of lines."""

    name = "Atelectasis"
    share = 4
    sides = BOTH_SIDES
    zones = ("middle", "lower")
    severities = GRADES
    phrases = (
        "{severity} linear atelectasis in the {where}",
        "{severity} {where} atelectasis",
    )

    def mark(self, site: Site) -> Field:
        """One to three nearly level lines, which rise towards the chest wall."""
        line_count = {"mild": 1, "moderate": 2, "severe": 3}[site.severity]
        offsets = (0.0, 0.13, -0.13)
        lines = 0.0
        for offset in offsets[:line_count]:
            start_y = site.y + offset
            end_y = start_y - 0.1 * site.side
            start = (site.x - 0.24, start_y)
            end = (site.x + 0.24, end_y)
            lines = lines + site.plane.stroke(0.024, [start, end])
        return 0.85 * site.lung * lines


class Nodule(Kind):
    """A small round shadow."""

    name = "Nodule"
    share = 4
    sides = BOTH_SIDES
    zones = ALL_ZONES
    severities = ("small", "large")
    phrases = ("a {severity} nodule in the {where}", "a {severity} {where} nodule")

    def mark(self, site: Site) -> Field:
        """A dense ball."""
        radius = {"small": 0.07, "large": 0.12}[site.severity]
        return 1.2 * site.lung * site.ball(radius)


class Mass(Kind):
    """A large round shadow."""

    name = "Mass"
    share = 4
    sides = BOTH_SIDES
    zones = ALL_ZONES
    severities = ("", "large")
    phrases = ("a {severity} mass in the {where}", "a {severity} {where} mass")

    def mark(self, site: Site) -> Field:
        """A dense ball, larger than any nodule."""
        radius = {"": 0.17, "large": 0.25}[site.severity]
        return 1.15 * site.lung * site.ball(radius)


class LungLesion(Kind):
    """A cavity with a thick wall."""

    name = "Lung Lesion"
    share = 3
    sides = BOTH_SIDES
    zones = ALL_ZONES
    phrases = (
        "a cavitary lesion in the {where}",
        "a thick-walled cavity in the {where}",
        "a {where} cavity",
    )

    def mark(self, site: Site) -> Field:
        """A dense ball with air inside, which removes ball and markings."""
        ball = 1.2 * site.ball(0.20)
        removed = site.anatomy.markings + 1.35
        cavity = removed * site.ball(0.15)
        return site.lung * (ball - cavity)


class Edema(Kind):
    """Fluid in both lungs."""

    name = "Edema"
    share = 4
    severities = GRADES
    fills = ("middle",)
    phrases = (
        "{severity} pulmonary edema",
        "{severity} interstitial edema",
        "{severity} bilateral edema",
    )

    def mark(self, site: Site) -> Field:
        """A patchy haze around the hila, in the shape of a butterfly."""
        density = {"mild": 0.30, "moderate": 0.58, "severe": 1.00}[site.severity]
        unevenness = np.clip(site.anatomy.texture, -1.0, 1.0)
        patches = 1.0 + 0.5 * unevenness
        right_wing = site.plane.disc(-0.3, -0.05, 0.45, 0.52)
        left_wing = site.plane.disc(0.3, -0.05, 0.45, 0.52)
        wings = right_wing**2 + left_wing**2
        return site.lung * density * patches * wings


class Emphysema(Kind):
    """Lungs that hold too much air."""

    name = "Emphysema"
    share = 3
    severities = GRADES
    fills = ("upper",)
    phrases = ("{severity} emphysema",)
    plural_phrases = ("{severity} emphysematous changes with hyperlucent upper lungs",)

    def mark(self, site: Site) -> Field:
        """Dark upper lungs without markings."""
        loss = {"mild": 0.08, "moderate": 0.15, "severe": 0.23}[site.severity]
        upper = step(0.2 - site.plane.y, 0.4)
        removed = site.anatomy.markings + loss
        return -site.lung * removed * upper


class PleuralThickening(Kind):
    """A thick pleura along the chest wall."""

    name = "Pleural Thickening"
    share = 3
    sides = BOTH_SIDES
    zones = ALL_ZONES
    severities = ("mild", "severe")
    phrases = (
        "{severity} {side} {zone} pleural thickening",
        "{severity} {side} {zone} pleural scarring",
    )

    def mark(self, site: Site) -> Field:
        """A dense strip along the wall of one zone."""
        thickness = {"mild": 0.08, "severe": 0.16}[site.severity]
        strip = step(thickness - site.anatomy.wall_distance, 0.03)
        top = site.y - 0.22
        bottom = site.y + 0.22
        in_zone = band(site.plane.y, top, bottom, 0.2)
        return 0.9 * site.lung * strip * in_zone


class Fracture(Kind):
    """Broken ribs."""

    name = "Fracture"
    share = 4
    sides = BOTH_SIDES
    zones = ALL_ZONES
    phrases = ("a {side} {zone} rib fracture", "a fracture of a {zone} rib on the {side}")

    def mark(self, site: Site) -> Field:
        """Ribs swollen by callus, and a dark line through them."""
        callus = 0.1 + 5.0 * site.anatomy.ribs
        nearby = site.plane.disc(1.15 * site.x, site.y, 0.2, 0.2)
        start = (site.x * 1.1, site.y - 0.2)
        end = (site.x * 1.2, site.y + 0.2)
        gap = site.plane.stroke(0.02, [start, end])
        return callus * nearby**2 * (1.0 - 1.5 * gap)
