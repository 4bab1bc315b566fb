"""Findings read from real reports: agreement with the Open-i annotators, and reports a second.

The reports are those of the Open-i collection inside the torchxrayvision wheel, read in memory.
The rules were written on reports with an even number; what is printed here is on the odd ones.
"""

from __future__ import annotations

import importlib.util
import re
import tarfile
from pathlib import Path
from xml.etree import ElementTree

# The annotators' MeSH terms (head/qualifier/...) -> finding, fixed without a look at odd reports.
# "round" is how they write a nodular opacity or density.
DEVICES = (
    r"Catheters|Implanted Medical|Medical Device|Tube, Inserted|Stents|Surgical Instruments"
    r"|Spinal Fusion|Sutures|Breast Implants"
)
MESH = {
    "Enlarged Cardiomediastinum": r"Mediastinum/.*(prominent|enlarged)",
    "Cardiomegaly": r"Cardiomegaly|Cardiac Shadow/enlarged",
    "Lung Opacity": r"Opacity|Airspace Disease|Density/.*lung",
    "Lung Lesion": r"Nodule|Mass/(?!.*breast)|Cavitation|Cysts/lung|(Opacity|Density)/.*round",
    "Edema": r"Pulmonary Edema|Pulmonary Congestion|Heart Failure",
    "Consolidation": r"Consolidation",
    "Pneumonia": r"Pneumonia\b",
    "Atelectasis": r"Pulmonary Atelectasis",
    "Pneumothorax": r"Pneumothorax|Hydropneumothorax",
    "Pleural Effusion": r"Pleural Effusion|Hydropneumothorax",
    "Pleural Other": r"(Thickening|Cicatrix|Calcinosis|Deformity|Density)/.*pleura|Pleura/",
    "Fracture": r"Fractures, Bone",
    "Support Devices": DEVICES,
    "Mass": r"Mass/(?!.*breast)",
    "Nodule": r"Nodule",
    "Infiltration": r"Infiltrate",
    "Emphysema": r"(Pulmonary |Bullous )?Emphysema",
    "Fibrosis": r"Pulmonary Fibrosis",
    "Pleural Thickening": r"Thickening/.*pleura",
    "Hernia": r"Hernia, (Hiatal|Diaphragmatic)",
}
# Nothing else may be annotated: support devices and a poor image are no finding.
NORMAL = rf"normal|Technical Quality|{DEVICES}"


def known(terms: list[str]) -> set[str]:
    """The findings that the annotators' terms stand for."""
    found = {name for name in MESH if any(re.match(MESH[name], term) for term in terms)}
    return found | ({"No Finding"} if all(re.match(NORMAL, term) for term in terms) else set())


def open_i(remainder: int) -> tuple[list[str], list[set[str]]]:
    """Texts (findings and impression) and the annotators' findings of the Open-i reports whose
    number leaves `remainder` when divided by two. Reports without text or without annotation
    ("No Indexing") are left out.
    """
    wheel = Path(importlib.util.find_spec("torchxrayvision").origin).parent
    texts, truth = [], []
    with tarfile.open(wheel / "data" / "NLMCXR_reports.tgz") as archive:
        for member in archive:
            number = re.search(r"(\d+)\.xml$", member.name)
            if not number or int(number[1]) % 2 != remainder:
                continue
            tree = ElementTree.parse(archive.extractfile(member))
            parts = {part.get("Label"): part.text or "" for part in tree.iter("AbstractText")}
            text = " ".join(filter(None, (parts.get("FINDINGS"), parts.get("IMPRESSION"))))
            terms = [term.text for term in tree.iter("major")]
            if text.strip() and terms != ["No Indexing"]:
                texts.append(text)
                truth.append(known(terms))
    return texts, truth
