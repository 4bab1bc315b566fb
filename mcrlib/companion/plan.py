"""What a whole run will take, from what a rehearsal measured (ours).

`python -m mcrlib.companion.plan RUN VARIANTS SEEDS SET` prints the plan and what exists already. It
reads small files only, so it answers at once.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mcrlib import config
from mcrlib.config import Config
from mcrlib.training.finished import check_finished

# Validation pairs that notebook 05 maps, and training pairs that notebook 09 learns from, at most.
MAPPED_PAIRS = 2000
BASELINE_PAIRS = 20_000
# Notebook -> the split whose pairs its time grows with, and how many of them it takes at most.
TABLES = {
    "03_retrieval": ("test", None),
    "04_text_metrics": ("test", None),
    "05_modality_gap": ("validate", MAPPED_PAIRS),
    "06_top3": ("test", 1),
    "09_explore": ("train", BASELINE_PAIRS),
}
TABLE_FILES = ("recall.csv", "text_metrics.csv", "agreement.csv", "modality_gap.csv", "top3.json")
SAVES_AT_ONCE = 4  # the last two, the best epoch's, and one that is being written
NOISE = 0.03  # smaller differences in time are none


def file_of(run: str) -> Path:
    """Where the plan of a run is."""
    return config.ROOT / "results" / f"{config.REHEARSAL}{run}" / "plan.json"


def read(run: str) -> dict[str, Any] | None:
    """The plan of a run, as `results.save` wrote it; None if it was not rehearsed."""
    try:
        record = json.loads(file_of(run).read_bytes())
    except (OSError, ValueError):
        return None
    return record if "values" in record else None


# From measurements to hours


def make(settings: list[Config], measured: dict[str, Any]) -> dict[str, Any]:
    """The plan of a run: hours, disk, memory and settings.

    `settings` are those of each model to train; `measured` holds what `companion.rehearse` gathers.
    """
    first = settings[0]
    pairs = whole_pairs(measured)
    models = {model.folder.name: _training(model, pairs, measured) for model in settings}
    embedding = _embedding_hours(pairs, measured)
    tables = _tables_hours(pairs, measured) * _share_of_models(settings, measured)
    data = _data_hours(measured)
    trained = sum(model["hours"] for model in models.values())
    disk = _disk(first, pairs, len(models), measured)
    return {
        "run": config.rehearsed(first.run),
        "settings": first.replace(sample=0).deciding(),
        "pairs": pairs,
        "hours": {
            "data": data,
            "training": {name: model["hours"] for name, model in models.items()},
            "embeddings": dict.fromkeys(models, embedding),
            "tables": tables,
            "total": data + trained + embedding * len(models) + tables,
        },
        "hours_an_epoch": {name: model["hours_an_epoch"] for name, model in models.items()},
        "seconds_a_step": {name: model["seconds_a_step"] for name, model in models.items()},
        "disk_gb": disk,
        "memory": _memory(settings, measured),
        "better_settings": better_settings(first, measured),
        "measured": measured,
    }


def whole_pairs(measured: Mapping[str, Any]) -> dict[str, int]:
    """Pairs of the whole run by split: its images, less the share that could not be read among
    those drawn."""
    data = measured["data"]
    readable = sum(measured["pairs"].values()) / max(data["images_drawn"], 1)
    return {split: round(images * readable) for split, images in data["images"].items()}


def _data_hours(measured: Mapping[str, Any]) -> float:
    data = measured["data"]
    one_by_one = data["seconds_an_image"] / data["processes"]
    all_images = sum(data["images"].values())
    notebook = measured["notebook_seconds"]["00_data"]
    own = data["select_seconds"] + data["images_drawn"] * one_by_one
    start = max(notebook - own, 0.0)
    return (data["select_seconds"] + all_images * one_by_one + start) / 3600


def _training(config: Config, pairs: Mapping[str, int], measured: Mapping[str, Any]) -> dict:
    """Hours of one model's training and of an epoch of it, and seconds of a step."""
    step = seconds_a_step(config, measured["variants"][config.variant])
    loader = measured["model"]["loader_pairs_a_second"]
    step = max(step, config.batch_size / loader[str(config.workers)])
    steps = pairs["train"] // config.batch_size
    if config.epoch_steps:
        steps = min(steps, config.epoch_steps)
    save = measured["model"]["save"]["seconds"]
    steps_seconds = steps * step
    saves_an_epoch = 1 + int(steps_seconds / (60 * max(config.save_minutes, 0.01)))
    epoch = steps_seconds + saves_an_epoch * save
    validations = config.epochs // config.validate_every
    if config.epochs % config.validate_every:
        validations += 1
    validation = pairs["validate"] * measured["model"]["seconds_a_pair_embedded"]
    seconds = config.epochs * epoch + validations * validation + save
    seconds += measured["training_start_seconds"]
    return {
        "hours": seconds / 3600,
        "hours_an_epoch": (epoch + validation * validations / config.epochs) / 3600,
        "seconds_a_step": step,
    }


def seconds_a_step(config: Config, timed: Mapping[str, Any]) -> float:
    """Seconds of a step of the run's batch: measured, or on the line through the two batches that
    were timed in its place."""
    medians = {
        int(pairs): statistics.median(times) for pairs, times in timed["step_seconds"].items()
    }
    wanted = config.batch_size
    if wanted in medians:
        return medians[wanted]
    most = max(medians)
    fewest = min(medians)
    in_proportion = medians[most] / most
    a_pair = in_proportion
    if fewest < most:
        a_pair = (medians[most] - medians[fewest]) / (most - fewest)
    # A line that rises faster than in proportion, or falls, is noise.
    if not 0 < a_pair <= in_proportion:
        a_pair = in_proportion
    return medians[most] + (wanted - most) * a_pair


def _embedding_hours(pairs: Mapping[str, int], measured: Mapping[str, Any]) -> float:
    """Hours of embedding the two evaluated splits with one model."""
    a_pair = measured["model"]["seconds_a_pair_embedded"]
    drawn = measured["pairs"]["validate"] + measured["pairs"]["test"]
    start = max(measured["notebook_seconds"]["02_embed"] - drawn * a_pair, 0.0)
    return (start + (pairs["validate"] + pairs["test"]) * a_pair) / 3600


def _tables_hours(pairs: Mapping[str, int], measured: Mapping[str, Any]) -> float:
    """Hours of the notebooks after embedding: the time of the quickest is that of starting one; the
    rest grows with the pairs."""
    seconds = measured["notebook_seconds"]
    start = min(seconds[name] for name in TABLES)
    total = 0.0
    for name, (split, most) in TABLES.items():
        drawn = measured["pairs"][split]
        whole = pairs[split]
        if most is not None:
            drawn = min(drawn, most)
            whole = min(whole, most)
        total += start + (seconds[name] - start) * whole / max(drawn, 1)
    return total / 3600


def _share_of_models(settings: list[Config], measured: Mapping[str, Any]) -> float:
    """How many times as many models the tables show as in the rehearsal, which has one seed."""
    return len(settings) / max(len(measured["variants"]), 1)


def _disk(
    config: Config, pairs: Mapping[str, int], models: int, measured: Mapping[str, Any]
) -> dict[str, float]:
    """GB of the image cache, of the saves while a model trains, and of what stays of all models."""
    save = measured["model"]["save"]
    images = sum(measured["data"]["images"].values()) * config.cache_size**2
    evaluated = pairs["validate"] + pairs["test"]
    embeddings = evaluated * 2 * config.embed_dim * 4
    saves = SAVES_AT_ONCE * save["bytes"]
    kept = models * (save["model_bytes"] + embeddings)
    return {
        "data": images / 1e9,
        "saves_while_a_model_trains": saves / 1e9,
        "models_and_results": kept / 1e9,
        "total": (images + saves + kept) / 1e9,
    }


def _memory(settings: list[Config], measured: Mapping[str, Any]) -> dict[str, Any]:
    """GB at the peak of a step of each variant, those there are, and the largest batch that fits
    without micro batches."""
    peaks = {}
    for model in settings:
        step = measured["variants"][model.variant]["bytes"]
        at_once = model.micro_batch or model.batch_size
        peaks[model.variant] = (step["static"] + at_once * step["a_pair"]) / 1e9
    return {
        "peak_gb": peaks,
        "there_are_gb": measured["memory_bytes"] / 1e9,
        "largest_batch_pairs": measured["largest_batch_pairs"],
    }


# Which settings would be better


def better_settings(config: Config, measured: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each setting that was tried: what it is, and what was found."""
    rows = [_micro_batch_that_fits(config, measured)]
    timed = measured["variants"][config.variant]
    own_times = timed["step_seconds"][str(timed["pairs"])]
    own_bytes = timed["bytes"]["a_pair"]
    for other in measured["other_settings"]:
        ((name, value),) = other["settings"].items()
        finding = _found(other, own_times, own_bytes)
        rows.append({"setting": f"{name}: {json.dumps(value)}", "found": finding})
    rows.append(_workers(config, measured))
    return [row for row in rows if row["found"]]


def _found(other: Mapping[str, Any], own_times: list[float], own_bytes: int) -> str:
    """What another setting does to the time of a step, if more than noise, and to its memory."""
    if "skipped" in other:
        return f"not tried: {other['skipped']}"
    ratio = statistics.median(other["seconds"]) / statistics.median(own_times)
    finding = "no difference in time measured"
    if _differ(other["seconds"], own_times):
        percent = abs(100 * (ratio - 1))
        finding = f"{percent:.0f} % {'faster' if ratio < 1 else 'slower'}"
    if "bytes_a_pair" in other and own_bytes:
        memory = other["bytes_a_pair"] / own_bytes
        finding += f", {memory:.2f} times the memory a pair"
    return finding


def _differ(some: list[float], others: list[float]) -> bool:
    """Whether all times of one setting are above all of the other, and the medians apart."""
    are_apart = max(some) < min(others) or max(others) < min(some)
    return are_apart and abs(statistics.median(some) / statistics.median(others) - 1) > NOISE


def _micro_batch_that_fits(config: Config, measured: Mapping[str, Any]) -> dict[str, str]:
    largest = measured["largest_batch_pairs"]
    at_once = config.micro_batch or config.batch_size
    if at_once <= largest:
        return {"setting": "micro_batch", "found": ""}
    pairs = 1
    while 2 * pairs <= largest:
        pairs = 2 * pairs
    found = f"needed: {at_once} pairs at once do not fit into the memory, {largest} do"
    return {"setting": f"micro_batch: {pairs}", "found": found}


def _workers(config: Config, measured: Mapping[str, Any]) -> dict[str, str]:
    """Whether the loader keeps up with the training, and else how many processes would."""
    rates = measured["model"]["loader_pairs_a_second"]
    by_count = {int(count): rate for count, rate in rates.items()}
    step = seconds_a_step(config, measured["variants"][config.variant])
    needed = config.batch_size / step
    own = by_count[config.workers]
    enough = [count for count, rate in by_count.items() if rate > 1.25 * needed]
    if own > 1.25 * needed or not enough:
        finding = f"no difference: {config.workers} prepare {own:.0f} pairs a second"
        return {"setting": "workers", "found": f"{finding}, and a step takes {needed:.0f}"}
    finding = f"{config.workers} prepare {own:.0f} pairs a second, but a step takes {needed:.0f}"
    return {"setting": f"workers: {min(enough)}", "found": finding}


# In words


def describe(run: str, plan: Mapping[str, Any]) -> Iterator[str]:
    """The plan as lines of text."""
    values = plan["values"]
    about = plan["provenance"]
    hours = values["hours"]
    pairs = values["pairs"]
    yield f"Plan of RUN={run}, rehearsed on {about['pairs']} pairs with {about['device']}"
    yield (
        f"  whole run: {pairs['train']:,} training, {pairs['validate']:,} validation and "
        f"{pairs['test']:,} test pairs, {values['settings']['epochs']} epochs of batches of "
        f"{values['settings']['batch_size']}"
    )
    yield f"  data               {duration(hours['data'])}"
    for name, value in hours["training"].items():
        epoch = duration(values["hours_an_epoch"][name])
        yield f"  train {name:<12} {duration(value)} ({epoch} an epoch)"
    (embedding, *_) = hours["embeddings"].values()
    yield f"  embeddings         {duration(embedding)} a model"
    yield f"  tables, figures    {duration(hours['tables'])}"
    yield f"  in all             {duration(hours['total'])} with one process"
    disk = values["disk_gb"]
    yield (
        f"  disk               {size(disk['data'])} of images, "
        f"{size(disk['saves_while_a_model_trains'])} of saves while a model trains, "
        f"{size(disk['models_and_results'])} of models and results"
    )
    memory = values["memory"]
    peak = max(memory["peak_gb"].values())
    yield (
        f"  memory             {size(peak)} at the peak of a step, of "
        f"{size(memory['there_are_gb'])}; at most {memory['largest_batch_pairs']:,} pairs at once"
    )
    for row in values["better_settings"]:
        yield f"  SET='{row['setting']}'  {row['found']}"
    yield f"  {_how_timed(values)}"


def _how_timed(values: Mapping[str, Any]) -> str:
    variants = values["measured"]["variants"]
    timed = []
    for variant, measured in variants.items():
        steps = len(measured["step_seconds"][str(measured["pairs"])])
        timed.append(f"{variant} {steps} steps of {measured['pairs']} pairs")
    sentence = f"Timed: {', '.join(timed)}."
    batch = values["settings"]["batch_size"]
    if any(measured["pairs"] != batch for measured in variants.values()):
        sentence += f" The time of a step of {batch} was computed from these and fewer pairs."
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
    run = settings[0].run
    has_data = (settings[0].data_folder / "dataset.json").is_file()
    yield f"  data: {'there' if has_data else 'not yet'}"
    if not has_data:
        left += hours["data"]
    for config_of_model in settings:
        name = config_of_model.folder.name
        if name not in hours["training"]:
            yield f"  {name}: not rehearsed"
            continue
        share, state = _trained(config_of_model)
        left += (1 - share) * hours["training"][name]
        is_embedded = (config_of_model.folder / "embeddings-test.npz").is_file()
        if not is_embedded:
            left += hours["embeddings"][name]
        yield f"  {name}: {state}; embeddings {'there' if is_embedded else 'not yet'}"
    folder = config.ROOT / "results" / run
    missing = [name for name in TABLE_FILES if not (folder / name).is_file()]
    yield f"  tables: {'not yet' if missing else 'there'}"
    if missing:
        left += hours["tables"]
    yield f"  left: {duration(left)}"


def _trained(settings: Config) -> tuple[float, str]:
    """The share of a model's training that is done, and its state in words."""
    if (settings.folder / "checkpoint" / "final").is_dir():
        try:
            check_finished(settings, None)
        except ValueError as error:
            return 0.0, f"trained otherwise ({error})"
        return 1.0, "trained"
    history = settings.folder / "history.csv"
    done = 0
    if history.is_file():
        done = max(len(history.read_text().splitlines()) - 1, 0)
    if done:
        return min(done / settings.epochs, 1.0), f"{done} of {settings.epochs} epochs done"
    return 0.0, "not trained yet"


def _other_settings(settings: Config, plan: Mapping[str, Any]) -> str:
    """In which settings the run asked for differs from the one rehearsed; "" if in none."""
    planned = plan["values"]["settings"]
    now = json.loads(json.dumps(settings.deciding()))
    ignored = ("run", "variant", "seed")
    names = [name for name in now if name not in ignored and now[name] != planned.get(name)]
    changes = [f"{name} {planned.get(name)!r}, now {now[name]!r}" for name in names]
    return ", ".join(changes)


def show(run: str, variants: str, seeds: str, changes: str) -> Iterator[str]:
    """The plan of a run and what exists of it already, as lines.

    Raises FileNotFoundError if the run was not rehearsed, and ValueError for unknown names.
    """
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
    yield from describe(run, plan)
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
