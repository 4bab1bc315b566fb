"""The benchmarks as a whole: what is saved, what is measured again, and what the tables show."""

import json
import subprocess
from pathlib import Path

import epoch
import full_size
import measured
import pytest
import run
import saved
import tables
import torch
from saved import Saved

from mcrlib import config

ROOT = Path(__file__).parents[1]


def one_row(name, ratios=(2.0, 1.5, 3.0)):
    return measured.row(name, "what", "rival", list(ratios), 1)


def saved_rows(file):
    return json.loads(file.read_text())["values"]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, capsys):
    file = tmp_path / "bench.json"
    calls = []

    def first():
        calls.append("first")
        return [one_row("1"), one_row("1 too")]

    def second():
        calls.append("second")
        if calls.count("second") == 1:
            raise KeyboardInterrupt
        return [one_row("2")]

    in_order = {"one": first, "two": second}
    with pytest.raises(KeyboardInterrupt):
        run.measure_all(in_order, Saved(file, "abc"))
    assert not file.exists()
    assert "skipped" not in capsys.readouterr().out

    run.measure_all(in_order, Saved(file, "abc"))
    assert calls == ["first", "second", "second"]
    assert "skipped: one." in capsys.readouterr().out
    assert [row["id"] for row in saved_rows(file)] == ["1", "1 too", "2"]
    assert {row["code"] for row in saved_rows(file)} == {"abc"}
    assert not file.with_suffix(".partial.json").exists()

    # All is there: nothing is measured again, and other code begins anew.
    run.measure_all(in_order, Saved(file, "abc"))
    assert len(calls) == 3
    run.measure_all(in_order, Saved(file, "other"))
    assert len(calls) == 5
    assert {row["code"] for row in saved_rows(file)} == {"other"}


def test_rows_of_different_code_are_never_mixed(tmp_path):
    file = tmp_path / "bench.json"
    Saved(file, "abc").add("one", [one_row("1")], 3.0)
    with pytest.raises(SystemExit, match=r"bench\.partial\.json holds rows of the code abc"):
        Saved(file, "abd")
    # Outside git nobody knows whether the code is the same.
    file.with_suffix(".partial.json").unlink()
    Saved(file, "unknown").add("one", [one_row("1")], 3.0)
    with pytest.raises(SystemExit, match="unknown"):
        Saved(file, "unknown")


def test_rows_are_saved_in_the_given_order(tmp_path):
    file = tmp_path / "bench.json"
    kept = Saved(file, "abc")
    for name in ("b", "a"):
        kept.add(name, [one_row(name)], 1.0)
    kept.finish(["a", "b"])
    assert [row["id"] for row in saved_rows(file)] == ["a", "b"]


def test_the_code_s_version_changes_with_the_code_and_not_with_results(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path)
    assert saved.code_version() == "unknown"

    def git(*words):
        author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *author, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "results").mkdir()
    for name in ("code.py", "results/bench.json", "README.md"):
        (tmp_path / name).write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit = saved.code_version()
    assert len(commit) >= 12
    (tmp_path / "results/bench.json").write_text("2")
    (tmp_path / "README.md").write_text("2")
    assert saved.code_version() == commit
    (tmp_path / "code.py").write_text("2")
    changed = saved.code_version()
    assert changed.startswith(f"{commit}+")
    (tmp_path / "code.py").write_text("3")
    assert saved.code_version() not in (commit, changed)


def test_the_readme_shows_the_saved_rows(monkeypatch):
    monkeypatch.setattr(config, "ROOT", ROOT)
    text = tables.README.read_text()
    assert tables.with_tables(text) == text


def test_a_table_names_the_code_of_its_rows_and_what_is_missing():
    rows = []
    for name, code in [("1", "abc"), ("1", "abc"), ("2", "abc")]:
        rows.append({**one_row(name), "benchmark": name, "code": code})
    provenance = {"device": "CPU", "seconds": {"1": 100.0, "2": 80.0}}
    record = {"values": rows, "provenance": provenance}
    one_code = tables.section("bench.json", record)
    assert "Measured at `abc` on CPU in 3 minutes." in one_code
    assert "Still to be measured: `epoch`" in one_code
    assert "| 1 | what | rival | 2 [1.5, 3] | 1 | met |" in one_code

    rows[2]["code"] = "def"
    two_codes = tables.section("bench.json", record)
    assert "**Measured with different code**" in two_codes
    assert "`abc` rows 1; `def` rows 2" in two_codes


def test_every_benchmark_of_this_machine_has_its_place():
    known = run.benchmarks()
    ordered = saved.ORDER[saved.CPU_FILE]
    assert len(set(ordered)) == len(ordered)
    assert set(ordered) <= set(known)
    by_name_only = {"12", *full_size.ROWS}
    assert set(known) - set(ordered) == by_name_only


def test_an_unknown_benchmark_is_refused_with_the_known_ones():
    with pytest.raises(SystemExit, match=r"Unknown benchmark: 99\. Choose from 1, 2"):
        run.main(["99"])


def test_an_epoch_is_measured_with_the_loader_and_without(monkeypatch):
    tiny = {"vision_width": 32, "vision_depth": 1, "text_width": 32, "text_depth": 1}
    monkeypatch.setattr(epoch, "SIZES", epoch.SMALL | tiny)
    monkeypatch.setattr(epoch, "CACHED_PAIRS", 512)
    monkeypatch.setattr(epoch, "LOADED_BATCHES", 1)
    monkeypatch.setattr(epoch, "BATCH", 8)
    monkeypatch.setattr(epoch, "STEPS", 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loading, training = epoch.rows(loader_rounds=1, epoch_rounds=1)
    torch.set_num_threads(threads)
    assert 0.1 < loading["ratio"] < 100
    assert 0.1 < training["ratio"] < 10
