"""What of each experiment is there: `python -m mcrlib.companion.status RUN SET` (ours).

One line an item: current, stale or missing, why, and what to run next. Hashes decide, as recorded
with models, embeddings and numbers, never times. Nothing is run, and PyTorch is not loaded.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcrlib import config, results
from mcrlib.companion import (
    analyses,
    claims,
    domain,
    experiments,
    growth,
    robustness,
    scaling,
)
from mcrlib.companion.experiments import Item
from mcrlib.evaluation.seeds import variant_and_seed
from mcrlib.training.finished import check_finished

CURRENT = "current"
STALE = "stale"
MISSING = "missing"
EMBEDDED = ("validate", "test")  # splits
# File of numbers -> what it would be made from now.
INPUTS = {
    analyses.COMPARISON: analyses.comparison_inputs,
    analyses.GAP_COMPARISON: analyses.gap_comparison_inputs,
    scaling.FILE: scaling.scaling_inputs,
    robustness.FILE: robustness.inputs,
    domain.FILE: domain.domain_inputs,
    growth.FILE: growth.growth_inputs,
}


@dataclass(frozen=True)
class State:
    """What is there of an item, why it is no more than that, and what to run next."""

    word: str
    reason: str = ""
    next: str = ""


@dataclass
class _Look:
    """One look at a run; hashes of its files are computed once."""

    run: str
    overrides: dict[str, Any]  # the settings that the models were asked for
    inputs: dict[str, dict[str, str]] = field(default_factory=dict)  # by file of numbers

    def state(self, item: Item) -> State:
        """What is there of an item."""
        for check in (self._models, self._numbers, self._claims):
            state = check(item)
            if state.word != CURRENT:
                return state
        return State(CURRENT)

    def _models(self, item: Item) -> State:
        """Whether every model of an item is trained and embedded as it would be now."""
        if self._has_numbers_alone(item):
            return State(CURRENT)
        missing = []
        runs = item.runs(self.run)
        for run in runs:
            for name in item.models:
                try:
                    is_whole = self._is_whole(run, name)
                except ValueError as error:
                    advice = f"what it says, then {self._experiments(item)}"
                    return State(STALE, str(error), advice)
                if not is_whole:
                    missing.append(name if run == self.run else f"{run}/{name}")
        if missing:
            needed = len(runs) * len(item.models)
            count = f"{len(missing)} of {needed} models: {', '.join(missing)}"
            return State(MISSING, count, self._experiments(item))
        return State(CURRENT)

    def _has_numbers_alone(self, item: Item) -> bool:
        """Whether a copy holds an item's numbers without all of its models."""
        return self.run == config.REFERENCE and item.runs(self.run) != [self.run]

    def _is_whole(self, run: str, name: str) -> bool:
        """Whether a model is trained and embedded. Raises ValueError if it is out of date."""
        variant, seed = variant_and_seed(name)
        overrides = experiments.overrides_of(run, self.run, self.overrides)
        settings = config.load(run, variant, int(seed), **overrides)
        if self.run != config.REFERENCE:
            check_finished(settings, results.dataset_hash(run))
        return self._is_embedded(settings.folder, run)

    def _is_embedded(self, folder: Path, run: str) -> bool:
        """Whether both splits are embedded. Raises ValueError if one is out of date."""
        files = [folder / f"embeddings-{split}.npz" for split in EMBEDDED]
        if not all(file.is_file() for file in files):
            return False
        for file in files:
            results.refuse_stale(file, run, results.listed_hash)
        return True

    def _experiments(self, item: Item) -> str:
        """The command that makes an item current."""
        if self.run == config.REFERENCE:
            return f"make experiments RUN=demo ONLY={item.id}, then make publish"
        return f"make experiments RUN={self.run} ONLY={item.id}"

    def _numbers(self, item: Item) -> State:
        """Whether an item's numbers were made from what is there now."""
        file = config.ROOT / "results" / self.run / item.numbers
        command = f"make {item.notebook} RUN={self.run}"
        if not file.is_file():
            if self._has_numbers_alone(item):
                command = self._experiments(item)
            return State(MISSING, f"{file.name} is not there", command)
        # Some depend on no data and no model, and of a copy they are not here.
        if item.numbers not in INPUTS or self._has_numbers_alone(item):
            return State(CURRENT)
        try:
            if item.numbers not in self.inputs:
                inputs_of = INPUTS[item.numbers]
                self.inputs[item.numbers] = inputs_of(self.run, model_hash=results.listed_hash)
        except (ValueError, FileNotFoundError) as error:
            return State(STALE, str(error), f"what it says, then {command}")
        if not results.is_current(file, self.inputs[item.numbers]):
            return State(STALE, f"{file.name} was made from other embeddings or pairs", command)
        return State(CURRENT)

    def _claims(self, item: Item) -> State:
        """Whether the verdicts were reached by the numbers and rules that are there now."""
        file = config.ROOT / "results" / self.run / claims.FILE
        command = f"make 12_claims RUN={self.run}"
        if not file.is_file():
            return State(MISSING, f"{file.name} is not there", command)
        if claims.FILE not in self.inputs:
            self.inputs[claims.FILE] = claims.claim_inputs(self.run)
        if not results.is_current(file, self.inputs[claims.FILE]):
            return State(STALE, f"{file.name} was made from other numbers or rules", command)
        return State(CURRENT)


def states(run: str, overrides: dict[str, Any], only: str = "") -> Iterator[tuple[Item, State]]:
    """The state of each item of a run, or of those named in `only`.

    `overrides` are the settings that the models were asked for. Raises ValueError for an unknown
    item or setting.
    """
    look = _Look(run, overrides)
    for item in experiments.chosen(only):
        yield item, look.state(item)


def lines(run: str, changes: str, only: str = "") -> Iterator[str]:
    """A line for each item. Raises ValueError for an unknown run, setting or item."""
    config.check_names(run, "mcr", "0", changes)
    overrides = config.read_settings(changes)
    for item, state in states(run, overrides, only):
        line = f"{item.id:<20} {state.word:<8}"
        if state.word != CURRENT:
            line += f" {state.reason}; next: {state.next}"
        yield line.rstrip()


def main(arguments: list[str]) -> str | int:
    """Print the state of `RUN SET [ONLY]`; returns the exit code, or the sentence to exit with."""
    try:
        for line in lines(*arguments):
            print(line)
    except ValueError as error:
        return str(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
