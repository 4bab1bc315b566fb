"""Open-i: all real reports of the torchxrayvision wheel, with made-up images."""

import io
import os
import random
import tarfile

import mimic_tree
import numpy as np
import pytest

from mcrlib import config
from mcrlib.data import prepare, summary
from mcrlib.data.schema import FRONTAL, SPLITS
from mcrlib.data.sources import openi

PICTURES = [mimic_tree.encoded(mimic_tree.picture(random.Random(i)), "PNG") for i in range(8)]


def settings(folder, run="openi", **overrides):
    loaded = config.load("openi", data=str(folder), cache_size=8, **overrides)
    return loaded.replace(run=run)


@pytest.fixture(scope="module")
def frontal(tmp_path_factory):
    """Ids of the images that count as frontal."""
    folder = tmp_path_factory.mktemp("one")
    (folder / "one.png").write_bytes(PICTURES[0])
    rows = list(openi.rows(settings(folder)))
    assert len(rows) == 7574
    return sorted(r.pair_id for r in rows if not r.reason and FRONTAL.fullmatch(r.view))


def archive(path, files):
    with tarfile.open(path, "w:gz") as out:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))


def test_all_reports_are_paired_and_counted(home, frontal, tmp_path):
    pictures = {f"NLMCXR_png/{name}.png": PICTURES[i % 8] for i, name in enumerate(frontal)}
    archive(tmp_path / "NLMCXR_png.tgz", pictures)
    dataset = prepare.build(settings(tmp_path), workers=2)
    frame, info = dataset.frame, dataset.info
    assert info["seen"] == 7574 == info["kept"] + sum(info["excluded"].values())
    assert info["kept"] == 2495
    assert info["excluded"]["report names no image"] == 104
    assert frame["study_id"].is_unique
    shares = frame["split"].value_counts(normalize=True)
    assert np.allclose(shares[list(SPLITS)], [0.8, 0.1, 0.1], atol=0.02)
    assert not frame["report"].str.contains("XXX|  |^$").any()
    headings = summary.headings(dataset)
    assert headings["section"].tolist() == headings.index.tolist()  # the source names the sections
    assert {"findings", "impression", "indication", "comparison", "(no heading)"} >= set(
        headings.index
    )
    assert headings.loc["impression", "times"] > 2000
    labels = set().union(*frame["labels"])
    assert {"normal", "Cardiomegaly/mild"} <= labels


def test_folders_and_archives_give_the_same_bytes(home, frontal, tmp_path):
    kept = frontal[:6]
    shipped = openi._shipped() / "NLMCXR_reports.tgz"
    for form in ("folder", "archive"):
        (tmp_path / form).mkdir()
    with tarfile.open(shipped) as reports:
        for member in reports.getmembers()[:2000]:
            if member.isfile():
                name = member.name.split("/")[-1]
                (tmp_path / "folder" / name).write_bytes(reports.extractfile(member).read())
    files = sorted((tmp_path / "folder").glob("*.xml"))
    archive(tmp_path / "archive/reports.tgz", {f"x/{f.name}": f.read_bytes() for f in files})
    for i, name in enumerate(kept):
        (tmp_path / "folder" / f"{name}.png").write_bytes(PICTURES[i])
    archive(tmp_path / "archive/png.tgz", {f"y/{n}.png": PICTURES[i] for i, n in enumerate(kept)})
    forms = [prepare.build(settings(tmp_path / f, run=f), 1) for f in ("folder", "archive")]
    assert forms[0].info == forms[1].info
    assert 0 < forms[0].info["kept"] <= 6
    assert not list((tmp_path / "archive").glob("*/*"))  # nothing was unpacked


def test_broken_reports_and_missing_images_are_excluded(home, tmp_path):
    (tmp_path / "1.xml").write_bytes(b"<eCitation><uId id='CXR1'")
    (tmp_path / "2.xml").write_bytes(b"<eCitation><other/></eCitation>")
    with pytest.raises(FileNotFoundError, match="RUN=openi needs DATA="):
        list(openi.rows(settings(tmp_path)))
    (tmp_path / "x.png").write_bytes(PICTURES[0])
    assert [row.reason for row in openi.rows(settings(tmp_path))] == ["report is no Open-i XML"] * 2


REPORT = (
    '<eCitation><uId id="{0}"/><AbstractText Label="FINDINGS">Clear lungs.</AbstractText>'
    '<parentImage id="{0}_1"/></eCitation>'
)
KINDS = {
    "file": tarfile.REGTYPE,
    "folder": tarfile.DIRTYPE,
    "pipe": tarfile.FIFOTYPE,
    "device": tarfile.CHRTYPE,
    "nowhere": tarfile.SYMTYPE,
    "circle": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
}
LINKS = {"nowhere": "../../etc/passwd", "circle": "circle_1.png", "hard": "gone.png"}


def odd_archive(path, suffix, contents):
    """An archive with a member of each kind, called after it."""
    with tarfile.open(path, "w:gz") as out:
        for name, kind in KINDS.items():
            member = tarfile.TarInfo(f"{name}{suffix}")
            member.type = kind
            member.linkname = LINKS.get(name, "")
            if kind == tarfile.REGTYPE:
                member.size = len(contents[name])
            out.addfile(member, io.BytesIO(contents.get(name, b"")))


@pytest.fixture
def any_view(monkeypatch):
    """Take every image for a frontal one, since the ids here are not Open-i's."""
    views = [{f"{name}_1": "PA" for name in KINDS}, {}]
    monkeypatch.setattr(openi, "_column", lambda path, name: views[name == "tsne-view"])


def test_a_picture_that_is_no_file_is_one_excluded_row(home, tmp_path, any_view):
    for name in KINDS:
        (tmp_path / f"{name}.xml").write_text(REPORT.format(name))
    odd_archive(tmp_path / "png.tgz", "_1.png", {"file": PICTURES[0]})
    dataset = prepare.build(settings(tmp_path, run="odd-png"), 1)
    assert list(dataset.frame["pair_id"]) == ["file_1"]
    assert dataset.info["excluded"] == {
        "archive member is a folder or a device, not a file": 3,
        "archive member is a link that leads to no file in it": 3,
    }


def test_a_report_that_is_no_file_is_one_excluded_row(home, tmp_path, any_view):
    (tmp_path / "file_1.png").write_bytes(PICTURES[0])
    odd_archive(tmp_path / "reports.tgz", ".xml", {"file": REPORT.format("file").encode()})
    from_archive = prepare.build(settings(tmp_path, run="odd-xml"), 1)
    (tmp_path / "reports.tgz").unlink()

    (tmp_path / "file.xml").write_text(REPORT.format("file"))
    (tmp_path / "folder.xml").mkdir()
    os.mkfifo(tmp_path / "pipe.xml")
    (tmp_path / "nowhere.xml").symlink_to("gone.xml")
    (tmp_path / "empty.xml").touch()
    (tmp_path / "encoding.xml").write_text('<?xml version="1.0" encoding="klingon"?><a/>')
    (tmp_path / "anonymous.xml").write_text("<eCitation><uId/></eCitation>")
    from_folder = prepare.build(settings(tmp_path, run="odd-xml"), 1)
    for dataset in (from_archive, from_folder):
        assert list(dataset.frame["pair_id"]) == ["file_1"]
        assert dataset.info["excluded"] == {"report is no Open-i XML": 6}


def test_a_name_that_no_file_can_have_is_one_excluded_row(home, tmp_path, monkeypatch):
    long = "x" * 300
    monkeypatch.setattr(openi, "_column", lambda *_: {f"{name}_1": "PA" for name in (long, "a")})
    (tmp_path / "a.xml").write_text(REPORT.format("a"))
    (tmp_path / "b.xml").write_text(REPORT.format(long))
    (tmp_path / "a_1.png").write_bytes(PICTURES[0])
    (tmp_path / "folder_1.png").mkdir()
    info = prepare.build(settings(tmp_path, run="long"), 1).info
    assert (info["kept"], info["excluded"]) == (
        1,
        {"image file cannot be opened: File name too long": 1},
    )


@pytest.mark.parametrize("name", ["png.tgz", "reports.tgz"])
def test_half_an_archive_is_named(tmp_path, name):
    contents = {f"{i}_1{'.png' if name == 'png.tgz' else '.xml'}": PICTURES[i] for i in range(8)}
    archive(tmp_path / name, contents)
    if name == "reports.tgz":
        (tmp_path / "0_1.png").write_bytes(PICTURES[0])
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    openi._open.cache_clear()
    with pytest.raises(ValueError, match=f"{name} is not a whole archive"):
        list(openi.rows(settings(tmp_path)))
