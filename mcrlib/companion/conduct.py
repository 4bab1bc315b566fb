"""Run experiments item by item: `python -m mcrlib.companion.conduct RUN SET ONLY` (ours).

Each item's models are trained and embedded by the Makefile's own targets, which leave alone what is
finished, so that a run that was killed goes on where it was. Verdicts follow after every item.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mcrlib import config
from mcrlib.companion import experiments, status
from mcrlib.companion.experiments import Item
from mcrlib.locks import lock

PROJECT = Path(__file__).resolve().parents[2]  # where the Makefile is
INTERRUPTED = 130  # exit code after Ctrl-C
LOCK = "experiments.lock"
VERDICTS = "12_claims"
OF_A_RUN = ("DATA", "WEIGHTS")  # variables of the environment that are meant for one run


def conduct(run: str, changes: str, only: str = "") -> list[str]:
    """Run the items of a run that are not current; returns the ids of those that failed.

    A second call for the same run waits for the first, and then finds its work done. An item that
    fails does not keep the others from running. Raises ValueError for unknown names.
    """
    config.check_names(run, "mcr", "0", changes)
    items = experiments.chosen(only)
    overrides = config.read_settings(changes)
    folder = config.ROOT / "results" / run
    notice = f"Waiting for other experiments of RUN={run} ({{holder}})."
    failed = []
    with lock(folder / LOCK, wait=math.inf, notice=notice):
        for item in items:
            ((_, state),) = status.states(run, overrides, item.id)
            if state.word == status.CURRENT:
                print(f"{item.id}: current", flush=True)
                continue
            print(f"{item.id}: {state.word}: {state.reason}", flush=True)
            if not _run(item, run, overrides):
                failed.append(item.id)
    return failed


def _run(item: Item, run: str, overrides: dict[str, Any]) -> bool:
    """Train, embed and evaluate one item; whether all of it succeeded."""
    if item.models:
        variants = " ".join(item.variants)
        seeds = " ".join(map(str, item.seeds))
        embed = ["embed", f"VARIANTS={variants}", f"SEEDS={seeds}"]
        for own in item.runs(run):
            if not _make(own, embed, experiments.overrides_of(own, run, overrides), run):
                return False
    names = [VERDICTS] if item.notebook == VERDICTS else [item.notebook, VERDICTS]
    return all(_make(run, [name], overrides, run) for name in names)


def _make(run: str, words: list[str], overrides: dict[str, Any], asked: str) -> bool:
    """Whether make succeeded. DATA, WEIGHTS and the like reach it through the environment; the run
    that was asked about may be another one than that to make, and then they are not for it."""
    environment = dict(os.environ)
    environment.pop("MAKEFLAGS", None)  # of the make above, whose VARIANTS would win
    environment["SET"] = json.dumps(overrides)[1:-1]  # SET has no braces around it
    if config.preset(run) != config.preset(asked):
        for name in OF_A_RUN:
            environment.pop(name, None)
    command = ["make", "--no-print-directory", *words, f"RUN={run}"]
    done = subprocess.run(command, cwd=PROJECT, env=environment)
    return done.returncode == 0


def main(arguments: list[str]) -> str | int:
    """Run `RUN SET [ONLY]`; returns the exit code, or the sentence to exit with."""
    run, changes, *only = arguments
    if run == config.REFERENCE:
        return (
            "RUN=reference is a copy that trains nothing: make experiments RUN=demo, then make "
            "publish."
        )
    try:
        failed = conduct(run, changes, *only)
    except KeyboardInterrupt:
        print("Stopped; run the same command again to go on.", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError) as error:
        return str(error)
    if failed:
        return f"Not finished: {', '.join(failed)}. Run the same command again to go on."
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
