"""Whether what a run has finished is what is asked for now.

`make` runs `python -m mcrlib.companion.settled RUN VARIANTS SEEDS SET` before it reuses finished
models and embeddings, because make itself sees only that the files exist.
"""

import sys

from mcrlib import config, results
from mcrlib.config import Config
from mcrlib.training.finished import check_finished

EMBEDDED = ("validate", "test")  # splits


def refuse_other(settings: Config) -> None:
    """Raise ValueError if the finished model of these settings, or its embeddings, were made from
    other settings, other pairs or, for embeddings, another model."""
    check_finished(settings, results.dataset_hash(settings.run))
    for split in EMBEDDED:
        file = settings.folder / f"embeddings-{split}.npz"
        if file.is_file():
            results.refuse_stale(file, settings.run)


def main(arguments: list[str]) -> str | int:
    """Check the models of `RUN VARIANTS SEEDS SET`; returns the exit code, or the sentence to exit
    with."""
    run, variants, seeds, changes = arguments
    try:
        overrides = config.read_settings(changes)
        for variant in variants.split():
            for seed in seeds.split():
                refuse_other(config.load(run, variant, int(seed), **overrides))
    except ValueError as error:
        return str(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
