"""How long a training is: its epochs as they are set, or as many as equal compute allows (ours).

Compute is the number of floating-point operations of all steps (`cost.step_flops`). At equal
compute every variant has the same sum, a multiple of what `mcr` takes for `epochs` epochs. Both may
end in mid-epoch; the learning rate's schedule then ends there too.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mcrlib.config import Config
from mcrlib.files import write

if TYPE_CHECKING:
    from transformers import BertConfig

BUDGET_FILE = "budget.json"  # in the model's folder
# Prefix of the operations' unit, largest first.
PREFIXES = {"E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6}


@dataclass(frozen=True)
class Budget:
    """The length of one training."""

    steps: int  # in all
    epoch_steps: int  # of a whole epoch
    flops_a_step: int
    # Epochs of so few pairs that take as many steps as one of the whole split.
    epochs_of_all: float = 1.0

    @property
    def epochs(self) -> float:
        """The length in epochs, such as 9.6."""
        return self.steps / self.epoch_steps

    @property
    def last_epoch(self) -> int:
        """The number of the last epoch, from 1, which may be shorter than the others."""
        return math.ceil(self.epochs)

    @property
    def flops(self) -> int:
        """Operations of all steps."""
        return self.steps * self.flops_a_step

    def steps_of(self, epoch: int) -> int:
        """Steps of an epoch, counted from 0."""
        left = self.steps - epoch * self.epoch_steps
        return min(left, self.epoch_steps)

    def save(self, folder: Path) -> None:
        """Write it into a model's folder."""
        text = json.dumps(dataclasses.asdict(self), indent=1)
        write(folder / BUDGET_FILE, text.encode())


def of_training(
    config: Config,
    lengths: Sequence[int],
    words: int,
    bert: "BertConfig",
    epoch_steps: int,
    steps_of_all: int = 0,
) -> Budget:
    """The budget of a training with `epoch_steps` steps a whole epoch.

    With fewer pairs than the split has, `steps_of_all` are those of an epoch of the whole split,
    by which the settings count. `lengths` are those of all training reports in tokens, `words` is
    the size of the vocabulary, and `bert` the report encoder's sizes.
    """
    steps_of_all = steps_of_all or epoch_steps
    steps = config.epochs * steps_of_all
    flops = _flops_a_step(config, lengths, words, bert)
    if config.compute:
        of_mcr = flops
        method = config.method()
        if method != config:
            of_mcr = _flops_a_step(method, lengths, words, bert)
        steps = config.compute * steps * of_mcr / flops
    return Budget(max(1, round(steps)), epoch_steps, flops, steps_of_all / epoch_steps)


def read(folder: Path) -> Budget | None:
    """The budget of the model in a folder; None if it was trained before budgets were saved."""
    file = folder / BUDGET_FILE
    if not file.is_file():
        return None
    return Budget(**json.loads(file.read_bytes()))


def typical_lengths(lengths: Sequence[int], pairs: int) -> list[int]:
    """The lengths of a batch of `pairs` reports that are as long as all `lengths` are: their
    quantiles, shortest first."""
    middles = (np.arange(pairs) + 0.5) / pairs
    return np.quantile(lengths, middles, method="nearest").astype(int).tolist()


def operations(count: float) -> str:
    """A number of operations with a unit, such as "8.3 TFLOPs"."""
    for prefix, unit in PREFIXES.items():
        if count >= unit:
            return f"{count / unit:.3g} {prefix}FLOPs"
    return f"{count:.0f} FLOPs"


def sentence(budget: Budget, config: Config) -> str:
    """The budget of a training at equal compute in one line: its operations, what they are equal
    to, and how many epochs and steps that makes."""
    times = "" if config.compute == 1 else f"{config.compute:g} times "
    return (
        f"{config.variant} at equal compute: {operations(budget.flops)}, {times}that of mcr's "
        f"{config.epochs:g} epochs; {budget.epochs:.3g} epochs, {budget.steps:,} steps of "
        f"{operations(budget.flops_a_step)}"
    )


def _flops_a_step(config: Config, lengths: Sequence[int], words: int, bert: "BertConfig") -> int:
    from mcrlib.training import cost  # takes seconds, and captions only need the records

    sizes = {
        "text": "",
        "text_width": bert.hidden_size,
        "text_depth": bert.num_hidden_layers,
        "text_heads": bert.num_attention_heads,
    }
    typical = typical_lengths(lengths, config.batch_size)
    return cost.step_flops(config.replace(**sizes), typical, words)
