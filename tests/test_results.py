"""Numbers on disk: kept with what made them, harmless in every program that opens them."""

import csv
import os

import numpy as np
import pandas as pd
import pytest

from mcrlib import config, results, tables
from mcrlib.companion.compare import compare
from mcrlib.evaluation.seeds import by_variant, over_seeds
from mcrlib.files import write

EVIL = [
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    r"\input{/etc/passwd}",
    "\x1b[31mred\x00",
    "50 % & $x_1$ #",
]


@pytest.fixture
def rows():
    draw = np.random.default_rng(0)
    image, report = draw.standard_normal((2, 6, 4))
    return image, report, [f"pair {i}" for i in range(6)]


def test_numbers_come_back_with_their_provenance(tmp_path):
    results.save(tmp_path / "n.json", {"recall": np.float64(0.5), "ranks": np.arange(3)}, seed=3)
    record = results.load(tmp_path / "n.json")
    assert record["values"] == {"recall": 0.5, "ranks": [0, 1, 2]}
    assert record["provenance"]["seed"] == 3
    assert {"git", "dirty", "packages", "device", "peak_memory_gb"} <= set(record["provenance"])


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        results.save(tmp_path / "n.json", {"recall": float("nan")})
    assert not (tmp_path / "n.json").exists()


def test_missing_numbers_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the notebook"):
        results.load(tmp_path / "n.json")


def test_numbers_are_current_only_for_the_same_inputs(tmp_path):
    path = tmp_path / "n.json"
    assert not results.is_current(path, {"mcr": "1"})
    results.save(path, 1, inputs={"mcr": "1"})
    assert results.is_current(path, {"mcr": "1"})
    assert not results.is_current(path, {"mcr": "2"})
    assert not results.is_current(path, {"mcr": "1", "abm": "1"})


def test_a_file_is_written_only_when_its_bytes_change(tmp_path):
    path = tmp_path / "folder" / "file"
    write(path, b"one")
    os.utime(path, (1, 1))
    write(path, b"one")
    assert path.stat().st_mtime == 1
    write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [f.name for f in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 1e-6), (np.float16, 1e-3)])
def test_embeddings_come_back_as_unit_rows_in_any_order(tmp_path, rows, dtype, error):
    image, report, ids = rows
    path = tmp_path / "embeddings-test.npz"
    results.save_embeddings(path, image, report, ids, dtype)
    back, _ = results.load_embeddings(path, ids[::-1])
    unit = image / np.linalg.norm(image, axis=1, keepdims=True)
    np.testing.assert_allclose(back, unit[::-1], atol=error)
    assert back.dtype == np.float32


def test_embeddings_of_other_pairs_or_not_finite_are_refused(tmp_path, rows):
    image, report, ids = rows
    path = tmp_path / "embeddings-test.npz"
    results.save_embeddings(path, image, report, ids)
    with pytest.raises(ValueError, match="other pairs"):
        results.load_embeddings(path, [*ids[:5], "another"])
    np.savez(path, image=image, pair_id=ids)
    with pytest.raises(ValueError, match="lacks report"):
        results.load_embeddings(path, ids)
    image[2, 1] = np.nan
    results.save_embeddings(path, image, report, ids)
    with pytest.raises(ValueError, match="'image' is not a finite matrix"):
        results.load_embeddings(path, ids)


def test_a_user_s_method_joins_the_models_of_a_run(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="make embed RUN=mine"):
        results.embedding_files("mine")
    for name in ("tfidf-seed0", "mcr-seed0", "mcr-seed10", "mcr-seed2", "dual-seed0"):
        results.save_embeddings(tmp_path / f"results/mine/{name}/embeddings-test.npz", *rows)
    names = ["mcr-seed0", "mcr-seed2", "mcr-seed10", "dual", "tfidf"]
    assert list(results.embedding_files("mine")) == names
    seeds = by_variant(results.embedding_files("mine"))
    assert [len(files) for files in seeds.values()] == [3, 1, 1]
    assert set(results.input_hashes("mine")) == set(results.embedding_files("mine"))


def test_text_in_a_table_stays_text(tmp_path):
    frame = pd.DataFrame({"text": EVIL, "n": 1.0} | dict.fromkeys(EVIL, "x"))
    tables.save_table(tmp_path / "table", frame, "100 % of a_b & c {" + "".join(EVIL))
    with open(tmp_path / "table.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert len(rows) == len(EVIL)
    for cell in [*head, *(row[0] for row in rows)]:
        assert cell[:1] not in ("=", "+", "-", "@") and cell.isprintable()
    latex = (tmp_path / "table.tex").read_text()
    assert r"\input" not in latex and "\x1b" not in latex and "\x00" not in latex
    assert r"100 \% of a\_b \& c \{" in latex
    assert r"\toprule" in latex


def test_the_best_of_each_group_is_bold(tmp_path):
    frame = pd.DataFrame({"model": ["a", "b", "ceiling"] * 2, "direction": [0, 0, 0, 1, 1, 1]})
    frame["R@1"] = ["9.0 [1, 20]", "10.0 ± 2", "99.0", "3.0", "3.0", "1.0"]
    frame["median rank"] = ["4", "12", "1", "2", "1.5", "1"]
    tables.save_table(tmp_path / "table", frame, "c", {"R@1": 1, "median rank": -1})
    latex = (tmp_path / "table.tex").read_text()
    bold = [part.partition("}")[0] for part in latex.split(r"\textbf{")[1:]]
    assert bold == ["4", "10.0 ± 2", "3.0", "3.0", "1.5"]
    tables.save_table(tmp_path / "plain", frame, "c")
    assert "textbf" not in (tmp_path / "plain.tex").read_text()


def evaluated(value, low=0.0, high=1.0):
    cell = {"value": value, "low": low, "high": high}
    ways = {key: {"pair": {"R@1": cell, "median_rank": cell}} for key in tables.DIRECTION_LABELS}
    labels = {key: {"precision@10": value, "mAP": value} for key in tables.DIRECTION_LABELS}
    return {"pool": 7, "resampled": "patients", "labels": labels} | ways


def test_several_seeds_become_their_mean_and_deviation():
    runs = {"mcr-seed0": evaluated(0.2), "mcr-seed1": evaluated(0.4), "abm": evaluated(0.3)}
    shown = over_seeds(runs)
    assert shown["abm"] == evaluated(0.3) | {"seeds": 1}
    assert {shown["mcr"][name] for name in ("pool", "resampled", "seeds")} == {7, "patients", 2}
    cell = shown["mcr"]["image_to_report"]["pair"]["R@1"]
    deviation = np.std([0.2, 0.4], ddof=1)
    assert [*cell.values()] == pytest.approx([0.3, 0.3 - deviation, 0.3 + deviation])
    table = tables.recall_table(shown)
    assert table["R@1"].tolist() == ["30.0 ± 14.1"] * 2 + ["30.0 [0.0, 100.0]"] * 2
    assert table["mAP"].tolist() == ["30.0"] * 4


def test_verdicts_are_no_formulas(tmp_path):
    found = {"difference": -0.05, "low": -0.1, "high": 0.0, "p": 0.04, "no_loss": False}
    about = {"variants": ["mcr", "dual"], "primary": True, "seeds": 1, "verdict": "worse"}
    rows = [about | found | {"detectable": 0.06}, about | {"seeds": 0, "primary": False}]
    del rows[1]["verdict"]
    table = tables.verdict_table(rows)
    assert table["difference"].tolist() == ["−5.0 [−10.0, 0.0]", ""]
    assert table["verdict"].tolist() == ["worse", "no seed in common"]
    assert table["comparison"].tolist() == ["mcr − dual (primary)", "mcr − dual"]
    tables.save_table(tmp_path / "table", table, "c")
    assert "'" not in (tmp_path / "table.csv").read_text()


def test_pairs_prepared_anew_are_not_taken_for_those_of_a_run(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "smoke").symlink_to(dataset.folder)
    assert len(results.dataset_of_run("smoke").frame) == len(dataset.frame)
    results.save(tmp_path / "results/smoke/data.json", {"dataset": dataset.info})
    assert len(results.dataset_of_run("smoke").frame) == len(dataset.frame)
    other = {"sha256": dataset.info["sha256"] | {"manifest.parquet": "another"}}
    results.save(tmp_path / "results/smoke/data.json", {"dataset": other})
    with pytest.raises(ValueError, match="is not the data that results/smoke was made from"):
        results.dataset_of_run("smoke")


def test_a_run_stands_beside_the_reference_with_both_pools(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path)

    def evaluated(pool, share):
        number = {"R@10": {"value": share, "low": 0.0, "high": 1.0}}
        return {"pool": pool} | {
            direction: {"pair": number} for direction in tables.DIRECTION_LABELS
        }

    ours = {"mcr-seed0": evaluated(40, 0.2), "mcr-seed1": evaluated(40, 0.4)}
    theirs = {"mcr-seed0": evaluated(500, 0.7), "abm-seed0": evaluated(500, 0.6)}
    for run, values in (("demo", ours), ("reference", theirs)):
        results.save(tmp_path / "results" / run / "retrieval.json", values)
    table = compare("demo")
    assert table.columns.tolist()[2:] == ["demo, pool of 40", "reference, pool of 500"]
    assert table["model"].tolist() == ["mcr", "mcr"]
    assert table.iloc[:, 2:].to_numpy().tolist() == [[30.0, 70.0]] * 2


def test_relative_paths_are_the_project_s_from_every_folder(tmp_path, monkeypatch):
    """As in the README's example, run in a notebook."""
    project = tmp_path / "project"
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(config, "ROOT", project)
    monkeypatch.chdir(tmp_path / "notebooks")
    rows = np.eye(3)
    file = "results/demo/mine-seed0/embeddings-test.npz"
    results.save_embeddings(file, rows, rows, ["a", "b", "c"])
    assert (project / file).is_file()
    image, report = results.load_embeddings(file, ["c", "a", "b"])
    np.testing.assert_array_equal(image, rows[[2, 0, 1]])
    np.testing.assert_array_equal(report, image)
    results.save("results/demo/numbers.json", {"one": 1}, inputs={"x": "y"})
    assert results.load("results/demo/numbers.json")["values"] == {"one": 1}
    assert results.is_current("results/demo/numbers.json", {"x": "y"})
    assert not [*(tmp_path / "notebooks").iterdir()]
