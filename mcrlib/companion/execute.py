"""Run a notebook with papermill, its parameters checked.

`python -m mcrlib.companion.execute IN OUT a=1`. papermill itself writes the
names into code and ignores unknown ones.
"""

import os
import sys
from pathlib import Path

import papermill
from traitlets.config import Config

from mcrlib.config import PLAIN, parse


def execute(notebook: str | Path, output: str | Path, parameters: dict) -> None:
    """Run `notebook` and keep the executed copy in `output`, also that of a failed run.

    Raises ValueError for a parameter that the notebook does not have, and papermill's
    PapermillExecutionError where a cell fails.
    """
    known = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in known:
            raise ValueError(f"{notebook} has no parameter {name!r}; it has {', '.join(known)}.")
    os.environ[PLAIN] = "1"
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        str(notebook),
        str(output),
        parameters,
        kernel_name="python3",
        language="python",
        progress_bar=False,
        stdout_file=sys.stdout,
        # Sockets of files: what a kernel prints of patients never goes over the network's ports.
        config=Config(KernelManager={"transport": "ipc"}),
    )


def main(arguments: list[str]) -> int:
    """`NOTEBOOK OUTPUT NAME=VALUE...`, values in YAML; returns the exit code."""
    notebook, output, *pairs = arguments
    try:
        execute(notebook, output, parse(pairs))
    except papermill.PapermillExecutionError as error:
        print(f"{notebook}: {error.ename}: {error.evalue}", file=sys.stderr)
        print(f"The executed copy with the traceback: {output}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
