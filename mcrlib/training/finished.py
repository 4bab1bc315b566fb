"""What a model was made from, and whether that is what is asked for now (ours).

Only small files are read, so that `make` can ask before it reuses a finished model.
"""

import json
from pathlib import Path
from typing import Any

from mcrlib.config import MAKE_VARIABLES, TRAINED_MODEL, Config, current_names, later_defaults

INPUTS = "inputs.json"  # in the folder of a model and of each save


def check_inputs(folder: Path, inputs: dict[str, Any]) -> None:
    """Raise ValueError, with the first name that differs, unless the model in `folder` was made
    from `inputs`: setting or kind of input -> value or hash.

    A later setting that is missing, here or there, has its default.
    """
    later = later_defaults()
    try:
        saved = current_names(json.loads((folder / INPUTS).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        raise ValueError(
            f"{folder / INPUTS} is missing or damaged, so nothing says what the model was trained "
            f"with. Remove {folder.parents[1]} to train anew."
        ) from None
    asked = dict(inputs)
    if "variant" in inputs:  # settings are among the inputs
        asked = later | inputs
    for name, value in asked.items():
        saved_value = saved.get(name, later.get(name))
        if saved_value != value:
            raise ValueError(
                f"{folder} was trained with {name}={saved_value!r}, but this run asks for "
                f"{value!r}. {_keep(name, saved_value)}remove {folder.parents[1]} to train anew, "
                "or choose another seed or run."
            )


def _keep(name: str, value: Any) -> str:
    """How to keep the model, if repeating a setting can do that."""
    if name not in Config.model_fields or name in MAKE_VARIABLES:
        return "To go on, "
    return f"Repeat SET='{name}: {json.dumps(value)}' to use it as it is, "


def check_finished(config: Config, dataset: str | None) -> None:
    """Raise ValueError, with the first name that differs, if this model is finished with other
    settings or, unless `dataset` is None, on pairs with another hash."""
    final = config.folder / TRAINED_MODEL
    if not final.is_dir():
        return
    inputs = config.deciding()
    if dataset is not None:
        inputs["dataset"] = dataset
    check_inputs(final, inputs)
