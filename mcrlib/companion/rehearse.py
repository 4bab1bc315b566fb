"""A run tried out on a sample of its pairs, on this machine, with its own sizes and weights (ours).

`python -m mcrlib.companion.rehearse RUN VARIANTS SEEDS DATA WEIGHTS SET` executes the notebooks of
the whole graph as the run `rehearse-RUN`, measures what each part takes, and ends with the plan of
RUN. A rehearsal starts anew each time, since it is about how things are now.
"""

import csv
import json
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import papermill

from mcrlib import config, results
from mcrlib.companion import doctor, estimate, plan
from mcrlib.companion.execute import absolute, execute
from mcrlib.config import DRAWN_SOURCES, Config
from mcrlib.files import keep_private
from mcrlib.training.history import recall_name, recorded_k

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
EPOCHS = 2  # the fewest that draw a curve
EPOCH_SECONDS = 20.0  # of the trainings that only have to draw something
EVALUATION = (
    "09_explore", "03_retrieval", "04_text_metrics", "05_modality_gap", "06_top3", "10_grounding",
    "11_relevance", "12_claims",
)  # fmt: skip


@dataclass
class Rehearsal:
    """What is rehearsed, and the seconds that each notebook took: of the first model where there
    are several."""

    run: str  # the one that is tried out
    variants: list[str]
    seeds: list[int]
    data: str  # file or folder of the source, "" for drawn pairs
    weights: str  # folder of the pretrained encoders, "" for the hub
    overrides: dict[str, Any]
    notebook_seconds: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the run that tries it out."""
        return f"{config.REHEARSAL}{self.run}"

    def settings(self, variant: str, seed: int) -> Config:
        """The settings of a model of the whole run, under the rehearsal's name."""
        given = {"data": self.data, "weights": self.weights}
        return config.load(self.name, variant, seed, **given, **self.overrides)

    def all_settings(self) -> list[Config]:
        """Those of each model that the whole run trains."""
        return [self.settings(variant, seed) for variant in self.variants for seed in self.seeds]

    def notebook(self, name: str, suffix: str = "", **parameters: Any) -> None:
        """Execute a notebook of the graph for the rehearsal. Raises what papermill raises."""
        print(f"{self.name}: {name}{suffix}", flush=True)
        executed = config.ROOT / "results" / self.name / "executed"
        started = time.perf_counter()
        parameters = {"run": self.name, **parameters}
        execute(NOTEBOOKS / f"{name}.ipynb", executed / f"{name}{suffix}.ipynb", parameters)
        self.notebook_seconds.setdefault(name, time.perf_counter() - started)


def rehearse(rehearsal: Rehearsal) -> None:
    """Run the whole graph on a sample and write `results/rehearse-RUN/plan.json`.

    One seed of each variant is trained, a few steps each. Raises what the notebooks raise, and
    ValueError or FileNotFoundError if the source cannot be read.
    """
    # Imported lazily: slow, and names and paths are checked before.
    from mcrlib.companion import machine
    from mcrlib.data.dataset import open_dataset

    first = rehearsal.settings(rehearsal.variants[0], rehearsal.seeds[0])
    if first.source not in DRAWN_SOURCES:
        keep_private()
    print(f"{rehearsal.name}: choosing pairs", flush=True)
    measured = {"data": machine.measure_data(first)}  # raises if the source cannot be read
    _start_anew(rehearsal.name)
    overrides = rehearsal.overrides
    rehearsal.notebook("00_data", data=rehearsal.data, overrides=overrides)
    dataset = open_dataset(first.data_folder)
    splits = dataset.info["splits"]
    measured["pairs"] = {split: counts["pairs"] for split, counts in splits.items()}
    measured["variants"] = {}
    for variant in rehearsal.variants:
        print(f"{rehearsal.name}: timing steps of {variant}", flush=True)
        own = rehearsal.settings(variant, rehearsal.seeds[0])
        measured["variants"][variant] = machine.measure_variant(own, dataset)
    print(f"{rehearsal.name}: timing other settings", flush=True)
    timed = measured["variants"][first.variant]
    measured["model"] = machine.measure_model(first, dataset, timed["pairs"])
    measured["other_settings"] = machine.measure_settings(first, dataset, timed["pairs"])
    measured["memory_bytes"] = machine.memory_bytes()
    measured["largest_batch_pairs"] = machine.largest_batch_of(first, dataset, timed["bytes"])
    _run_graph(rehearsal, measured)
    measured["notebook_seconds"] = rehearsal.notebook_seconds
    measured["training_start_seconds"] = _training_start(first, measured)
    measured = json.loads(json.dumps(measured))  # as a file would hold it, with names as text
    planned = estimate.make(rehearsal.all_settings(), measured)
    about = {"run": rehearsal.name, "pairs": dataset.info["kept"]}
    results.save(plan.file_of(rehearsal.run), planned, **about)


def _start_anew(run: str) -> None:
    for name in ("data", "results", "figures"):
        shutil.rmtree(config.ROOT / name / run, ignore_errors=True)


def _run_graph(rehearsal: Rehearsal, measured: dict[str, Any]) -> None:
    """Train, embed, and draw everything."""
    seed = rehearsal.seeds[0]
    for variant in rehearsal.variants:
        suffix = f"-{variant}-seed{seed}"
        own = rehearsal.settings(variant, seed)
        short = _shortened(own, measured["variants"][variant])
        rehearsal.notebook(
            "01_train",
            suffix,
            variant=variant,
            seed=seed,
            weights=rehearsal.weights,
            overrides=rehearsal.overrides | short,
        )
        rehearsal.notebook("02_embed", suffix, variant=variant, seed=seed)
    for name in EVALUATION:
        rehearsal.notebook(name)


def _shortened(settings: Config, timed: dict[str, Any]) -> dict[str, Any]:
    """Settings of a training that has the run's sizes, but only a few steps."""
    pairs = timed["pairs"]
    seconds = sum(timed["step_seconds"][pairs]) / len(timed["step_seconds"][pairs])
    return {
        "batch_size": pairs,
        "micro_batch": min(settings.micro_batch, pairs),
        "epochs": min(settings.epochs, EPOCHS),
        "compute": 0.0,
        "epoch_steps": max(1, int(EPOCH_SECONDS / seconds)),
    }


def _training_start(first: Config, measured: dict[str, Any]) -> float:
    """Seconds that notebook 01 took for neither steps, validation nor saves."""
    with (first.folder / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    recall = recall_name(recorded_k(history[0]))
    validations = sum(bool(row.get(recall)) for row in history)
    model = measured["model"]
    spent = sum(float(row["seconds"]) for row in history)
    spent += validations * measured["pairs"]["validate"] * model["seconds_a_pair_embedded"]
    spent += (len(history) + 1) * model["save"]["seconds"]
    least = measured["variants"][first.variant]["start_seconds"]
    return max(measured["notebook_seconds"]["01_train"] - spent, least)


def main(arguments: list[str]) -> str | int:
    """Rehearse `RUN VARIANTS SEEDS DATA WEIGHTS SET` and print the plan; returns the exit code, or
    the sentence to exit with."""
    run, variants, seeds, data, weights, changes = arguments
    try:
        config.check_names(run, variants, seeds, changes)
        obstacle = doctor.obstacle(f"{config.REHEARSAL}{run}", data, "", weights)
        if obstacle:
            return obstacle
        rehearsal = Rehearsal(
            run=run,
            variants=variants.split(),
            seeds=[int(seed) for seed in seeds.split()],
            data=absolute(data),
            weights=absolute(weights),
            overrides=config.read_settings(changes),
        )
        rehearse(rehearsal)
    except papermill.PapermillExecutionError as error:
        return f"The rehearsal stopped: {error.ename}: {error.evalue}"
    except KeyboardInterrupt:
        return "The rehearsal was stopped; run the same command again to start it anew."
    except (ValueError, OSError) as error:
        return str(error)
    for line in plan.show(run, variants, seeds, changes):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
