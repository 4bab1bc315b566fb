"""Open-i, the Indiana University chest radiographs (https://openi.nlm.nih.gov/faq).

The PNGs must be somewhere under one folder, in a folder or in `NLMCXR_png.tgz`. So may the XML
reports, in a folder or in `NLMCXR_reports.tgz`; else those in torchxrayvision's wheel are used.
Archives are read in place. There is one report a patient, and no official split.

Frontal is what the DICOM headers call PA or AP (a table in that wheel). They call many laterals PA.
torchxrayvision has also derived views from the pictures, of about one image a study. An image is
left out if its derived view contradicts its header.
"""

import contextlib
import gzip
import importlib.util
import tarfile
import zlib
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pandas as pd

from mcrlib.config import Config
from mcrlib.data import images
from mcrlib.data.schema import Row

# What the standard library raises for a damaged archive.
DAMAGED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)


class ReportFile(NamedTuple):
    """Name and bytes of an XML report."""

    name: str
    content: bytes


class Views(NamedTuple):
    """View of each image by its id, from two tables of torchxrayvision."""

    header: dict[str, str]  # as the DICOM header says
    picture: dict[str, str]  # as derived from the picture: "PA", or "L" for lateral


class PngArchive(NamedTuple):
    """An open archive of PNGs, and its members by image id."""

    archive: tarfile.TarFile
    members: dict[str, tarfile.TarInfo]


def rows(config: Config) -> Iterator[Row]:
    """One row for each image that a report names, then one for each report without an image.

    The order is that of the images, so that an archive is read from front to back. Reports without
    an image are those that cannot be read or that name none.

    Labels are the MeSH terms that the annotators gave ("major"). Raises FileNotFoundError if there
    are no images, ModuleNotFoundError without torchxrayvision.
    """
    folder = Path(config.data)
    shipped = _shipped()
    pngs = _pngs(folder) if config.data else {}
    if not pngs:
        raise FileNotFoundError(_no_images(config))
    views = Views(
        header=_column(shipped / "nlmcxr_dicom_metadata.csv.gz", "View Position"),
        picture=_column(shipped / "nlmcxr_tsne_pa.csv.gz", "tsne-view"),
    )
    all_rows = []
    for file in _reports(folder, shipped):
        all_rows.extend(_report_rows(file, views, pngs))
    positions = {image: i for i, image in enumerate(pngs)}

    def reading_order(row: Row) -> tuple[int, str]:
        """Rows without an image come last."""
        position = positions.get(row.pair_id, len(positions))
        return position, row.pair_id

    yield from sorted(all_rows, key=reading_order)


def _no_images(config: Config) -> str:
    needed = "RUN=openi needs DATA=<folder with Open-i's PNGs or NLMCXR_png.tgz>"
    if not config.data:
        return f"{needed}; none was given."
    return f"{needed}; {config.data} contains neither."


def _report_rows(file: ReportFile, views: Views, pngs: dict[str, images.Source]) -> list[Row]:
    """A row for each image of a report, or one row with the reason if it has none."""
    try:
        report = ElementTree.fromstring(file.content)
        patient = report.find("uId").get("id")
    except (ElementTree.ParseError, AttributeError, LookupError, ValueError):
        patient = None  # the last two: an encoding that is unknown or not supported
    if not patient:
        return [_unreadable(file)]
    sections = {}
    for part in report.iter("AbstractText"):
        name = part.get("Label", "").lower()
        sections[name] = part.text or ""
    labels = [term.text for term in report.iterfind(".//MeSH/major") if term.text]
    named = [node.get("id", "") for node in report.iter("parentImage")]
    report_rows = []
    for image in named or [patient]:
        file_name = f"{image}.png"
        row = Row(
            pair_id=image,
            patient_id=patient,
            study_id=patient,
            split="",
            view=views.header.get(image, ""),
            text="\n".join(sections.values()),
            labels=labels,
            source=file_name,
            image=pngs.get(image, Path(file_name)),
            sections=sections,
            reason=_view_fault(image, named, views) if named else "report names no image",
        )
        report_rows.append(row)
    return report_rows


def _unreadable(file: ReportFile) -> Row:
    return Row(
        pair_id=file.name,
        patient_id=file.name,
        study_id=file.name,
        split="",
        view="",
        text="",
        labels=None,
        source=file.name,
        image=None,
        reason="report is no Open-i XML",
    )


def _view_fault(image: str, study: list[str], views: Views) -> str:
    """Why an image of a study is not frontal, whatever its header says; "" if it may be."""
    if views.picture.get(image) == "L":
        return "lateral by its picture"
    if image in views.picture:
        return ""
    # A study is usually one frontal and one lateral image: this is probably the lateral one.
    if any(views.picture.get(other) == "PA" for other in study):
        return "beside an image that is frontal by its picture"
    return ""


def _column(path: Path, name: str) -> dict[str, str]:
    """One column of a CSV, by image id."""
    table = pd.read_csv(path, usecols=["imageid", name], dtype=str, na_filter=False)
    return dict(zip(table["imageid"], table[name], strict=True))


def _shipped() -> Path:
    """Folder of the files in torchxrayvision's wheel."""
    wheel = importlib.util.find_spec("torchxrayvision")
    if wheel is None:
        raise ModuleNotFoundError("RUN=openi needs torchxrayvision: pip install -e '.[openi]'.")
    return Path(wheel.origin).parent / "data"


def _pngs(folder: Path) -> dict[str, images.Source]:
    """Image id -> its PNG, in the order in which the PNGs are read fastest."""
    files = [path for path in folder.rglob("*.png") if path.is_file()]  # no folders, no pipes
    files.sort(key=lambda path: path.stem)
    if files:
        return {path.stem: path for path in files}
    path = min(folder.rglob("*png*.t*gz"), default=None)
    if path is None:
        return {}
    with _whole_archive(path):
        members = _open(path).members
    # A worker process gets the function and reads the bytes itself.
    return {image: partial(_png_from_archive, path, image) for image in members}


def _png_from_archive(path: Path, image: str) -> bytes:
    """A PNG's bytes. Raises KeyError or ValueError, with the reason, if it is not there."""
    png_archive = _open(path)
    member = png_archive.members[image]
    return _content(png_archive.archive, member)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """A member's bytes; of a link, those of the file in the archive that it leads to.

    Raises ValueError if there are none.
    """
    try:
        file = archive.extractfile(member)
    except (KeyError, RecursionError):
        raise ValueError("archive member is a link that leads to no file in it") from None
    if file is None:
        raise ValueError("archive member is a folder or a device, not a file")
    try:
        return file.read()
    except DAMAGED as error:
        raise ValueError(f"archive is damaged: {error}") from None


@lru_cache(maxsize=1)  # each worker process opens the archive once
def _open(path: Path) -> PngArchive:
    archive = tarfile.open(path)  # noqa: SIM115
    members = {}
    for member in archive:
        name = Path(member.name).stem
        # A folder does not hide a file of the same name.
        if member.name.endswith(".png") and (member.isfile() or name not in members):
            members[name] = member
    return PngArchive(archive, members)


def _reports(folder: Path, shipped: Path) -> Iterator[ReportFile]:
    """The XML reports: unpacked, in an archive, or else in torchxrayvision's wheel.

    What cannot be read comes without content.
    """
    files = sorted(folder.rglob("*.xml"))
    if files:
        for path in files:
            yield ReportFile(path.name, _file_content(path))
        return
    path = min(folder.rglob("*report*.t*gz"), default=shipped / "NLMCXR_reports.tgz")
    with _whole_archive(path), tarfile.open(path) as archive:
        for member in archive:
            if member.name.endswith(".xml"):
                name = Path(member.name).name
                yield ReportFile(name, _member_content(archive, member))


def _file_content(path: Path) -> bytes:
    """A file's bytes, none if it cannot be read; reading a pipe would never end."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""


def _member_content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    try:
        return _content(archive, member)
    except ValueError:
        return b""


@contextlib.contextmanager
def _whole_archive(path: Path) -> Iterator[None]:
    """Name the archive if it turns out to be cut off or damaged."""
    try:
        yield
    except DAMAGED as error:
        raise ValueError(f"{path} is not a whole archive: {error}; download it again.") from error
