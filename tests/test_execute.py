"""Notebooks are run with parameters they have, and a failure is one sentence with the copy kept."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest

from mcrlib.companion import execute
from mcrlib.companion.execute import SOCKETS, main
from mcrlib.config import load


@pytest.fixture
def notebook(tmp_path):
    cells = [
        nbformat.v4.new_code_cell("n = 1\nname = ''", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print('n is', n, repr(name))\nassert n, 'n must not be zero'"),
        nbformat.v4.new_code_cell("object()"),  # shows its address
    ]
    path = tmp_path / "in.ipynb"
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def test_a_parameter_arrives_with_its_type(notebook, tmp_path, capfd):
    assert main([str(notebook), str(tmp_path / "a/out.ipynb"), "n=2.5", "name="]) == 0
    assert "n is 2.5 ''" in capfd.readouterr().out


@pytest.mark.parametrize("name", ["m", "n; import os", "import os\nn", "__class__"])
def test_an_unknown_parameter_is_refused_before_anything_runs(notebook, tmp_path, capfd, name):
    assert main([str(notebook), str(tmp_path / "out.ipynb"), f"{name}=3"]) == 2
    message = capfd.readouterr().err
    assert f"has no parameter {name!r}; it has n, name." in message
    assert not (tmp_path / "out.ipynb").exists()


def test_a_failing_cell_is_one_sentence_and_its_copy_is_kept(notebook, tmp_path, capfd):
    assert main([str(notebook), str(tmp_path / "out.ipynb"), "n=0"]) == 1
    assert "AssertionError: n must not be zero" in capfd.readouterr().err
    assert "n must not be zero" in (tmp_path / "out.ipynb").read_text()


def test_a_missing_notebook_is_named(tmp_path, capfd):
    assert main([str(tmp_path / "none.ipynb"), str(tmp_path / "out.ipynb")]) == 2
    assert "none.ipynb" in capfd.readouterr().err


def test_equal_runs_leave_equal_copies_without_times(notebook, tmp_path):
    for name in ("first", "second"):
        assert main([str(notebook), str(tmp_path / f"{name}.ipynb"), "n=2"]) == 0
    first = (tmp_path / "first.ipynb").read_text()
    assert first == (tmp_path / "second.ipynb").read_text()
    assert "start_time" not in first and str(tmp_path) not in first


def test_a_run_that_succeeds_prints_no_error(notebook, tmp_path, capfd):
    for n in (2, 3):
        assert main([str(notebook), str(tmp_path / "out.ipynb"), f"n={n}"]) == 0
    printed = capfd.readouterr()
    assert "ERROR" not in printed.out + printed.err
    assert "out: " in printed.out and f"executed copy in {tmp_path / 'out.ipynb'}" in printed.out


def test_two_at_once_in_one_folder_do_not_disturb_each_other(notebook, tmp_path):
    """Each has sockets in a folder of its own, which goes with it."""
    command = [sys.executable, "-m", "mcrlib.companion.execute", str(notebook)]
    children = []
    for n in (1, 2, 3):
        arguments = [str(tmp_path / f"{n}.ipynb"), f"n={n}"]
        children.append(subprocess.Popen([*command, *arguments], cwd=tmp_path))
    assert [child.wait() for child in children] == [0, 0, 0]
    for n in (1, 2, 3):
        assert f"n is {n} ''" in (tmp_path / f"{n}.ipynb").read_text()
    assert not [*tmp_path.glob("kernel*")]
    pids = {str(child.pid) for child in children}
    left = [folder.name for folder in Path(tempfile.gettempdir()).glob(f"{SOCKETS}*")]
    assert not [name for name in left if name.removeprefix(SOCKETS).split("-")[0] in pids]


def test_sockets_of_a_killed_run_are_removed_by_the_next(notebook, tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    litter = Path(tempfile.gettempdir()) / f"{SOCKETS}{ended.pid}-left"
    own = Path(tempfile.gettempdir()) / f"{SOCKETS}{os.getpid()}-running"
    for folder in (litter, own):
        folder.mkdir()
    try:
        assert main([str(notebook), str(tmp_path / "out.ipynb"), "n=2"]) == 0
        assert not litter.exists()
        assert own.exists()
    finally:
        own.rmdir()


AWKWARD = "/data/my 'set' \"of\" $HOME `x` ; touch gone #/pairs: all.csv"


def test_values_of_the_environment_arrive_as_they_were_typed(monkeypatch):
    given = {
        "RUN": "smoke",
        "DATA": AWKWARD,
        "WEIGHTS": "",
        "SEED": "3",
        "SET": "epochs: 3, lr: 0.1",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    words = ["run", "data", "weights", "seed", "overrides", "x=[1, 2]"]
    assert execute._parameters(words) == {
        "run": "smoke",
        "data": AWKWARD,
        "weights": "",
        "seed": 3,
        "overrides": {"epochs": 3, "lr": 0.1},
        "x": [1, 2],
    }
    monkeypatch.setenv("DATA", "pairs.csv")
    assert execute._parameters(["data"]) == {"data": str(Path.cwd() / "pairs.csv")}


def test_set_is_read_as_make_has_checked_it(monkeypatch):
    """One reader for both: what passes the check arrives with the same value."""
    monkeypatch.setenv("SET", "lr: 1e-3, precision: no")
    overrides = execute._parameters(["overrides"])["overrides"]
    assert overrides["lr"] == 0.001
    assert load("smoke", **overrides).precision == "no"
    monkeypatch.setenv("SET", "epochs: 3, epochs: 4")
    with pytest.raises(ValueError, match="'epochs' is given twice"):
        execute._parameters(["overrides"])


@pytest.mark.parametrize(
    ("variable", "value", "word", "message"),
    [
        ("SET", 'epochs: 3}" ; touch x; "', "overrides", "SET cannot be read: "),
        ("SET", "epochs", "overrides", "gives 'epochs' no value"),
        ("SEED", "x", "seed", "'x' is not a whole number"),
        ("SEED", "1", "unknown", "'unknown' is neither NAME=VALUE nor one of"),
    ],
)
def test_a_value_that_cannot_be_read_is_one_sentence(monkeypatch, variable, value, word, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        execute._parameters([word])


@pytest.mark.parametrize(
    ("parameters", "mode"),
    [
        (["run=smoke"], 0o644),
        (["run=mimic"], 0o600),
        (["run=half-mimic"], 0o600),
        (["run=smoke", "overrides={source: table}"], 0o600),
        (["run=nonsense"], 0o644),
    ],
)
def test_only_their_owner_can_read_notebooks_about_patients(tmp_path, home, parameters, mode):
    """What the kernel writes as well as the executed copy."""
    lines = "run = ''\noverrides = {}"
    written = tmp_path / "written"
    cells = [
        nbformat.v4.new_code_cell(lines, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(f"open({str(written)!r}, 'w').close()"),
    ]
    notebook, output = tmp_path / "in.ipynb", tmp_path / "out" / "out.ipynb"
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), notebook)
    assert main([str(notebook), str(output), *parameters]) == 0
    for path in (output, written):
        assert path.stat().st_mode & 0o777 == mode


def _take_interrupts():
    """A shell's background jobs ignore Ctrl-C, and so would their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interrupt_is_one_sentence_that_says_how_to_go_on(tmp_path):
    """Ctrl-C in a terminal reaches the kernel as well as the process that started it."""
    started = tmp_path / "started"
    code = f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\ntime.sleep(600)"
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    cells = [nbformat.v4.new_code_cell(code)]
    notebook = tmp_path / "in.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), notebook)
    command = [sys.executable, "-m", "mcrlib.companion.execute", notebook, tmp_path / "out.ipynb"]
    running = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_take_interrupts,
    )
    try:
        while not started.exists():
            assert running.poll() is None
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert "in.ipynb: stopped; run the same command again to go on." in said
    assert "Traceback" not in said
