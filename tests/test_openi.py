"""Open-i: all real reports of the torchxrayvision wheel, with made-up images."""

import io
import random
import tarfile

import mimic_tree
import numpy as np
import pytest

from mcrlib import config
from mcrlib.data import prepare
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
