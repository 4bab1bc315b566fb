"""The kinds of support device (ours). Their labels name the type of device as the severity."""

from mcrlib.data.sources.phantom.kinds import BOTH_SIDES, Kind, Site
from mcrlib.data.sources.phantom.shapes import Field, step


class Device(Kind):
    """Something made: drawn on the straight plane, outside the lungs too."""

    name = "Support Devices"
    share = 3
    grown = False


class Pacemaker(Device):
    """A pacemaker under the collarbone."""

    sides = BOTH_SIDES
    severities = ("pacemaker",)
    fills = ("upper", "vein")
    phrases = (
        "a {side} chest wall pacemaker",
        "a {side}-sided pacemaker with its lead in the ventricle",
    )

    def mark(self, site: Site) -> Field:
        """Its case, and the lead through the veins to the tip of the right ventricle."""
        case_x = site.side * 0.6
        case = site.plane.disc(case_x, -0.41, 0.17, 0.14)
        under_clavicle = [(0.6, -0.42), (0.52, -0.58), (0.2, -0.6)]
        vena_cava = [(-0.07, -0.48), (-0.09, -0.2), (-0.06, 0.1)]
        ventricle = [(0.06, 0.28), (0.24, 0.34)]
        path = site.mirrored(under_clavicle) + vena_cava + ventricle
        lead = site.plane.stroke(0.013, path)
        return 1.5 * step(case - 0.25, 0.2) + lead


class EndotrachealTube(Device):
    """A tube in the windpipe."""

    severities = ("endotracheal tube",)
    fills = ("trachea",)
    phrases = (
        "an endotracheal tube",
        "an endotracheal tube with its tip above the carina",
    )

    def mark(self, site: Site) -> Field:
        """A straight tube from the neck to above the carina."""
        top = (-0.01, -1.1)
        tip = (-0.012, -0.38)
        return 2.0 * site.plane.stroke(0.024, [top, tip])


class CentralLine(Device):
    """A catheter in the superior vena cava, entering from either side of the neck."""

    sides = BOTH_SIDES
    severities = ("central line",)
    fills = ("vein",)
    phrases = (
        "a {side} internal jugular central line",
        "a {side} central venous catheter",
    )

    def mark(self, site: Site) -> Field:
        """A thin line from the neck to the right atrium."""
        jugular_vein = [(0.24, -1.1), (0.2, -0.75)]
        vena_cava = [(-0.1, -0.45), (-0.11, 0.0)]
        path = site.mirrored(jugular_vein) + vena_cava
        return 2.0 * site.plane.stroke(0.016, path)


class NasogastricTube(Device):
    """A tube through the esophagus into the stomach."""

    severities = ("nasogastric tube",)
    fills = ("stomach",)
    phrases = (
        "a nasogastric tube",
        "an enteric tube coursing into the stomach",
        "a feeding tube",
    )

    def mark(self, site: Site) -> Field:
        """A line down the midline that turns to the patient's left below the diaphragm."""
        esophagus = [(0.05, -1.1), (0.05, 0.42)]
        stomach = [(0.14, 0.6), (0.42, 0.7)]
        return 2.0 * site.plane.stroke(0.017, esophagus + stomach)


class SternalWires(Device):
    """Wires that hold the sternum together after surgery."""

    severities = ("sternal wires",)
    fills = ("sternum",)
    plural_phrases = (
        "median sternotomy wires",
        "sternal wires",
        "postoperative wires in the sternum",
    )

    def mark(self, site: Site) -> Field:
        """Five crossed wires, one below the other."""
        wires = 0.0
        for y in (-0.4, -0.22, -0.04, 0.14, 0.32):
            top = y - 0.03
            bottom = y + 0.03
            falling = [(-0.05, top), (0.05, bottom)]
            rising = [(0.05, top), (-0.05, bottom)]
            wires = wires + site.plane.stroke(0.015, falling + rising)
        return 2.0 * wires


class ChestTube(Device):
    """A drain in the pleural space."""

    sides = BOTH_SIDES
    severities = ("chest tube",)
    fills = ("tube",)
    phrases = (
        "a {side} chest tube",
        "a {side} pleural drain",
        "a drainage catheter in the {side} chest",
    )

    def mark(self, site: Site) -> Field:
        """A tube from the flank up to the lung's apex."""
        flank = [(0.95, 0.38), (0.66, 0.18)]
        lung = [(0.48, -0.15), (0.4, -0.55)]
        path = site.mirrored(flank + lung)
        return 1.3 * site.plane.stroke(0.022, path)
