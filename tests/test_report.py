"""A run on one page: complete, self-contained, and no more than the numbers say."""

import html
import re
import shutil

import pytest

from mcrlib import config, results
from mcrlib.companion import claims, report
from mcrlib.companion.execute import may_show_patients

FIGURE = '<div class="output_png'  # not the pictures within a table
REFERENCE = config.ROOT / "results" / "reference"


@pytest.fixture
def reference(tmp_path, monkeypatch):
    """A copy of the committed reference's numbers and executed notebooks."""
    folder = tmp_path / "results" / "reference"
    shutil.copytree(REFERENCE / "executed", folder / "executed")
    for file in REFERENCE.glob("*.json"):
        shutil.copy(file, folder)
    monkeypatch.setattr(config, "ROOT", tmp_path)
    return folder


def test_the_page_has_each_verdict_and_every_table_and_figure_says_its_source(reference):
    page = report.build("reference").read_text()
    text = html.unescape(re.sub("<[^>]+>", "", page))
    for record in results.load(reference / claims.FILE)["values"]:
        assert record["sentence"].replace("`", "") in text  # Markdown shows them as code
    first_table = page.index("<table")
    assert page.index(claims.HEADINGS["claim"]) < first_table
    sources = re.findall(r'<img[^>]*src="([^"]*)"', page)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    figures = page.split(FIGURE)
    assert len(figures) > 6
    assert all('class="made-of"' in following for following in figures[1:])
    assert "07_ablations was not executed" in text
    file = reference / "retrieval.json"
    assert f"sha256 {report.sha256(file)[:12]}" in text


def test_the_page_needs_no_network_and_runs_nothing(reference):
    page = report.build("reference").read_text()
    assert "<script" not in page and "@import" not in page and "javascript:" not in page
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//[^"']*\.(?:js|css)""", page)
    assert "In [" not in page and "import config" not in page


def test_equal_numbers_make_equal_pages(reference):
    before = report.build("reference").read_bytes()
    assert report.build("reference").read_bytes() == before


def test_without_verdicts_there_is_no_page(reference):
    (reference / claims.FILE).unlink()
    with pytest.raises(FileNotFoundError, match="run `make 12_claims RUN=reference` first"):
        report.build("reference")
    assert not (reference / report.FILE).exists()


@pytest.mark.parametrize(("run", "is_private"), [("mimic", True), ("demo", False)])
def test_pages_about_patients_are_private(run, is_private):
    assert may_show_patients({"run": run}) is is_private
