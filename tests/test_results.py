"""Numbers on disk: kept with what made them, harmless in every program that opens them."""

import csv
import os

import numpy as np
import pandas as pd
import pytest

from mcrlib import config, results

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
    assert not results.current(path, {"mcr": "1"})
    results.save(path, 1, inputs={"mcr": "1"})
    assert results.current(path, {"mcr": "1"})
    assert not results.current(path, {"mcr": "2"})
    assert not results.current(path, {"mcr": "1", "abm": "1"})


def test_a_file_is_written_only_when_its_bytes_change(tmp_path):
    path = tmp_path / "folder" / "file"
    results.write(path, b"one")
    os.utime(path, (1, 1))
    results.write(path, b"one")
    assert path.stat().st_mtime == 1
    results.write(path, b"two")
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
    image[2, 1] = np.nan
    results.save_embeddings(path, image, report, ids)
    with pytest.raises(ValueError, match="'image' is not a finite matrix"):
        results.load_embeddings(path, ids)


def test_a_user_s_method_joins_the_models_of_a_run(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match="make embed RUN=mine"):
        results.trained("mine")
    for name in ("tfidf-seed0", "mcr-seed0", "mcr-seed1", "dual-seed0"):
        results.save_embeddings(tmp_path / f"results/mine/{name}/embeddings-test.npz", *rows)
    assert list(results.trained("mine")) == ["mcr-seed0", "mcr-seed1", "dual", "tfidf"]
    assert set(results.inputs("mine")) == set(results.trained("mine"))


def test_text_in_a_table_stays_text(tmp_path):
    results.save_table(
        tmp_path / "table", pd.DataFrame({"text": EVIL, "n": 1.0}), "100 % of a_b & c"
    )
    with open(tmp_path / "table.csv", newline="") as file:
        cells = [row[0] for row in csv.reader(file)][1:]
    assert len(cells) == len(EVIL)
    assert not any(cell[:1] in "=+-@" for cell in cells)
    assert not any(c in "".join(cells) for c in "\x00\x1b")
    latex = (tmp_path / "table.tex").read_text()
    assert r"\input" not in latex
    assert r"100 \% of a\_b \& c" in latex
    assert r"\toprule" in latex
