"""How long the models of a run were trained, and what is equal about it (ours)."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mcrlib import results
from mcrlib.training.budget import operations


@dataclass(frozen=True)
class Length:
    """The length of one model's training."""

    epochs: float
    flops: int = 0  # of all steps; 0 if they were not counted yet
    flops_a_step: int = 0


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
        length = _length(file.parent)
        if length is not None:
            lengths[name] = length
    if not lengths:
        return ""
    epochs = {length.epochs for length in lengths.values()}
    if len(epochs) == 1:
        return f"Trained at equal epochs ({epochs.pop():.3g} each). "
    by_model = ", ".join(f"{name} {length.epochs:.3g}" for name, length in lengths.items())
    if _at_equal_compute(list(lengths.values())):
        first = next(iter(lengths.values()))
        return f"Trained at equal compute ({operations(first.flops)} each; epochs {by_model}). "
    return f"Trained at neither equal epochs nor equal compute (epochs {by_model}). "


def _length(folder: Path) -> Length | None:
    """What the record of a training says; older records have no epochs, but each has a row in the
    history."""
    record = folder / "training.json"
    if not record.is_file():
        return None
    values = results.load(record)["values"]
    if "epochs" in values:
        return Length(values["epochs"], values["flops"], values["flops_a_step"])
    history = folder / "history.csv"
    if not history.is_file():
        return None
    return Length(len(pd.read_csv(history)))


def _at_equal_compute(lengths: list[Length]) -> bool:
    """Whether the sums of operations differ by less than a step's."""
    flops = [length.flops for length in lengths]
    a_step = max(length.flops_a_step for length in lengths)
    return min(flops) > 0 and max(flops) - min(flops) <= a_step
