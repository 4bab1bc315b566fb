"""Open-i, the Indiana University chest radiographs (https://openi.nlm.nih.gov/faq).

Wanted somewhere under one folder: the PNGs, in a folder or in `NLMCXR_png.tgz`, and the XML
reports, in a folder or in `NLMCXR_reports.tgz`; where there are none, those in torchxrayvision's
wheel are taken. Archives are read in place. There is one report a patient, and no official split.

Frontal is what the DICOM headers call PA or AP (a table in that wheel). They call many laterals PA:
where the view that torchxrayvision derived from the pictures, of about one image a study, says
otherwise, the image is left out.
"""

import importlib.util
import tarfile
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from mcrlib.config import Config
from mcrlib.data import images
from mcrlib.data.schema import Row


def rows(config: Config) -> Iterator[Row]:
    """One row an image that a report names, in the order of the images (an archive is read from
    front to back), then one a report that cannot be read or names none.

    Labels are the MeSH terms that the annotators gave ("major"). Raises FileNotFoundError where
    the images are not there, ModuleNotFoundError without torchxrayvision.
    """
    root, shipped = Path(config.data), _shipped()
    pngs = _pngs(root) if config.data else {}
    if not pngs:
        raise FileNotFoundError(
            "RUN=openi needs DATA=<folder with Open-i's PNGs or NLMCXR_png.tgz>; "
            f"under {config.data or 'no folder'} there is none."
        )
    views = _column(shipped / "nlmcxr_dicom_metadata.csv.gz", "View Position")
    seen = _column(shipped / "nlmcxr_tsne_pa.csv.gz", "tsne-view")
    order = {image: i for i, image in enumerate(pngs)}
    files = _reports(root, shipped)
    found = [row for file in files for row in _report_rows(*file, views, seen, pngs)]
    yield from sorted(found, key=lambda row: (order.get(row.pair_id, len(order)), row.pair_id))


def _report_rows(name: str, data: bytes, views: dict, seen: dict, pngs: dict) -> Iterator[Row]:
    try:
        report = ElementTree.fromstring(data)
        patient = report.find("uId").get("id")
    except (ElementTree.ParseError, AttributeError):
        yield Row(name, name, name, "", "", "", None, name, None, reason="report is no Open-i XML")
        return
    parts = {p.get("Label", "").lower(): p.text or "" for p in report.iter("AbstractText")}
    named = [node.get("id", "") for node in report.iter("parentImage")]
    for image in named or [patient]:
        yield Row(
            pair_id=image,
            patient_id=patient,
            study_id=patient,
            split="",
            view=views.get(image, ""),
            text="\n".join(parts.values()),
            labels=[term.text for term in report.iterfind(".//MeSH/major") if term.text],
            source=f"{image}.png",
            image=pngs.get(image, Path(f"{image}.png")),
            sections=parts,
            reason=_doubt(image, named, seen) if named else "report names no image",
        )


def _doubt(image: str, study: list[str], seen: dict[str, str]) -> str:
    if seen.get(image) == "L":
        return "lateral by its picture"
    if image not in seen and any(seen.get(other) == "PA" for other in study):
        return "beside an image that is frontal by its picture"
    return ""


def _column(path: Path, name: str) -> dict[str, str]:
    table = pd.read_csv(path, usecols=["imageid", name], dtype=str, na_filter=False)
    return dict(zip(table["imageid"], table[name], strict=True))


def _shipped() -> Path:
    """Folder of the files in torchxrayvision's wheel."""
    wheel = importlib.util.find_spec("torchxrayvision")
    if wheel is None:
        raise ModuleNotFoundError("RUN=openi needs torchxrayvision: pip install -e '.[openi]'.")
    return Path(wheel.origin).parent / "data"


def _pngs(root: Path) -> dict[str, images.Source]:
    """Image id -> its PNG, in the order in which they are read best."""
    files = sorted(root.rglob("*.png"), key=lambda path: path.stem)
    if files:
        return {path.stem: path for path in files}
    archive = min(root.rglob("*png*.t*gz"), default=None)
    names = _open(archive)[1] if archive else {}
    return {name: partial(_member, archive, name) for name in names}


@lru_cache(maxsize=1)  # in each worker
def _open(path: Path) -> tuple[tarfile.TarFile, dict[str, tarfile.TarInfo]]:
    archive = tarfile.open(path)  # noqa: SIM115
    return archive, {Path(m.name).stem: m for m in archive if m.name.endswith(".png")}


def _member(path: Path, name: str) -> bytes:
    archive, members = _open(path)
    return archive.extractfile(members[name]).read()


def _reports(root: Path, shipped: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each XML report."""
    files = sorted(root.rglob("*.xml"))
    if files:
        yield from ((path.name, path.read_bytes()) for path in files)
        return
    archive = min(root.rglob("*report*.t*gz"), default=shipped / "NLMCXR_reports.tgz")
    with tarfile.open(archive) as reports:
        for member in reports:
            if member.name.endswith(".xml"):
                yield Path(member.name).name, reports.extractfile(member).read()
