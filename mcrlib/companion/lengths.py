"""How long the models of a run were trained, and what is equal about it (ours)."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mcrlib import results
from mcrlib.training.budget import operations


@dataclass(frozen=True)
class Length:
    """The length of one training, or the mean of several."""

    epochs: float
    flops: float = 0  # of all steps; 0 if they were not counted yet
    flops_a_step: float = 0


def trained_alike(run: str) -> str:
    """A sentence for captions: whether a run's models were trained at equal compute, at equal
    epochs, or neither; "" if nothing says how long they were trained.

    Models that were trained elsewhere, and the linear baseline, do not count.
    """
    lengths = {}
    try:
        models = results.embedding_files(run)
    except FileNotFoundError:  # its numbers may be there nevertheless
        models = {}
    for name, file in models.items():
        length = of_model(file.parent)
        if length is not None:
            lengths[name] = length
    if not lengths:
        return ""
    by_model = ", ".join(f"{name} {length.epochs:.3g}" for name, length in lengths.items())
    return _sentence(list(lengths.values()), f"epochs {by_model}")


def alike(lengths: Sequence[Length]) -> str:
    """As `trained_alike`, of these lengths, whose models have no names."""
    epochs = [length.epochs for length in lengths]
    return _sentence(lengths, f"{min(epochs):.3g} to {max(epochs):.3g} epochs")


def _sentence(lengths: Sequence[Length], their_epochs: str) -> str:
    epochs = {length.epochs for length in lengths}
    if len(epochs) == 1:
        return f"Trained at equal epochs ({epochs.pop():.3g} each). "
    if at_equal_compute(lengths):
        each = operations(lengths[0].flops)
        return f"Trained at equal compute ({each} each; {their_epochs}). "
    return f"Trained at neither equal epochs nor equal compute ({their_epochs}). "


def of_model(folder: Path) -> Length | None:
    """What the record of a training says; None if nothing does.

    Older records have no epochs, but each has a row in the history.
    """
    record = folder / "training.json"
    values = results.load(record)["values"] if record.is_file() else {}
    if "epochs" in values:
        return length_of(values)
    history = folder / "history.csv"
    if not history.is_file():
        return None
    return Length(len(pd.read_csv(history)))


def length_of(record: Mapping[str, float]) -> Length:
    """The length that a record of numbers holds; older ones have epochs only."""
    return Length(record["epochs"], record.get("flops", 0), record.get("flops_a_step", 0))


def mean(lengths: Sequence[Length]) -> Length:
    """The mean of several trainings; their operations are 0 unless all were counted."""
    epochs = statistics.fmean(length.epochs for length in lengths)
    if not all(length.flops for length in lengths):
        return Length(epochs)
    flops = statistics.fmean(length.flops for length in lengths)
    return Length(epochs, flops, statistics.fmean(length.flops_a_step for length in lengths))


def at_equal_compute(lengths: Sequence[Length]) -> bool:
    """Whether all operations were counted, and their sums differ by a step's at most."""
    flops = [length.flops for length in lengths]
    a_step = max(length.flops_a_step for length in lengths)
    return min(flops) > 0 and max(flops) - min(flops) <= a_step
