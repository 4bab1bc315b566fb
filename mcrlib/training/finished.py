"""What a model was made from, and whether that is what is asked for now (ours).

`python -m mcrlib.training.finished run=demo variant=mcr seed=0 epochs=50` exits with an error if
this model is finished with other settings. It reads two small files only, so that `make` can ask
before it takes a finished model as it is.
"""

import json
import sys
from pathlib import Path
from typing import Any

from mcrlib.config import Config, current_names, load, parse

INPUTS = "inputs.json"  # in the folder of a model and of each save


def check_inputs(folder: Path, inputs: dict[str, Any]) -> None:
    """Raise ValueError, with the first name that differs, unless the model in `folder` was made
    from `inputs`: setting or kind of input -> value or hash."""
    try:
        saved = current_names(json.loads((folder / INPUTS).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        raise ValueError(
            f"{folder / INPUTS} is missing or damaged, so nothing says what the model was trained "
            f"with. Remove {folder.parents[1]} to train anew."
        ) from None
    for name, value in inputs.items():
        saved_value = saved.get(name)
        if saved_value != value:
            raise ValueError(
                f"{folder} was trained with {name}={saved_value!r}, but this run asks for "
                f"{value!r}. Remove {folder.parents[1]} to train anew, or choose another seed "
                "or run."
            )


def check_settings(config: Config) -> None:
    """Raise ValueError if this model is finished with other settings, by the name of the first."""
    final = config.folder / "checkpoint" / "final"
    if final.is_dir():
        check_inputs(final, config.deciding())


def main(arguments: list[str]) -> int:
    """Check the model of `NAME=VALUE...` settings; returns the exit code."""
    try:
        check_settings(load(**parse(arguments)))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
