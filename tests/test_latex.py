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

from mcrlib import config, latex, results, tables
from mcrlib.companion import ablations, captions
from mcrlib.companion.analyses import Numbers
from mcrlib.evaluation.seeds import by_variant, over_seeds

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
    "relevance",
    "first_hit",
    "answering",
    "comparison",
    "claims",
)
OF_PROBES = {"probes", "zero_shot"}  # there if a model was asked
SIX = [
    "mcr",
    "R&D #1_50%",
    "a_method_of_somebody_else_with_a_very_long_name_{v2}",
    "naïve-$5~^\\input",
    "β-VAE ≥ 中文 😀 ﬁne",
    "MMMMWWWWMMMMWWWWMMMMWWWWMMMMWWWW",
]
BLOCK = {"value": 0.875, "low": 0.75, "high": 1.0, "left_out": 100, "positives": 25}
PROBED = {direction: dict.fromkeys(names, BLOCK) for direction, names in tables.PROBES.items()}
PROBED["report_to_image"][tables.ZERO_SHOT] = BLOCK | {
    "by_finding": dict.fromkeys(("Edema", "Enlarged Cardiomediastinum"), BLOCK)
}
PROBED["seeds"] = 1
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
        for name in (
            "03_retrieval", "04_text_metrics", "05_modality_gap", "08_efficiency", "11_relevance",
            "12_claims",
        ):  # fmt: skip
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
    assert {file.stem for file in files} - OF_PROBES == set(TABLES)
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


def one_of(variant: str, values: dict) -> dict:
    """The numbers of a variant's first seed."""
    return by_variant(values)[variant][0]


def six_models(folder: Path, reference: Path) -> None:
    """Tables of six models, most with names that LaTeX cannot take as they are."""
    note = f"Tables of six. Run reference, models {', '.join(SIX)}."
    recall = results.load(reference / "retrieval.json")["values"]
    several = over_seeds(
        {f"{name}-seed{seed}": one_of("mcr", recall) for name in SIX for seed in (0, 1)}
    )
    several |= over_seeds({SIX[1]: one_of("dual", recall)})
    table = tables.recall_table(several)
    best = tables.BEST_RECALL
    tables.save_table(folder / "recall", table, note, best, tables.recall_layout)
    tables.save_latex(folder / "recall_intervals", table, note, layout=tables.interval_layout)
    tables.save_latex(folder / "recall_ranks", table, note, best, tables.rank_layout)
    tables.save_table(folder / "as_it_is", table, note, best)

    verdict = results.load(reference / "verdicts.json")["values"][1]
    verdicts = tables.verdict_table([verdict | {"variants": ["mcr", name]} for name in SIX[1:]])
    tables.save_table(folder / "verdicts", verdicts, note, layout=tables.verdict_layout)
    record = results.load(reference / "comparison.json")["values"][1]
    records = []
    for endpoint in tables.ENDPOINT_LABELS:
        records += [record | {"endpoint": endpoint, "variants": ["mcr", name]} for name in SIX[1:]]
    comparison = tables.comparison_table(records)
    tables.save_table(folder / "comparison", comparison, note, layout=tables.comparison_layout)

    records = pd.DataFrame(results.load(reference / "text_metrics.json")["values"])
    of_mcr = records[records["variant"] == "mcr"]
    others = [of_mcr.assign(variant=name) for name in SIX]
    bounds = records[records["variant"].isin(tables.BOUNDS)]
    texts = tables.text_table(pd.concat([bounds, *others]).to_dict("records"))
    best = dict.fromkeys(texts.columns[3:], tables.HIGHEST)
    tables.save_table(folder / "text_metrics", texts, note, best, tables.text_layout)

    scores = results.load(reference / "agreement.json")["values"]
    models = {"floor": scores["floor"]} | dict.fromkeys(SIX, one_of("mcr", scores))
    agreement = tables.agreement_table(models)
    tables.save_table(folder / "agreement", agreement, note, layout=tables.agreement_layout)

    asked = dict.fromkeys(SIX, PROBED)
    kinds = tables.probe_table(asked, pool=500)
    tables.save_table(folder / "probes", kinds, note, layout=tables.probe_layout)
    prompts = tables.zero_shot_table(asked)
    tables.save_table(folder / "zero_shot", prompts, note, layout=tables.zero_shot_layout)

    gaps = results.load(reference / "modality_gap.json")["values"]
    gap = tables.gap_table(dict.fromkeys(SIX, one_of("mcr", gaps)))
    tables.save_table(folder / "modality_gap", gap, note, layout=tables.gap_layout)


@needs_tex
def test_six_models_with_any_names_fit_too(reference, tmp_path):
    six_models(tmp_path, reference)
    files = sorted(tmp_path.glob("*.tex"))
    assert len(files) == 11
    assert compile_tables(files, tmp_path / "article") == ""


@needs_tex
def test_all_ablations_fit_a_page(tmp_path):
    block = {"value": 3.456, "difference": -1.234, "low": -2.345, "high": -0.123}
    block |= {"detectable": 1.579, "verdict": "worse"}
    compared = {}
    for variant in ablations.variants("demo"):
        compared[variant] = {"seeds": 1, "epochs": 5, "RSUM": block}
        compared[variant]["nDCG@10_without_partner"] = block
    compared["mcr"] |= {measure: {"value": 3.456} for measure in tables.ABLATION_MEASURES}
    about = {"draws": 10_000, "pool": 500, "models_of": "half-demo", "seeds": ["0"]}
    about["attributes"] = "read by mcrlib.evaluation.findings"
    caption = captions.ablations("demo", Numbers(compared, about))
    table = tables.ablation_table(ablations.listed("demo"), compared)
    tables.save_table(tmp_path / "ablations", table, caption, layout=tables.ablation_layout)
    source = (tmp_path / "ablations.tex").read_text()
    assert source.count("$-$123.4 [$-$234.5, $-$12.3]*") == 2 * (len(table) - 5)
    assert r"\emph{image mask}" in source and "none, no MIM" in source
    assert compile_tables([tmp_path / "ablations.tex"], tmp_path / "article") == ""


def test_recall_is_laid_out_as_in_retrieval_papers(reference):
    source = (reference / "recall.tex").read_text()
    assert r"\multicolumn{3}{c}{image to report} & \multicolumn{3}{c}{report to image}" in source
    assert "model & R@1 & R@5 & R@10 & R@1 & R@5 & R@10" in source
    evaluated = over_seeds(results.load(reference / "retrieval.json")["values"])["mcr"]
    assert evaluated["seeds"] > 1
    values = []
    deviations = []
    for direction in tables.DIRECTION_LABELS:
        for k in (1, 5, 10):
            number = evaluated[direction]["pair"][f"R@{k}"]
            values.append(f"{100 * number['value']:.1f}")
            deviations.append(f"± {100 * (number['high'] - number['value']):.1f}")
    plain = re.sub(r"\\textbf\{([\d.]+)\}", r"\1", source)
    assert f"mcr & {' & '.join(values)}" in plain
    assert r"mcr & \textbf{" in source
    intervals = (reference / "recall_intervals.tex").read_text()
    assert f"mcr & {' & '.join(deviations[:3])}" in intervals
    assert f"mcr & {' & '.join(deviations[3:])}" in intervals


def test_minus_signs_are_printed(reference):
    for name in ("claims", "modality_gap"):  # each has a number below zero
        source = (reference / f"{name}.tex").read_text()
        assert re.search(r"\$-\$\d+\.\d", source)
        assert "\u2212" not in source
        assert not re.search(r"& -\d", source)
    plain = latex.Table([latex.Column("x", tables._texts(pd.Series([-1.5, np.nan])))], {})
    assert "$-$1.500 \\\\\n– \\\\" in latex.render(plain, "c", "x")


@given(st.text(max_size=30))
@settings(deadline=None, max_examples=200)
def test_escaped_text_holds_no_command_and_only_what_pdflatex_prints(text):
    source = latex.escape(text)
    commands = re.findall(r"\\[A-Za-z]+", source)
    known = " ".join(latex._COMMANDS.values())
    assert all(command in known for command in commands)
    printed = "".join(re.findall(r"[^\x20-\x7e]", source))
    for character in printed:
        assert "¡" <= character <= "ſ" or character in "–—‘’“”†‡•…€™"


def test_known_characters_keep_their_meaning():
    assert latex.escape("50%_a & b#$~^\\x") == (
        r"50\%\_a \& b\#\$\textasciitilde{}\textasciicircum{}\textbackslash{}x"
    )
    assert latex.escape("Müller–Łukasz") == "Müller–Łukasz"
    assert latex.escape("β − Ω") == r"$\beta$ $-$ $\Omega$"
    assert latex.escape("ﬁne ① 中") == "fine 1 [U+4E2D]"
    assert latex.escape("a--b\x00\u202e") == "a-{}-b"


@pytest.mark.parametrize("pool", [2, 3, 10])
def test_where_the_ceiling_has_fewer_candidates_its_cells_are_dashes(pool, tmp_path):
    records = []
    for variant, depth in (("mcr", pool), ("ceiling", pool - 1)):
        for direction in tables.DIRECTION_LABELS:
            for k in range(1, depth + 1):
                point = {"variant": variant, "direction": direction, "k": k, "metric": "CIDEr"}
                records.append(point | {"mean": k / 10, "best": k / 10})
    table = tables.text_table(records)
    tables.save_table(tmp_path / "text", table, "Text.", layout=tables.text_layout)
    source = (tmp_path / "text.tex").read_text()
    dashes = source.count("ceiling") * sum(k == pool for k in (1, 5, 10))
    assert source.count(f"{tables.UNDEFINED}") == dashes
