"""What this machine has for a run, and whether the run may start.

`python -m mcrlib.companion.doctor RUN DATA WEIGHTS`
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from mcrlib import config

SOURCES = {
    "table": "a CSV, TSV, Parquet or JSON-lines file with the columns image and report",
    "openi": "the folder with Open-i's reports and PNG images",
    "mimic": "the folder with MIMIC-CXR-JPG and the reports of MIMIC-CXR",
}


def report(run: str, data: str, weights: str) -> Iterator[str]:
    """One line a thing that the run needs."""
    import torch  # here, since it takes seconds that the guard of each make target need not wait

    from mcrlib.evaluation import java

    settings = config.load(run)
    cuda = torch.cuda.is_available()
    yield f"GPU      {torch.cuda.get_device_name() if cuda else 'none: training runs on the CPU'}"
    yield f"cores    {os.cpu_count()}"
    try:
        yield f"Java     {java.executable()}"
    except FileNotFoundError as error:
        yield f"Java     {error}"
    yield f"disk     {shutil.disk_usage(config.ROOT).free / 1e9:.0f} GB free in {config.ROOT}"
    prepared = (settings.data_folder / "dataset.json").is_file()
    given = data or ("made by code" if settings.source == "phantom" else "not given: DATA=...")
    yield f"data     {given}; prepared in {settings.data_folder}: {'yes' if prepared else 'no'}"
    if settings.vision or settings.text:
        names = [Path(name).name for name in (settings.vision, settings.text) if name]
        there = [name for name in names if weights and (Path(weights) / name).is_dir()]
        yield f"weights  {', '.join(names)}: {', '.join(there) or 'from the hub'}"


def obstacle(run: str, data: str, confirm: str) -> str:
    """Why the run may not start, in one sentence; "" where it may."""
    if run == "reference":
        return "RUN=reference is a copy that draws and never trains: use RUN=demo."
    source = config.load(run).source
    if source in SOURCES and not Path(data or "?").exists():
        return f"RUN={run} needs DATA={data or '...'} to be {SOURCES[source]}; there is none."
    if run == "mimic" and confirm != "1":
        return (
            "RUN=mimic caches 16 GB of images, writes 10 GB of saves while a model trains, of "
            "which 1 GB stays, and trains each for 50 epochs of 213,000 pairs, which nobody has "
            "timed yet: a day or more a model on one GPU is our guess. Say CONFIRM=1 to go on."
        )
    return ""


if __name__ == "__main__":
    try:
        if sys.argv[1] == "--may-run":
            sys.exit(obstacle(*sys.argv[2:]) or 0)
        print("\n".join(report(*sys.argv[1:])))
    except ValueError as error:
        sys.exit(str(error))
