"""Run a notebook with papermill, after checking its parameters.

`python -m mcrlib.companion.execute IN OUT a=1 data`: a word without `=` takes its value from the
environment, as the Makefile passes it. papermill alone writes any parameter name into the
notebook's code, and ignores a name that the notebook does not use.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import papermill
from traitlets.config import Config

from mcrlib.config import DRAWN_SOURCES, PLAIN, RUNS, load, parse, preset, read_settings
from mcrlib.files import DATASET_FILE, keep_private, write

INTERRUPTED = 130  # exit code after Ctrl-C
ADDRESS = r" at 0x[0-9a-f]+>"  # of an object in memory, as in "<Styler at 0x7efcc37c8f10>"
SOCKETS = "mcr-kernel-"  # begins the names of folders with kernels' sockets


def execute(notebook: str | Path, output: str | Path, parameters: dict[str, Any]) -> None:
    """Run `notebook` and write the executed copy to `output`, even if a cell fails.

    The copy of a successful run holds no times and no ids drawn at random, so that equal results
    are equal bytes. Raises ValueError for a parameter that the notebook does not have, and
    papermill's PapermillExecutionError if a cell fails.
    """
    known = papermill.inspect_notebook(str(notebook))
    known_names = ", ".join(known)
    for name in parameters:
        if name not in known:
            raise ValueError(f"{notebook} has no parameter {name!r}; it has {known_names}.")
    if may_show_patients(parameters):
        keep_private()
    os.environ[PLAIN] = "1"
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with _socket_folder() as folder:
        settings = Config()
        # Talk to the kernel through socket files, so that no patient data passes a network port.
        settings.KernelManager.transport = "ipc"
        settings.KernelManager.ip = str(folder / "socket")
        # The kernel logs its own shutdown as an error, also after a run that succeeded.
        settings.NotebookClient.extra_arguments = ["--IPKernelApp.log_level=CRITICAL"]
        papermill.execute_notebook(
            str(notebook),
            str(output),
            parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            stdout_file=sys.stdout,
            config=settings,
        )
    remove_run_metadata(Path(output))


def may_show_patients(parameters: dict[str, Any]) -> bool:
    """Whether the pairs of the notebook's run are not drawn, by its settings or by what is there.

    Settings that do not exist are left for the notebook to refuse.
    """
    run = str(parameters.get("run"))
    if preset(run) not in RUNS:
        return False
    settings = load(run)
    sources = {settings.source}
    overrides = parameters.get("overrides")
    if isinstance(overrides, dict) and "source" in overrides:
        sources = {overrides["source"]}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        prepared = json.loads((settings.data_folder / DATASET_FILE).read_bytes())
        sources.add(prepared["source"])
    return not sources.issubset(DRAWN_SOURCES)


def remove_run_metadata(file: Path) -> None:
    """Drop times, ids and addresses that papermill and the kernel write into an executed copy."""
    notebook = nbformat.read(file, as_version=4)
    notebook.metadata.pop("papermill", None)
    for place, cell in enumerate(notebook.cells):
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        cell["id"] = str(place)
        cell["source"] = cell["source"].rstrip("\n")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "text/plain" in data:
                data["text/plain"] = re.sub(ADDRESS, ">", data["text/plain"])
    text = nbformat.writes(notebook) + "\n"
    write(file, text.encode())


@contextlib.contextmanager
def _socket_folder() -> Iterator[Path]:
    """A private folder for one kernel's sockets; folders that killed runs left are removed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SOCKETS}*"):
        owner = folder.name.removeprefix(SOCKETS).partition("-")[0]
        if owner.isdigit() and not _is_running(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{SOCKETS}{os.getpid()}-") as folder:
        yield Path(folder)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _parameters(words: list[str]) -> dict[str, Any]:
    """Parameters by name: `NAME=VALUE` in YAML, or `NAME` alone for the environment's value.

    Raises ValueError if a value cannot be read.
    """
    assigned = [word for word in words if "=" in word]
    parameters = parse(assigned)
    for word in words:
        if word in FROM_ENVIRONMENT:
            variable, read = FROM_ENVIRONMENT[word]
            parameters[word] = read(os.environ.get(variable, ""))
        elif word not in assigned:
            raise ValueError(f"{word!r} is neither NAME=VALUE nor one of {list(FROM_ENVIRONMENT)}.")
    return parameters


def absolute(path: str) -> str:
    """A path that a notebook can open from its own folder; nothing stays nothing."""
    if not path:
        return ""
    return str(Path(path).expanduser().absolute())


def _settings(text: str) -> dict[str, Any]:
    """Settings as SET gives them: `epochs: 3, lr: 1.0e-4`."""
    settings = read_settings(text)
    missing = [name for name, value in settings.items() if value is None]
    if missing:
        raise ValueError(
            f"SET={text!r} gives {missing[0]!r} no value: write `{missing[0]}: value`."
        )
    return settings


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is not a whole number: check SEEDS and PROCESSES.")
    return int(text)


# Parameter -> the variable that holds it, and how it is read.
FROM_ENVIRONMENT = {
    "run": ("RUN", str),
    "variant": ("VARIANT", str),
    "seed": ("SEED", _whole_number),
    "data": ("DATA", absolute),
    "boxes": ("BOXES", absolute),
    "weights": ("WEIGHTS", absolute),
    "processes": ("PROCESSES", _whole_number),
    "overrides": ("SET", _settings),
}


def main(arguments: list[str]) -> int:
    """Run `NOTEBOOK OUTPUT PARAMETER...` and return the exit code: 1 if a cell fails, 2 if the
    notebook could not be run, 130 if it was interrupted."""
    notebook, output, *words = arguments
    started = time.perf_counter()
    try:
        execute(notebook, output, _parameters(words))
    except KeyboardInterrupt:
        return _stopped(notebook)
    except papermill.PapermillExecutionError as error:
        if error.ename == "KeyboardInterrupt":  # Ctrl-C reaches the kernel too
            return _stopped(notebook)
        failure = f"{error.ename}: {error.evalue}"
        print(f"{notebook}: {failure}", file=sys.stderr)
        print(f"The executed copy with the traceback: {output}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    seconds = time.perf_counter() - started
    print(f"{Path(output).stem}: {seconds:.0f} s, executed copy in {output}", flush=True)
    return 0


def _stopped(notebook: str) -> int:
    """Say how to go on after an interrupt; returns the exit code that shells use for one."""
    print(f"{notebook}: stopped; run the same command again to go on.", file=sys.stderr)
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
