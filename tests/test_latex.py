"""LaTeX tables compile as they are in a two-column article, and text stays what it says."""

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrlib import config, latex, tables

REPOSITORY = Path(__file__).parents[1]
TABLES = (
    "recall",
    "recall_intervals",
    "recall_ranks",
    "verdicts",
    "text_metrics",
    "agreement",
    "modality_gap",
    "efficiency",
    "efficiency_parts",
)
SIX = [
    "mcr",
    "R&D #1_50%",
    "a_method_of_somebody_else_with_a_very_long_name_{v2}",
    "naïve-$5~^\\input",
    "β-VAE ≥ 中文 😀 ﬁne",
    "MMMMWWWWMMMMWWWWMMMMWWWWMMMMWWWW",
]
needs_tex = pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex and booktabs")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The tables that the notebooks make from the reference's numbers, in a new home."""
    home = tmp_path_factory.mktemp("home")
    source = REPOSITORY / "results" / "reference"
    target = home / "results" / "reference"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.tex", "*.csv", "executed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "ROOT", home)
        for name in ("03_retrieval", "04_text_metrics", "05_modality_gap", "08_efficiency"):
            make_tables(name)
    return target


def make_tables(name: str) -> None:
    """Run a notebook's code on the reference run, as papermill does, but without its figures."""
    names = {}
    for cell in nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code" and "plots.save" not in cell.source:
            exec(compile(cell.source, name, "exec"), names)
            if "parameters" in cell.metadata.get("tags", ()):
                names["run"] = "reference"


def compile_tables(files: list[Path], folder: Path) -> str:
    """Complaints of pdflatex about the tables, all in one two-column article; "" if there are none.

    Complaints are errors, missing characters and boxes that stick out by more than a point.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = "\\documentclass[10pt,twocolumn]{article}\n"
    source += "\\usepackage[utf8]{inputenc}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs}\n"
    source += "\\begin{document}\n"
    for file in files:
        source += f"{file.read_text()}\n\\clearpage\n"
    (folder / "article.tex").write_text(source + "\\end{document}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "article.tex"]
    subprocess.run(command, cwd=folder, capture_output=True, timeout=120)
    log = (folder / "article.log").read_text(errors="replace")
    assert "Output written on article.pdf" in log, log[-2000:]
    complaints = [line for line in log.splitlines() if line.startswith("!")]
    complaints += re.findall("Missing character.*", log)
    complaints += re.findall("LaTeX Warning: Float too large.*", log)
    for box in re.findall(r"Overfull \\hbox.*", log):
        if float(re.search(r"\(([\d.]+)pt", box)[1]) > 1:
            complaints.append(box)
    return "\n".join(complaints)


@needs_tex
def test_the_reference_s_tables_fit_a_two_column_article(reference, tmp_path):
    files = sorted(reference.glob("*.tex"))
    assert {file.stem for file in files} == set(TABLES)
    assert compile_tables(files, tmp_path) == ""


def test_every_table_of_the_reference_has_what_a_paper_needs(reference):
    for name in TABLES:
        source = (reference / f"{name}.tex").read_text()
        assert f"\\label{{tab:{name}}}" in source
        assert "\\centering" in source
        caption = re.search(r"\\caption\{(.*)\}", source)[1]
        assert len(caption) < 100
        assert "distance\\_" not in source
        assert not re.search(r"-\d\.\d", source)  # hyphens in place of minus signs
