"""Run a notebook with papermill, after checking its parameters.

`python -m mcrlib.companion.execute IN OUT a=1`. papermill alone writes any parameter name into the
notebook's code, and ignores a name that the notebook does not use.
"""

import os
import sys
from pathlib import Path
from typing import Any

import papermill
from traitlets.config import Config

from mcrlib.config import PLAIN, parse


def execute(notebook: str | Path, output: str | Path, parameters: dict[str, Any]) -> None:
    """Run `notebook` and write the executed copy to `output`, even if a cell fails.

    Raises ValueError for a parameter that the notebook does not have, and papermill's
    PapermillExecutionError if a cell fails.
    """
    known = papermill.inspect_notebook(str(notebook))
    known_names = ", ".join(known)
    for name in parameters:
        if name not in known:
            raise ValueError(f"{notebook} has no parameter {name!r}; it has {known_names}.")
    os.environ[PLAIN] = "1"
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    # Talk to the kernel through socket files, so that no patient data passes a network port.
    file_sockets = Config(KernelManager={"transport": "ipc"})
    papermill.execute_notebook(
        str(notebook),
        str(output),
        parameters,
        kernel_name="python3",
        language="python",
        progress_bar=False,
        stdout_file=sys.stdout,
        config=file_sockets,
    )


def main(arguments: list[str]) -> int:
    """Run `NOTEBOOK OUTPUT NAME=VALUE...`, values in YAML, and return the exit code: 1 if a cell
    fails, 2 if the notebook could not be run."""
    notebook, output, *assignments = arguments
    try:
        execute(notebook, output, parse(assignments))
    except papermill.PapermillExecutionError as error:
        failure = f"{error.ename}: {error.evalue}"
        print(f"{notebook}: {failure}", file=sys.stderr)
        print(f"The executed copy with the traceback: {output}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
