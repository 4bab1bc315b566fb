"""The plan of a run that was rehearsed, in words, and what exists of the run already (ours).

`python -m mcrlib.companion.plan RUN VARIANTS SEEDS SET` prints both. It reads small files only, so
it answers at once.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mcrlib import config
from mcrlib.config import Config
from mcrlib.training.finished import check_finished

TABLE_FILES = (
    "recall.csv", "text_metrics.csv", "agreement.csv", "relevance.csv", "claims.csv",
    "modality_gap.csv", "top3.json",
)  # fmt: skip


def file_of(run: str) -> Path:
    """Where the plan of a run is."""
    folder = f"{config.REHEARSAL}{run}"
    return config.ROOT / "results" / folder / "plan.json"


def read(run: str) -> dict[str, Any] | None:
    """The plan of a run, as `results.save` wrote it; None if it was not rehearsed."""
    try:
        record = json.loads(file_of(run).read_bytes())
    except (OSError, ValueError):
        return None
    return record if "values" in record else None


# In words


def describe(plan: Mapping[str, Any]) -> Iterator[str]:
    """The plan as lines of text."""
    values = plan["values"]
    about = plan["provenance"]
    yield f"Plan of RUN={values['run']}, rehearsed on {about['pairs']} pairs, {about['device']}"
    yield f"  {_whole(values)}"
    hours = values["hours"]
    yield _line("data", duration(hours["data"]))
    for name, training in hours["training"].items():
        epoch = duration(values["hours_an_epoch"][name])
        yield _line(f"train {name}", f"{duration(training)}, {epoch} an epoch")
    embedding = max(hours["embeddings"].values())
    yield _line("embeddings", f"{duration(embedding)} a model")
    yield _line("tables, figures", duration(hours["tables"]))
    yield _line("in all", f"{duration(hours['total'])}, trained by one process")
    yield _line("disk", _disk(values["disk_gb"]))
    yield _line("memory", _memory(values["memory"]))
    for row in values["better_settings"]:
        yield _line(row["setting"], row["found"])
    yield f"  {_how_timed(values)}"


def _line(name: str, text: str) -> str:
    return f"  {name:<24} {text}"


def _whole(values: Mapping[str, Any]) -> str:
    """How large the run is."""
    counts = [f"{count:,} {split}" for split, count in values["pairs"].items()]
    settings = values["settings"]
    epochs = f"{settings['epochs']} epochs"
    compute = settings.get("compute")
    if compute:
        epochs = f"the compute of {compute * settings['epochs']:g} epochs of mcr"
    batch = settings["batch_size"]
    return f"{', '.join(counts)} pairs; {epochs} of batches of {batch}"


def _disk(disk: Mapping[str, float]) -> str:
    data = size(disk["data"])
    saves = size(disk["saves_while_a_model_trains"])
    kept = size(disk["models_and_results"])
    return f"{data} of images, {saves} of saves while a model trains, {kept} of models and results"


def _memory(memory: Mapping[str, Any]) -> str:
    peak = max(memory["peak_gb"].values())
    there_are = size(memory["there_are_gb"])
    largest = memory["largest_batch_pairs"]
    return f"{size(peak)} at the peak of a step, of {there_are}; {largest:,} pairs at once fit"


def _how_timed(values: Mapping[str, Any]) -> str:
    """How many steps of which batch the hours were computed from."""
    timed = []
    batches = set()
    for variant, measured in values["measured"]["variants"].items():
        pairs = measured["pairs"]
        steps = len(measured["step_seconds"][str(pairs)])
        batches.add(pairs)
        timed.append(f"{variant} {steps} steps of {pairs} pairs")
    sentence = f"Timed: {', '.join(timed)}."
    batch = values["settings"]["batch_size"]
    if batches != {batch}:
        sentence += f" A step of {batch} was computed from these and from smaller ones."
    return sentence


def duration(hours: float) -> str:
    """A time in the unit in which people would say it."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    if hours < 1.5:
        return f"{60 * hours:.0f} min"
    if hours < 48:
        return f"{hours:.1f} h"
    return f"{hours / 24:.1f} days"


def size(gigabytes: float) -> str:
    """A size in GB, or in MB if it is small."""
    if gigabytes < 0.1:
        return f"{1000 * gigabytes:.0f} MB"
    return f"{gigabytes:.1f} GB"


# What exists already


def existing(settings: list[Config], plan: Mapping[str, Any]) -> Iterator[str]:
    """A line for each part of the run: whether it exists; and at last the hours that are left."""
    hours = plan["values"]["hours"]
    left = 0.0
    has_data = (settings[0].data_folder / "dataset.json").is_file()
    if not has_data:
        left += hours["data"]
    yield _line("data", _state(has_data))
    for model in settings:
        name = model.folder.name
        if name not in hours["training"]:
            yield _line(name, "not rehearsed")
            continue
        share, state = _trained(model, plan)
        left += (1 - share) * hours["training"][name]
        is_embedded = (model.folder / "embeddings-test.npz").is_file()
        if not is_embedded:
            left += hours["embeddings"][name]
        yield _line(name, f"{state}; embeddings {_state(is_embedded)}")
    folder = config.ROOT / "results" / settings[0].run
    has_tables = all((folder / name).is_file() for name in TABLE_FILES)
    if not has_tables:
        left += hours["tables"]
    yield _line("tables", _state(has_tables))
    yield _line("left", duration(left))


def _state(is_there: bool) -> str:
    return "there" if is_there else "not yet"


def _trained(model: Config, plan: Mapping[str, Any]) -> tuple[float, str]:
    """The share of a model's training that is done, and its state in words."""
    if (model.folder / config.TRAINED_MODEL).is_dir():
        try:
            check_finished(model, None)
        except ValueError as error:
            return 0.0, f"trained otherwise ({error})"
        return 1.0, "trained"
    history = model.folder / "history.csv"
    if not history.is_file():
        return 0.0, "not trained yet"
    rows = history.read_text().splitlines()
    done = len(rows) - 1  # the first is the header
    epochs = plan["values"].get("epochs", {}).get(model.folder.name, model.epochs)
    return min(done / epochs, 1.0), f"{done} of {epochs:.3g} epochs done"


def _other_settings(first: Config, plan: Mapping[str, Any]) -> str:
    """In which settings the run asked for differs from the one rehearsed; "" if in none."""
    planned = plan["values"]["settings"]
    changes = []
    for name, value in first.deciding().items():
        before = planned.get(name)
        if name not in ("run", "variant", "seed") and value != before:
            changes.append(f"{name} {before!r}, now {value!r}")
    return ", ".join(changes)


def show(run: str, variants: str, seeds: str, changes: str) -> Iterator[str]:
    """The plan of a run and what exists of it already, as lines.

    Raises FileNotFoundError if the run was not rehearsed, and ValueError for unknown names.
    """
    config.check_names(run, variants, seeds, changes)
    overrides = config.read_settings(changes)
    settings = []
    for variant in variants.split():
        for seed in seeds.split():
            settings.append(config.load(run, variant, int(seed), **overrides))
    plan = read(run)
    if plan is None:
        raise FileNotFoundError(
            f"RUN={run} has no plan yet: `make rehearse RUN={run}` with your DATA and WEIGHTS "
            "measures it."
        )
    yield from describe(plan)
    difference = _other_settings(settings[0], plan)
    if difference:
        yield f"  Rehearsed with other settings ({difference}): rehearse again to plan these."
    yield "What exists already:"
    yield from existing(settings, plan)


def main(arguments: list[str]) -> str | int:
    """Print the plan of `RUN VARIANTS SEEDS SET`, or with `--if-rehearsed` before these nothing if
    there is none; returns the exit code, or the sentence to exit with."""
    is_optional = arguments[0] == "--if-rehearsed"
    names = arguments[1:] if is_optional else arguments
    if is_optional and read(names[0]) is None:
        return 0
    try:
        for line in show(*names):
            print(line)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
