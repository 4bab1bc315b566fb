"""Numbers on disk: kept with what made them, harmless in every program that opens them."""

import csv
import io
import json
import math
import os
import resource
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcrlib import config, plots, results, tables
from mcrlib.companion import analyses, captions, explorer
from mcrlib.companion.compare import compare, main
from mcrlib.companion.top3 import Question, find_top3
from mcrlib.evaluation import findings, retrieval
from mcrlib.evaluation.seeds import by_variant, over_seeds
from mcrlib.files import sha256, write

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


def npy_header(shape, descr):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return header.getvalue()


def archive(path, **members):
    """An `.npz` with these bytes, compressed, as its members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_a_small_file_that_declares_large_arrays_is_refused_unread(tmp_path):
    path = tmp_path / "bomb.npz"
    zeros = bytes(300_000_000)
    ids = npy_header((2**21,), "<U1") + zeros[: 2**23]
    rows = npy_header((2**21, 1024), "<f4") + zeros
    archive(path, image=rows, report=rows, pair_id=ids)
    del zeros, rows, ids
    before = peak_mb()
    with pytest.raises(ValueError, match=r"declares arrays of 16\.0 GB, and at most 4 GB are read"):
        results.load_embeddings(path)
    assert peak_mb() < before + 50
    archive(path, image=b"", report=b"", pair_id=npy_header((2**40, 3), "<U99"))
    with pytest.raises(ValueError, match="damaged or not an archive"):
        results.load_embeddings(path)


def test_what_is_no_archive_of_embeddings_is_one_sentence(tmp_path, rows):
    path = tmp_path / "embeddings-test.npz"
    results.save_embeddings(path, *rows)
    good = path.read_bytes()
    for content in (b"", b"text", good[:-30], good[: len(good) // 2], good[:300]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged or not an archive of arrays"):
            results.load_embeddings(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="embed its pairs first"):
        results.load_embeddings(path)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_in_a_sentence_or_changes_nothing(tmp_path, rows, place, bit):
    path = tmp_path / "embeddings-test.npz"
    results.save_embeddings(path, *rows)
    expected = results.load_embeddings(path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        found = results.load_embeddings(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        np.testing.assert_array_equal(found, expected)


def test_rows_and_columns_that_do_not_match_are_refused(tmp_path, rows):
    image, report, ids = rows
    path = tmp_path / "embeddings-test.npz"
    results.save_embeddings(path, image, report[:, :3], ids)
    with pytest.raises(ValueError, match="'image' has 4 columns but 'report' has 3"):
        results.load_embeddings(path)
    results.save_embeddings(path, image[:5], report, ids)
    with pytest.raises(ValueError, match="'image' is not a finite matrix with one row per pair"):
        results.load_embeddings(path)
    for wrong in (image.astype(complex), image.astype(str), image[0]):
        np.savez(path, image=wrong, report=report, pair_id=ids)
        with pytest.raises(ValueError, match="'image' is not a finite matrix"):
            results.load_embeddings(path)
    for wrong in (np.array([ids]), np.arange(6)):
        np.savez(path, image=image, report=report, pair_id=wrong)
        with pytest.raises(ValueError, match="'pair_id' is not a list of texts"):
            results.load_embeddings(path)


@given(
    row=st.integers(0, 5),
    value=st.sampled_from([0.0, 1e-13, 1e-30, 1e25, 3e38, 1e200]),
    side=st.sampled_from(["image", "report"]),
)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_row_without_a_direction_is_refused(tmp_path, rows, row, value, side):
    matrices = {"image": rows[0].copy(), "report": rows[1].copy()}
    matrices[side][row] = value
    path = tmp_path / "embeddings-test.npz"
    np.savez(path, pair_id=rows[2], **matrices)
    with pytest.raises(ValueError, match=f"{side!r} (has 1 rows without a direction|is not a fin)"):
        results.load_embeddings(path)


@pytest.fixture
def prepared(tmp_path, dataset, monkeypatch):
    """A home with a copy of the smoke run's description, which a test may change."""
    monkeypatch.setattr(config, "ROOT", tmp_path)
    shutil.copytree(dataset.folder, tmp_path / "data" / "smoke")

    def change(digest):
        file = tmp_path / "data" / "smoke" / "dataset.json"
        info = json.loads(file.read_text())
        info["dataset_sha256"] = digest
        file.write_text(json.dumps(info))

    return change


def test_embeddings_of_other_reports_are_refused_in_every_analysis(
    prepared, tmp_path, dataset, rows
):
    """As after the table's reports were replaced under the same ids."""
    file = tmp_path / "results/smoke/mcr-seed0/embeddings-test.npz"
    hashes = {"dataset": dataset.info["dataset_sha256"][:16]}
    results.save_embeddings(file, *rows, made_from=hashes)
    results.save_embeddings(file.with_name("embeddings-validate.npz"), *rows, made_from=hashes)
    before = results.input_hashes("smoke")
    assert set(before) == {"mcr", "dataset"}
    prepared("f" * 64)
    uses = [
        lambda: analyses.retrieve("smoke"),
        lambda: analyses.score_texts("smoke"),
        lambda: analyses.measure_gaps("smoke"),
        lambda: find_top3("smoke"),
        lambda: find_top3("smoke", Question(seed=3)),
        lambda: explorer.search("effusion?", run="smoke"),
    ]
    for use in uses:
        with pytest.raises(ValueError, match=r"made from other images or reports .* `make embed"):
            use()


def test_a_stale_baseline_is_made_anew_by_its_own_command(prepared, tmp_path, dataset, rows):
    file = tmp_path / "results/smoke/tfidf-seed0/embeddings-test.npz"
    hashes = {"dataset": dataset.info["dataset_sha256"][:16]}
    results.save_embeddings(file, *rows, made_from=hashes)
    prepared("f" * 64)
    with pytest.raises(ValueError, match=r"other images or reports .* `make baseline RUN=smoke`"):
        analyses.retrieve("smoke")


def test_numbers_of_others_embeddings_are_not_current_for_other_reports(prepared, tmp_path, rows):
    results.save_embeddings(tmp_path / "results/smoke/theirs/embeddings-test.npz", *rows)
    before = results.input_hashes("smoke")
    numbers = tmp_path / "results/smoke/retrieval.json"
    results.save(numbers, 1, inputs=before)
    assert results.is_current(numbers, results.input_hashes("smoke"))
    prepared("f" * 64)
    assert not results.is_current(numbers, results.input_hashes("smoke"))


def test_numbers_are_redrawn_without_the_prepared_data(prepared, tmp_path, dataset, rows):
    results.save_embeddings(tmp_path / "results/smoke/theirs/embeddings-test.npz", *rows)
    results.save(tmp_path / "results/smoke/data.json", {"dataset": dataset.info})
    before = results.input_hashes("smoke")
    shutil.rmtree(tmp_path / "data")
    assert results.input_hashes("smoke") == before


def test_embeddings_of_another_model_are_refused(prepared, tmp_path, rows):
    folder = tmp_path / "results/smoke/mcr-seed0"
    model = folder / "checkpoint/final/model.safetensors"
    write(model, b"one model")
    digest = sha256(model)
    results.save_embeddings(folder / "embeddings-test.npz", *rows, made_from={"model": digest})
    results.input_hashes("smoke")
    write(model, b"trained anew")
    with pytest.raises(ValueError, match=r"was made by another model .* remove .* `make embed"):
        results.input_hashes("smoke")
    shutil.rmtree(folder / "checkpoint")
    results.input_hashes("smoke")


def test_embeddings_say_what_they_were_made_from(build, dataset, tmp_path, monkeypatch):
    model = build()
    monkeypatch.setattr(config, "ROOT", tmp_path)
    weights = model.config.folder / "checkpoint/final"
    model.save_pretrained(weights)
    analyses.embed(model, model.config, dataset, "test")
    assert results.made_from(model.config.folder / "embeddings-test.npz") == {
        "dataset": dataset.info["dataset_sha256"][:16],
        "model": sha256(weights / "model.safetensors"),
    }


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


def test_a_measure_that_some_seeds_do_not_have_is_the_mean_of_the_others():
    undefined = {"value": None, "low": None, "high": None, "left_out": 7}
    defined = {"value": 0.2, "low": 0.1, "high": 0.3, "left_out": 5}
    runs = {"mcr-seed0": {"m": undefined, "curve": [0.0, 1.0]}}
    runs["mcr-seed1"] = {"m": defined, "curve": [1.0, 1.0]}
    shown = over_seeds(runs)["mcr"]
    assert shown["m"] == {"value": 0.2, "low": 0.2, "high": 0.2, "left_out": 6}
    assert shown["curve"] == [0.5, 1.0]
    runs["mcr-seed1"] = runs["mcr-seed0"]
    assert over_seeds(runs)["mcr"]["m"] == undefined


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


def test_a_run_stands_beside_the_reference_with_both_pools_and_its_seeds(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(config, "ROOT", tmp_path)

    def evaluated(pool, share):
        number = {"R@10": {"value": share, "low": 0.0, "high": 1.0}}
        return {"pool": pool} | {
            direction: {"pair": number} for direction in tables.DIRECTION_LABELS
        }

    ours = {"mcr-seed0": evaluated(40, 0.2), "mcr-seed1": evaluated(40, 0.4)}
    theirs = {
        "mcr-seed0": evaluated(500, 0.65),
        "mcr-seed1": evaluated(500, 0.75),
        "abm-seed0": evaluated(500, 0.6),
    }
    for run, values in (("demo", ours), ("reference", theirs)):
        results.save(tmp_path / "results" / run / "retrieval.json", values)
    table = compare("demo")
    assert table.columns.tolist()[2:] == ["demo, pool of 40", "reference, pool of 500", "deviation"]
    assert table["model"].tolist() == ["mcr", "mcr"]
    assert table.iloc[:, 2:].to_numpy().tolist() == [[30.0, 70.0, 7.1]] * 2
    main("demo")
    assert "more than two of them off the reference" in capsys.readouterr().out


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


@pytest.mark.parametrize("pool", [1, 3, 10, 15, 48, 500])
def test_captions_say_chance_at_every_k_and_which_k_tells(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    rng = np.random.default_rng(0)
    image, report = rng.normal(size=(2, pool, 4))
    results.save_embeddings(
        tmp_path / "results/mine/mcr-seed0/embeddings-test.npz", image, report, range(pool)
    )
    evaluated = {"mcr": retrieval.evaluate(image, report, draws=5)}
    k = retrieval.telling_k(pool)
    numbers = analyses.Numbers(evaluated, {"labels": "none"})
    found = analyses.Retrieval(numbers, analyses.Numbers([], {"k": k}))
    chance = ", ".join(f"{100 * min(1, at / pool):.3g}" for at in (1, 5, 10))
    caption = captions.recall("mine", found, "pair")
    assert f"chance is {chance} % at K = 1, 5, 10" in caption
    assert f"test pool of {pool} {'pair' if pool == 1 else 'pairs'}," in caption
    assert (f"go by K = {k}" in caption) == (2 < pool <= 20)
    assert ("no recall tells much" in caption) == (pool <= 2)
    assert f"mean Recall@{k} of both" in captions.verdicts("mine", found)
    assert len(tables.recall_table(found.by_variant)) == 2
    plots.recall_bars(found.by_variant)


@pytest.mark.parametrize("pool", [1, 2, 3, 10, 12, 20, 21, 500])
def test_only_recalls_at_a_k_that_tells_are_bold(pool):
    best = tables.best_recall(pool)
    recalls = [name for name in best if name.startswith("R@")]
    assert recalls == [f"R@{k}" for k in (1, 5, 10) if k < pool / 2]
    assert ("precision@10" in best) == (pool > 20)
    assert {"median rank", "mAP"} <= set(best)


@pytest.mark.parametrize(("pool", "k"), [(40, 10), (12, 5), (8, 1)])
def test_a_small_run_is_compared_with_the_reference_at_a_k_that_tells(
    pool, k, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    rng = np.random.default_rng(0)
    expected = []
    for run, size in (("table", pool), ("reference", 500)):
        values = retrieval.evaluate(*rng.normal(size=(2, size, 4)), draws=5)
        results.save(tmp_path / "results" / run / "retrieval.json", {"mcr-seed0": values})
        expected.append(100 * values["image_to_report"]["pair"][f"R@{k}"]["value"])
    table = compare("table")
    assert table.iloc[0, 2:4].tolist() == pytest.approx(expected, abs=0.05)
    assert math.isnan(table["deviation"].iloc[0])
    main("table")
    printed = capsys.readouterr().out
    assert "one seed" in printed and "more than two of them off" not in printed
    assert f"Recall@{k} in %" in printed
    assert f"Chance: {100 * k / pool:.1f} (table) and {100 * k / 500:.1f} (reference)" in printed


def test_verdicts_record_the_k_that_they_were_read_at(prepared, tmp_path):
    frame = results.dataset_of_run("smoke").frame
    ids = frame["pair_id"][frame["split"] == "test"]
    for seed, model in enumerate(("mcr", "dual")):
        image, report = np.random.default_rng(seed).normal(size=(2, len(ids), 4))
        file = tmp_path / f"results/smoke/{model}-seed0/embeddings-test.npz"
        results.save_embeddings(file, image, report, ids)
    first = analyses.retrieve("smoke", draws=10)
    inputs = first.verdicts.provenance["inputs"]
    assert inputs == first.recall.provenance["inputs"] | {"k": "10"}
    file = tmp_path / "results/smoke/verdicts.json"
    results.save(file, ["read at another K"], inputs=inputs | {"k": "5"})
    assert analyses.retrieve("smoke", draws=10).verdicts.values == first.verdicts.values


def test_numbers_that_rest_on_the_findings_rules_record_them(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(findings, "rules_digest", lambda: "the rules as they were")
    test = results.dataset_of_run("smoke")
    ids = test.frame["pair_id"].iloc[test.indices("test")]
    image, report = np.random.default_rng(0).normal(size=(2, len(ids), 4))
    folder = tmp_path / "results/smoke"
    results.save_embeddings(folder / "mcr-seed0/embeddings-test.npz", image, report, ids)
    inputs = results.input_hashes("smoke") | {"depth": "10", "nearest": "50"}
    inputs["ceiling"] = "own report first"
    results.save(folder / "text_metrics.json", [], inputs=inputs)  # current: needs no Java

    for digest in ("the rules as they were", "other rules"):
        monkeypatch.setattr(findings, "rules_digest", lambda now=digest: now)
        analyses.score_texts("smoke")
        find_top3("smoke")
        for name in ("agreement", "top3"):
            provenance = results.load(folder / f"{name}.json")["provenance"]
            assert provenance["inputs"]["findings"] == digest
    assert len(findings.rules_digest()) > 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b'{"values": 1}', b"<<<<<<< HEAD\n{}"]
)
def test_a_damaged_file_of_numbers_is_named_and_not_current(tmp_path, content):
    path = tmp_path / "recall.json"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=r"recall\.json is damaged or not a file of numbers"):
        results.load(path)
    assert not results.is_current(path, {})


def test_numbers_that_json_cannot_hold_name_the_file_and_leave_it_as_it_was(tmp_path):
    path = tmp_path / "recall.json"
    results.save(path, {"R@1": 1.0})
    before = path.read_bytes()

    with pytest.raises(ValueError, match=r"recall\.json cannot be written: .*nan"):
        results.save(path, {"R@1": float("nan")})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pair_id": "abc"}, "pair_id must be a list .* got a str"),
        ({"pair_id": None}, "pair_id must be a list .* got a NoneType"),
        ({"pair_id": ["a", "a", "b"]}, "name each pair once"),
        ({"pair_id": ["a", None, "b"]}, "that of row 1 is missing"),
        ({"pair_id": ["a", float("nan"), "b"]}, "that of row 1 is missing"),
        ({"image": None}, "image must be a matrix"),
        ({"report": [[1.0], [1.0, 2.0]]}, "report must be a matrix"),
        ({"image": np.full((3, 3), "1")}, "image must be a matrix"),
    ],
)
def test_what_is_no_embedding_is_refused_before_it_is_saved(tmp_path, change, message):
    file = tmp_path / "embeddings-test.npz"
    given = {"image": np.eye(3), "report": np.eye(3), "pair_id": ["a", "b", "c"]} | change
    with pytest.raises(ValueError, match=message):
        results.save_embeddings(file, **given)
    assert not file.exists()
    results.save_embeddings(file, np.eye(3), np.eye(3), (name for name in "abc"))
    assert len(results.load_embeddings(file, ["c", "b", "a"])[0]) == 3
