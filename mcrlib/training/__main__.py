"""Train one model: `python -m mcrlib.training run=demo variant=mcr seed=0`.

The exit code is 0 for a finished model, 1 for an error, 130 after Ctrl-C, and 75 after a signal of
a scheduler: then everything is saved, and the same command goes on.
"""

import sys

from mcrlib.config import load, parse
from mcrlib.data.dataset import open_dataset
from mcrlib.training.faults import RETRY, Stopped
from mcrlib.training.loop import train


def main(arguments: list[str]) -> int:
    """Train with the settings `NAME=VALUE...` and return the exit code.

    The run is `demo` unless `run=` names another one.
    """
    try:
        settings = parse(arguments)
        settings.setdefault("run", "demo")
        config = load(**settings)
        dataset = open_dataset(config.data_folder)
        train(config, dataset)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return RETRY
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("Stopped; run the same command again to go on from the last save.", file=sys.stderr)
        sys.exit(130)
