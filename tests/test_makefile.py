"""make as users call it: names are checked before anything runs, values are never executed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mcrlib import config

ROOT = Path(__file__).parents[1]
# Takes Python's place, and prints its environment variables and its arguments.
ECHO = """#!/bin/sh
printf '%s\\n' "STYLE=<$MCR_STYLE>" "DATA=<$DATA>" "SET=<$SET>" "BOXES=<$BOXES>" >> "$LOG"
printf '%s\\n' "RUN=<$RUN>" "$@" >> "$LOG"
"""


@pytest.fixture
def project(tmp_path):
    """The Makefile alone in a folder with an awkward name, with a Python that only echoes."""
    folder = tmp_path / "a 'clone' of $mine"
    binaries = tmp_path / "bin"
    for new in (folder, binaries):
        new.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("data", "results", "figures"):
        (folder / name / "reference").mkdir(parents=True)
        (folder / name / "smoke").mkdir()
    (binaries / "python").write_text(ECHO)
    (binaries / "python").chmod(0o755)

    def make(*words):
        environment = os.environ | {
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "VIRTUAL_ENV": str(tmp_path),
            "LOG": str(tmp_path / "log"),
        }
        environment.pop("MAKEFLAGS", None)
        done = subprocess.run(
            ["make", *words], cwd=folder, env=environment, capture_output=True, text=True
        )
        log = tmp_path / "log"
        return done, log.read_text() if log.exists() else ""

    make.folder = folder
    return make


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_runs_are_those_of_the_configuration():
    (line,) = (line for line in (ROOT / "Makefile").read_text().splitlines() if "RUNS " in line)
    names = line.split(":=")[1].split()
    assert names == ["smoke", "demo", "digits", "table", "openi", "mimic", "reference"]
    assert set(names) == set(config.RUNS)


@pytest.mark.parametrize(
    "run", ["", "demmo", "../../x", "reference/", "a b", "smoke demo", "%", "."]
)
@pytest.mark.parametrize("target", ["clean", "data", "reproduce", "03_retrieval"])
def test_an_unknown_run_is_refused_and_nothing_is_touched(project, run, target):
    before = everything(project.folder.parent)
    done, log = project(target, f"RUN={run}")
    assert done.returncode != 0
    assert f"There is no run '{run}'; choose RUN from smoke demo" in done.stderr
    assert everything(project.folder.parent) == before and not log


@pytest.mark.parametrize("word", ["VARIANTS=", "SEEDS= "])
@pytest.mark.parametrize("target", ["train", "embed", "reproduce"])
def test_a_run_of_no_model_is_refused(project, target, word):
    """make had nothing to do, and said so as if all were well."""
    done, log = project(target, "RUN=smoke", word)
    assert done.returncode != 0 and not log
    assert "the default is" in done.stderr


def test_clean_removes_one_run_and_never_the_reference(project):
    done, _ = project("clean", "RUN=reference")
    assert done.returncode != 0 and "not removed" in done.stdout
    done, _ = project("clean", "RUN=smoke")
    assert done.returncode == 0
    for name in ("data", "results", "figures"):
        assert [path.name for path in (project.folder / name).iterdir()] == ["reference"]


@pytest.mark.parametrize(
    "value",
    [
        "/data/my set/pairs.csv",
        '/data/it\'s "here"',
        'epochs: 3}" ; touch harm; "',
        "/data/$HOME/`touch harm`",
        "$(shell touch harm)",
        "epochs: 3, lr: 1.0e-4  # a comment",
    ],
)
def test_paths_and_settings_arrive_as_typed_and_run_no_command(project, value):
    done, log = project("data", "RUN=smoke", f"DATA={value}", f"SET={value}")
    assert done.returncode == 0, done.stderr
    assert f"DATA=<{value}>" in log and f"SET=<{value}>" in log
    assert not [*project.folder.parent.rglob("harm")]


def test_a_peer_gets_its_name_and_weights_as_typed(project):
    weights = "/models/it's $HOME `touch harm`"
    done, log = project("peer", "RUN=smoke", "NAME=pubmedclip", f"WEIGHTS={weights}")
    assert done.returncode == 0, done.stderr
    assert log.endswith(f"mcrlib.companion.peers\nsmoke\npubmedclip\n{weights}\n")
    assert not [*project.folder.parent.rglob("harm")]


def test_boxes_arrive_as_typed(project):
    boxes = "/data/it's $HOME `touch harm`.csv"
    done, log = project("10_grounding", "RUN=smoke", f"BOXES={boxes}")
    assert done.returncode == 0, done.stderr
    assert "10_grounding.ipynb run boxes" in log.replace("\n", " ") and f"BOXES=<{boxes}>" in log


@pytest.mark.parametrize("target", ["train", "embed"])
def test_a_finished_model_is_checked_before_make_takes_it_as_it_is(project, target):
    """make compares names only: `SET='epochs: 50'` on a finished model was taken as done."""
    for name in ("training.json", "embeddings-test.npz"):
        file = project.folder / "results/smoke/mcr-seed0" / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    words = [target, "RUN=smoke", "VARIANTS=mcr", "SET=epochs: 50"]
    done, log = project(*words)
    assert done.returncode == 0
    assert "mcrlib.companion.settled\nsmoke\nmcr\n0\nepochs: 50" in log
    assert "01_train" not in log and "02_embed" not in log
    refusing = ECHO + 'case "$2" in *settled) exit 1;; esac\n'
    (project.folder.parent / "bin/python").write_text(refusing)
    done, _ = project(*words)
    assert done.returncode != 0


@pytest.mark.parametrize("target", ["rehearse", "plan"])
def test_a_rehearsal_and_its_plan_run_no_other_target(project, target):
    value = "/data/it's $HOME"
    done, log = project(target, "RUN=smoke", "VARIANTS=mcr", "SET=epochs: 2", f"DATA={value}")
    assert done.returncode == 0, done.stderr
    assert log.count("RUN=<smoke>") == 1
    assert f"mcrlib.companion.{target}\nsmoke\nmcr\n0\n" in log
    assert f"DATA=<{value}>" in log and log.endswith("epochs: 2\n")


def test_ablations_train_half_of_the_run_then_compare(project):
    listing = ECHO + 'case "$2" in *ablations) echo mcr no-mim;; esac\n'
    (project.folder.parent / "bin/python").write_text(listing)
    value = "/data/it's $HOME"
    done, log = project("ablations", "RUN=smoke", f"DATA={value}")
    assert done.returncode == 0, done.stderr
    calls = log.split("STYLE=")[1:]
    chosen, compared = calls[0], calls[-1]
    assert chosen.endswith(
        "mcrlib.companion.ablations\nsmoke\n"
    )  # the default of VARIANTS is left out
    assert "07_ablations.ipynb" in compared and "RUN=<smoke>" in compared
    assert all("RUN=<half-smoke>" in call and f"DATA=<{value}>" in call for call in calls[1:-1])
    trained = [call for call in calls if "01_train.ipynb" in call]
    assert ["results/half-smoke/executed/01_train-mcr-seed0" in trained[0], len(trained)] == [
        True,
        2,
    ]
    _, log = project("ablations", "RUN=smoke", "VARIANTS=no-mim abm")
    assert "mcrlib.companion.ablations\nsmoke\nno-mim abm\n" in log


def test_nothing_is_trained_if_the_ablations_cannot_be_listed(project):
    refusing = ECHO + 'case "$2" in *ablations) exit 1;; esac\n'
    (project.folder.parent / "bin/python").write_text(refusing)
    done, log = project("ablations", "RUN=reference")
    assert done.returncode != 0 and "01_train" not in log and "07_ablations" not in log


@pytest.mark.parametrize("target", ["tables", "figures"])
def test_ablations_are_drawn_again_only_where_they_were_compared(project, target):
    _, log = project(target, "RUN=smoke")
    assert "03_retrieval" in log and "07_ablations" not in log
    (project.folder / "results" / "smoke" / "ablations.json").touch()
    _, log = project(target, "RUN=smoke")
    assert "07_ablations" in log


@pytest.mark.parametrize("target", ["tables", "figures"])
def test_robustness_is_drawn_again_before_the_claims_only_where_it_was_measured(project, target):
    _, log = project(target, "RUN=smoke")
    assert "13_robustness" not in log
    (project.folder / "results" / "smoke" / "robustness.json").touch()
    _, log = project(target, "RUN=smoke")
    assert "13_robustness" in log
    assert target == "figures" or log.rfind("13_robustness") < log.rfind("12_claims")


def test_robustness_runs_its_notebook_and_trains_nothing(project):
    _, log = project("robustness", "RUN=smoke")
    assert "notebooks/13_robustness.ipynb" in log and log.count("RUN=<smoke>") == 1


def test_clean_removes_the_ablations_but_half_a_run_leaves_the_run_s_data(project):
    for name in ("results", "figures"):
        (project.folder / name / "half-smoke").mkdir()
    project("clean", "RUN=half-smoke")
    assert (project.folder / "data" / "smoke").is_dir()
    assert not (project.folder / "results" / "half-smoke").exists()
    (project.folder / "results" / "half-smoke").mkdir()
    project("clean", "RUN=smoke")
    for name in ("data", "results", "figures"):
        assert [path.name for path in (project.folder / name).iterdir()] == ["reference"]


@pytest.mark.parametrize(("target", "module"), [("status", "status"), ("experiments", "conduct")])
def test_experiments_and_their_status_get_what_was_typed(project, target, module):
    done, log = project(target, "RUN=smoke", "SET=epochs: 2", "ONLY=time memory", "DATA=/a $b")
    assert done.returncode == 0, done.stderr
    assert log.endswith(f"mcrlib.companion.{module}\nsmoke\nepochs: 2\ntime memory\n")
    assert "DATA=</a $b>" in log and log.count("RUN=<smoke>") == 1


def test_the_plan_is_shown_before_a_run_is_reproduced(project):
    _, log = project("reproduce", "RUN=smoke", "VARIANTS=mcr")
    assert "mcrlib.companion.plan\n--if-rehearsed\nsmoke\nmcr\n0" in log.split("00_data")[0]


def test_clean_removes_the_rehearsal_of_a_run_too(project):
    for name in ("data", "results", "figures"):
        for run in ("rehearse-smoke", "rehearse-demo"):
            (project.folder / name / run).mkdir()
    done, _ = project("clean", "RUN=smoke")
    assert done.returncode == 0
    for name in ("data", "results", "figures"):
        left = {folder.name for folder in (project.folder / name).iterdir()}
        assert left == {"reference", "rehearse-demo"}


def test_values_survive_the_nested_makes_of_reproduce(project):
    value = '/data/it\'s $HOME "here"'
    done, log = project("reproduce", "RUN=smoke", "VARIANTS=mcr", f"DATA={value}")
    assert done.returncode == 0, done.stderr
    lines = [line for line in log.splitlines() if line.startswith("DATA=")]
    assert len(lines) > 5 and set(lines) == {f"DATA=<{value}>"}


def test_git_strips_the_outputs_of_a_notebook_that_was_run_in_place(tmp_path):
    """`make lab` sets up the filter, here in a fresh clone."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    # This Python runs nbstripout and nothing else, so that `make lab` starts no server.
    script = f'#!/bin/sh\ncase "$2" in nbstripout) exec "{sys.executable}" "$@";; esac\n'
    (binaries / "python").write_text(script)
    (binaries / "python").chmod(0o755)
    clone = tmp_path / "clone"
    (clone / "notebooks").mkdir(parents=True)
    for name in ("Makefile", ".gitattributes"):
        shutil.copy(ROOT / name, clone)
    cell = nbformat.v4.new_code_cell("print(report)")
    cell.outputs = [nbformat.v4.new_output("stream", text="secret report")]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), clone / "notebooks" / "06.ipynb")
    environment = os.environ | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(tmp_path),
    }
    for command in (["git", "init", "-q"], ["make", "lab"], ["git", "add", "."]):
        subprocess.run(command, cwd=clone, env=environment, check=True, capture_output=True)
    show = ["git", "show", ":notebooks/06.ipynb"]
    staged = subprocess.run(show, cwd=clone, env=environment, capture_output=True, text=True)
    assert "print(report)" in staged.stdout
    assert "secret" not in staged.stdout
    assert "secret" in (clone / "notebooks" / "06.ipynb").read_text()
