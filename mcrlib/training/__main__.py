"""Train one model: `python -m mcrlib.training run=demo variant=mcr seed=0`."""

import sys

from mcrlib.config import load, parse
from mcrlib.data.dataset import open_dataset
from mcrlib.training.loop import train


def main(arguments: list[str]) -> int:
    """`NAME=VALUE...`: a run, a variant, a seed and any other setting; returns the exit code."""
    try:
        settings = load(**{"run": "demo"} | parse(arguments))
        train(settings, open_dataset(settings.data_folder))
    except (ValueError, OSError, FloatingPointError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
