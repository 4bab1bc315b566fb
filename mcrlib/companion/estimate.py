"""From what a rehearsal measured to what the whole run will take (ours).

Times are in seconds and sizes in bytes unless a name says otherwise.
"""

import json
import math
import statistics
from collections.abc import Mapping
from typing import Any

from mcrlib import config
from mcrlib.config import Config

HOUR = 3600
GIGABYTE = 1e9
# Validation pairs that notebook 05 maps, and training pairs that notebook 09 learns from, at most.
MAPPED_PAIRS = 2000
BASELINE_PAIRS = 20_000
# Notebook -> the split whose pairs its time grows with.
TABLES = {
    "03_retrieval": "test",
    "04_text_metrics": "test",
    "05_modality_gap": "validate",
    "06_top3": "",
    "09_explore": "train",
    "10_grounding": "test",
    "11_relevance": "test",
    "12_claims": "test",
}
MOST_PAIRS = {"05_modality_gap": MAPPED_PAIRS, "09_explore": BASELINE_PAIRS}
SAVES_AT_ONCE = 4  # the last two, the best epoch's, and one that is being written
NOISE = 0.03  # smaller differences in time are none
ENOUGH = 1.25  # a loader that is so much faster than the training never makes it wait


def make(settings: list[Config], measured: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of a run: hours, disk, memory and settings.

    `settings` are those of each model to train; `measured` holds what `companion.rehearse` gathers.
    """
    first = settings[0]
    pairs = whole_pairs(measured)
    models = {}
    hours_an_epoch = {}
    seconds_a_step = {}
    epochs = {}
    for model in settings:
        name = model.folder.name
        models[name] = _training(model, pairs, measured)
        hours_an_epoch[name] = models[name]["epoch"] / HOUR
        seconds_a_step[name] = models[name]["step"]
        epochs[name] = epochs_of(model, measured)
    plan = {"run": config.rehearsed(first.run), "pairs": pairs}
    plan["settings"] = first.replace(sample=0).deciding()
    plan["hours"] = _hours(models, pairs, measured)
    plan["hours_an_epoch"] = hours_an_epoch
    plan["seconds_a_step"] = seconds_a_step
    plan["epochs"] = epochs
    plan["disk_gb"] = _disk(first, pairs, len(models), measured)
    plan["memory"] = _memory(settings, measured)
    plan["better_settings"] = better_settings(first, measured)
    plan["measured"] = measured
    return plan


def _hours(
    models: Mapping[str, dict], pairs: Mapping[str, int], measured: Mapping[str, Any]
) -> dict[str, Any]:
    data = _data(measured) / HOUR
    training = {name: model["training"] / HOUR for name, model in models.items()}
    embedding = _embedding(pairs, measured) / HOUR
    # The rehearsal's tables show one seed of each variant.
    as_many = len(models) / len(measured["variants"])
    tables = as_many * _tables(pairs, measured) / HOUR
    embeddings = dict.fromkeys(models, embedding)
    hours = {"data": data, "training": training, "embeddings": embeddings, "tables": tables}
    hours["total"] = data + sum(training.values()) + sum(embeddings.values()) + tables
    return hours


def whole_pairs(measured: Mapping[str, Any]) -> dict[str, int]:
    """Pairs of the whole run by split: its images, less the share that could not be read among
    those drawn."""
    data = measured["data"]
    read = sum(measured["pairs"].values())
    readable = read / max(data["images_drawn"], 1)
    whole = {}
    for split, images in data["images"].items():
        whole[split] = round(readable * images)
    return whole


def _data(measured: Mapping[str, Any]) -> float:
    data = measured["data"]
    select = data["select_seconds"]
    an_image = data["seconds_an_image"] / data["processes"]
    all_images = sum(data["images"].values())
    notebook = measured["notebook_seconds"]["00_data"]
    start = notebook - select - data["images_drawn"] * an_image
    return select + all_images * an_image + max(start, 0.0)


def _training(
    model: Config, pairs: Mapping[str, int], measured: Mapping[str, Any]
) -> dict[str, float]:
    """Seconds of a `step`, of an `epoch` with its share of the validation, and of the `training`
    from its start to the finished model."""
    common = measured["model"]
    epochs = epochs_of(model, measured)
    step = step_seconds(model, measured["variants"][model.variant])
    loader = common["loader_pairs_a_second"][str(model.workers)]
    step = max(step, model.batch_size / loader)
    save = common["save"]["seconds"]
    steps = _steps(model, pairs["train"]) * step
    epoch = steps + _saves(model, steps) * save
    validation = pairs["validate"] * common["seconds_a_pair_embedded"]
    epoch += validation * _validations(epochs, model.validate_every) / epochs
    start = measured["training_start_seconds"]
    training = start + epochs * epoch + save
    return {"step": step, "epoch": epoch, "training": training}


def _steps(model: Config, train_pairs: int) -> int:
    """Steps of an epoch."""
    steps = train_pairs // model.batch_size
    if model.epoch_steps:
        return min(steps, model.epoch_steps)
    return steps


def _saves(model: Config, seconds: float) -> int:
    """Saves of an epoch whose steps take so many seconds; the last is at its end."""
    between = max(60 * model.save_minutes, 1.0)
    return 1 + int(seconds / between)


def epochs_of(model: Config, measured: Mapping[str, Any]) -> float:
    """Epochs of a training: as set, or at equal compute those that the rehearsal counted for the
    variant, to a step of the sample."""
    return measured["variants"][model.variant].get("epochs", model.epochs)


def _validations(epochs: float, validate_every: int) -> int:
    """How often a training validates: the last epoch is always validated, also a broken one."""
    last_epoch = math.ceil(epochs)
    return math.ceil(last_epoch / validate_every)


def step_seconds(model: Config, timed: Mapping[str, Any]) -> float:
    """Seconds of a step of the run's batch: measured, or on the line through the two batches that
    were timed in its place."""
    medians = {}
    for pairs, seconds in timed["step_seconds"].items():
        medians[int(pairs)] = statistics.median(seconds)
    wanted = model.batch_size
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


def _embedding(pairs: Mapping[str, int], measured: Mapping[str, Any]) -> float:
    """Seconds to embed the two evaluated splits with one model."""
    a_pair = measured["model"]["seconds_a_pair_embedded"]
    drawn = measured["pairs"]["validate"] + measured["pairs"]["test"]
    start = measured["notebook_seconds"]["02_embed"] - drawn * a_pair
    whole = pairs["validate"] + pairs["test"]
    return max(start, 0.0) + whole * a_pair


def _tables(pairs: Mapping[str, int], measured: Mapping[str, Any]) -> float:
    """Seconds of the notebooks after embedding: the time of the quickest is that of starting one;
    the rest grows with the pairs."""
    seconds = measured["notebook_seconds"]
    start = min(seconds[name] for name in TABLES)
    total = 0.0
    for name, split in TABLES.items():
        ratio = 1.0
        if split:
            most = MOST_PAIRS.get(name, pairs[split])
            whole = min(pairs[split], most)
            drawn = min(measured["pairs"][split], most)
            ratio = whole / max(drawn, 1)
        total += start + ratio * (seconds[name] - start)
    return total


def _disk(
    first: Config, pairs: Mapping[str, int], models: int, measured: Mapping[str, Any]
) -> dict[str, float]:
    """GB of the image cache, of the saves while a model trains, and of what stays of all models."""
    save = measured["model"]["save"]
    all_images = sum(measured["data"]["images"].values())
    cache = all_images * first.cache_size**2
    evaluated = pairs["validate"] + pairs["test"]
    embeddings = evaluated * 2 * first.embed_dim * 4
    saves = SAVES_AT_ONCE * save["bytes"]
    kept = models * (save["model_bytes"] + embeddings)
    return {
        "data": cache / GIGABYTE,
        "saves_while_a_model_trains": saves / GIGABYTE,
        "models_and_results": kept / GIGABYTE,
        "total": (cache + saves + kept) / GIGABYTE,
    }


def _memory(settings: list[Config], measured: Mapping[str, Any]) -> dict[str, Any]:
    """GB at the peak of a step of each variant, those there are, and the largest batch that fits
    without micro batches."""
    peaks = {}
    for model in settings:
        step = measured["variants"][model.variant]["bytes"]
        at_once = model.micro_batch or model.batch_size
        peak = step["static"] + at_once * step["a_pair"]
        peaks[model.variant] = peak / GIGABYTE
    memory = {"peak_gb": peaks}
    memory["there_are_gb"] = measured["memory_bytes"] / GIGABYTE
    memory["largest_batch_pairs"] = measured["largest_batch_pairs"]
    return memory


# Which settings would be better


def better_settings(first: Config, measured: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row for each setting that was tried: the `setting`, and what was `found`."""
    rows = []
    train_pairs = whole_pairs(measured)["train"]
    if train_pairs < first.batch_size:
        found = f"needed: the training split has {train_pairs} pairs, fewer than a batch"
        rows.append({"setting": f"batch_size: {_power_of_two(train_pairs)}", "found": found})
    too_large = _too_large(first, measured["largest_batch_pairs"])
    if too_large:
        rows.append(too_large)
    for other in measured["other_settings"]:
        ((name, value),) = other["settings"].items()
        setting = f"{name}: {json.dumps(value)}"
        found = _found(other, measured["variants"][first.variant])
        rows.append({"setting": setting, "found": found})
    rows.append(_workers(first, measured))
    return rows


def _found(other: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """What another setting does to the time of a step, if more than noise, and to its memory."""
    if "skipped" in other:
        return f"not tried: {other['skipped']}"
    own_seconds = own["step_seconds"][str(own["pairs"])]
    found = _faster_or_slower(other["seconds"], own_seconds)
    if "bytes_a_pair" in other:
        memory = other["bytes_a_pair"] / own["bytes"]["a_pair"]
        found += f", {memory:.2f} times the memory a pair"
    return found


def _faster_or_slower(seconds: list[float], own_seconds: list[float]) -> str:
    """How the steps of another setting compare; a difference counts if no step of the slower one
    was as fast as one of the faster one."""
    ratio = statistics.median(seconds) / statistics.median(own_seconds)
    percent = abs(100 * (ratio - 1))
    if percent > 100 * NOISE:
        if max(seconds) < min(own_seconds):
            return f"{percent:.0f} % faster"
        if min(seconds) > max(own_seconds):
            return f"{percent:.0f} % slower"
    return "no difference in time measured"


def _too_large(first: Config, largest: int) -> dict[str, str]:
    """The micro batch that is needed if the run's batch does not fit; empty if it does."""
    at_once = first.micro_batch or first.batch_size
    if at_once <= largest:
        return {}
    found = f"needed: {at_once} pairs at once do not fit into the memory, {largest} do"
    return {"setting": f"micro_batch: {_power_of_two(largest)}", "found": found}


def _power_of_two(most: int) -> int:
    """The largest one that is at most `most`; 1 if there is none."""
    power = 1
    while 2 * power <= most:
        power = 2 * power
    return power


def _workers(first: Config, measured: Mapping[str, Any]) -> dict[str, str]:
    """Whether the loader keeps up with the training, and else how many processes would."""
    rates = {}
    for count, rate in measured["model"]["loader_pairs_a_second"].items():
        rates[int(count)] = rate
    step = step_seconds(first, measured["variants"][first.variant])
    needed = first.batch_size / step
    enough = [count for count in rates if rates[count] > ENOUGH * needed]
    prepared = f"{first.workers} prepare {rates[first.workers]:.0f} pairs a second"
    taken = f"the training takes {needed:.0f}"
    if first.workers in enough or not enough:
        return {"setting": f"workers: {first.workers}", "found": f"{prepared}, and {taken}"}
    return {"setting": f"workers: {min(enough)}", "found": f"better: {prepared}, but {taken}"}
