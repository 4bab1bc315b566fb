"""Data of MIMIC-CXR's size: opening, the start of a training, workers, a large pool, METEOR.

`python benchmarks/full_size.py` prints all rows, `python benchmarks/full_size.py opening workers`
only those parts. `--save` also writes them to results/bench-full_size.json, each part with the
code that it was measured with. Each part is measured in processes of its own. Processor times count
all cores and child processes; other work on the machine lengthens the wall times only.
"""

import atexit
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from measured import own_memory, row
from saved import code_version
from torch.utils.data import DataLoader
from transformers import BertTokenizer

from mcrlib import config, results
from mcrlib.companion import analyses
from mcrlib.config import Config
from mcrlib.data import prepare
from mcrlib.data.dataset import VERIFIED_FILE, Dataset, open_dataset
from mcrlib.evaluation import java, text_metrics
from mcrlib.training import loop

# MIMIC-CXR-JPG 2.0.0: images, studies and patients of each split.
RELEASE = {
    "test": (5_159, 3_269, 293),
    "validate": (2_991, 1_808, 500),
    "train": (368_960, 222_750, 64_586),
}
POOL = {"train": (100, 100, 100), "validate": (100, 100, 100), "test": (50_000, 50_000, 5_000)}
FILE = "results/bench-full_size.json"
SIDE = 16  # pixels of an image
WORKERS = 8
PAIRS_OF_METEOR = 5_000
METEOR_BEFORE = 3.7  # milliseconds that this benchmark measured at 194d435
NORMAL_SHARE = 0.15  # of the reports have one of a few common texts

LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum",
    "Fracture", "Lung Lesion", "Lung Opacity", "Pleural Effusion", "Pleural Other", "Pneumonia",
    "Pneumothorax", "Support Devices",
)  # fmt: skip
WORDS = {
    "degree": ["small", "mild", "moderate", "large", "minimal", "subtle", "trace", "extensive"],
    "side": ["left", "right", "bilateral", "left lower lobe", "right upper lobe", "lingular"],
    "thing": ["pleural effusion", "atelectasis", "consolidation", "pneumothorax", "opacity",
              "interstitial edema", "pulmonary vascular congestion", "airspace disease"],
    "device": ["endotracheal tube", "nasogastric tube", "PICC line", "pacemaker lead",
               "central venous catheter", "chest tube", "Swan-Ganz catheter", "Dobbhoff tube"],
    "place": ["superior vena cava", "right atrium", "carina", "stomach", "mid thoracic trachea"],
    "change": ["unchanged", "improved", "increased", "decreased", "new", "stable", "resolved"],
    "size": [f"{tenths / 10} cm" for tenths in range(5, 95)],
}  # fmt: skip
SENTENCES = [
    "There is a {degree} {side} {thing}, which has {change} since the prior study.",
    "The {device} terminates {size} above the {place}.",
    "The {device} has been removed, and a {device} is seen with its tip in the {place}.",
    "{degree} {side} {thing} may reflect {thing}, although infection cannot be excluded.",
    "No evidence of {thing} or {thing}.",
    "The cardiomediastinal silhouette is {change}, with {degree} enlargement.",
    "A {size} nodular opacity projects over the {side} hemithorax, {change} from ___.",
    "The hilar and mediastinal contours are {change}.",
    "Compared with the previous radiograph, the {thing} is {change}; the {device} is {change}.",
    "Osseous structures are without acute abnormality.",
]
NORMAL = [
    "No acute cardiopulmonary process.",
    "The lungs are clear. No pleural effusion or pneumothorax is seen. The cardiac and mediastinal "
    "silhouettes are unremarkable. No acute cardiopulmonary process.",
    "Heart size is normal. The mediastinal and hilar contours are normal. Lungs are clear. No "
    "acute osseous abnormality. No acute cardiopulmonary process.",
]


# The generated data


@lru_cache
def home(name: str) -> Path:
    """A folder with the data of a run `table`, which is removed when this process ends.

    `release` is of MIMIC-CXR's size, `pool` has 50,000 test pairs and their embeddings.
    """
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    _in_a_process(f"generate_{name}", folder)
    return folder


def generate_release() -> dict:
    """Write data of MIMIC-CXR's size into this home."""
    return _describe(_generate(RELEASE))


def generate_pool() -> dict:
    """Write a test split of 50,000 pairs and its embeddings into this home."""
    records = _generate(POOL)
    _write_embeddings(config.load("table"), records)
    return _describe(records)


def _describe(records: list[dict[str, Any]]) -> dict:
    words = [len(record["report"].split()) for record in records]
    return {"images": len(records), "words": float(np.mean(words))}


def _generate(sizes: dict[str, tuple[int, int, int]]) -> list[dict[str, Any]]:
    """Write prepared data as `prepare.build` would; returns the manifest's rows."""
    settings = config.load("table", cache_size=SIDE)
    folder = settings.data_folder
    folder.mkdir(parents=True)
    records = list(_records(sizes))
    _write_images(folder / "images.npy", len(records))
    prepare._write(records, [], [], folder, settings)
    return records


def _records(sizes: dict[str, tuple[int, int, int]]) -> Iterator[dict[str, Any]]:
    """The manifest's rows: images of studies of patients, each study with a generated report."""
    draw = random.Random(0)
    for split, (images, studies, patients) in sizes.items():
        patient_of_study = _parents(studies, patients)
        study_of_image = _parents(images, studies)
        last_study = -1
        for study in study_of_image.tolist():
            if study != last_study:
                record = _study(split, study, int(patient_of_study[study]), draw)
                last_study = study
            image = f"{draw.getrandbits(160):040x}"
            yield record | {"pair_id": image, "source": f"{record['source']}/{image}.jpg"}


def _parents(children: int, parents: int) -> np.ndarray:
    """The parent of each child [children], in ascending order; each has at least one child."""
    rng = np.random.default_rng(children)
    others = rng.integers(parents, size=children - parents)
    return np.sort(np.concatenate([np.arange(parents), others]))


def _study(split: str, study: int, patient: int, draw: random.Random) -> dict[str, Any]:
    """All columns of a study's rows but the image's own."""
    findings, impression = _report(draw)
    patient_id = f"{split}{10_000_000 + patient}"
    study_id = f"{split}{50_000_000 + study}"
    present = [label for label in LABELS if draw.random() < 0.12]
    return {
        "patient_id": patient_id,
        "study_id": study_id,
        "split": split,
        "view": draw.choice(["PA", "AP"]),
        "report": f"{findings} {impression}",
        "findings": findings,
        "impression": impression,
        "labels": present,
        "uncertain": [label for label in LABELS if draw.random() < 0.03],
        "source": f"files/p10/p{patient_id}/s{study_id}",
    }


def _report(draw: random.Random) -> tuple[str, str]:
    """Findings and impression, of about 65 words together."""
    if draw.random() < NORMAL_SHARE:
        return draw.choice(NORMAL), NORMAL[0]
    sentences = [_sentence(draw) for _ in range(2 + int(draw.expovariate(1 / 4)))]
    return " ".join(sentences), _sentence(draw)


def _sentence(draw: random.Random) -> str:
    sentence = draw.choice(SENTENCES)
    while "{" in sentence:
        kind = sentence.partition("{")[2].partition("}")[0]
        sentence = sentence.replace(f"{{{kind}}}", draw.choice(WORDS[kind]), 1)
    return sentence[0].upper() + sentence[1:]


def _write_images(file: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(file, "w+", np.uint8, (count, SIDE, SIDE))
    for start in range(0, count, 10_000):
        block = images[start : start + 10_000]
        block[:] = rng.integers(0, 256, block.shape, np.uint8)
    images.flush()


def _write_embeddings(settings: Config, records: list[dict], width: int = 512) -> None:
    """Noisy embeddings of the test pairs, as notebook 02 saves them."""
    test = [record["pair_id"] for record in records if record["split"] == "test"]
    rng = np.random.default_rng(0)
    image = rng.standard_normal((len(test), width), dtype=np.float32)
    report = image + 10 * rng.standard_normal((len(test), width), dtype=np.float32)
    for side in (image, report):
        side /= np.linalg.norm(side, axis=1, keepdims=True)
    results.save_embeddings(settings.folder / "embeddings-test.npz", image, report, test)


# What is measured, each in a process of its own


def opening() -> dict:
    """Open this home's data."""
    return _measured(open_dataset, config.load("table").data_folder)


def start() -> dict:
    """From opened data to a training's first batch: a model with its vocabulary, then the tokens
    and eight workers. A model that is not pretrained, as here, learns its vocabulary first."""
    settings = _settings()
    dataset = open_dataset(settings.data_folder)
    made = []
    model = _measured(lambda: made.append(loop._new_model(settings, dataset)))
    batch = _measured(lambda: next(iter(_loader(settings, dataset, made[0].tokenizer))))
    return {"model": model, "batch": batch}


def workers() -> dict:
    """How many MB the largest of eight workers grows by in an epoch, and what that takes."""
    settings = _settings()
    dataset = open_dataset(settings.data_folder)
    model = loop._new_model(settings, dataset)
    loader = _loader(settings, dataset, model.tokenizer)
    batches = iter(loader)
    processes = [worker.pid for worker in batches._workers]
    before = [_memory_of(process) for process in processes]
    taken = _measured(_take_all, batches, len(loader))
    after = [_memory_of(process) for process in processes]
    result = taken | {"batches": len(loader)}
    for kind in before[0]:
        grown = [late[kind] - early[kind] for early, late in zip(before, after, strict=True)]
        result[kind] = max(grown)
    return result


def retrieval() -> dict:
    """Notebook 03's numbers of 50,000 test pairs, with labels, for one model."""
    return _measured(analyses.retrieve, "table")


def meteor() -> dict:
    """METEOR of pairs of generated reports on all cores."""
    draw = random.Random(0)
    texts = []
    for _ in range(PAIRS_OF_METEOR // 10):
        findings, impression = _report(draw)
        texts.append(f"{findings} {impression}")
    hits = {"random": {"image_to_report": text_metrics.floor(len(texts), 10)}}
    _score(texts[:100], {"random": {"image_to_report": text_metrics.floor(100, 10)}})  # warms up
    java_before = _java_seconds()
    taken = _measured(_score, texts, hits)
    taken["cpu"] += _java_seconds() - java_before
    return taken | {"pairs": _distinct_pairs(texts, hits["random"]["image_to_report"])}


def _settings() -> Config:
    """Small encoders, so that a step takes no time, and workers as for MIMIC-CXR."""
    return config.load(
        "table", cache_size=SIDE, image_size=SIDE, patch_size=8, max_tokens=256, batch_size=256,
        vision_width=16, vision_depth=1, text_width=16, text_depth=1, workers=WORKERS,
    )  # fmt: skip


def _loader(settings: Config, dataset: Dataset, tokenizer: BertTokenizer) -> DataLoader:
    """The batches of a training's first epoch."""
    accelerator = loop._accelerator(settings)
    return loop._batches(settings, dataset, tokenizer, accelerator).loader


def _take_all(batches: Iterator, count: int) -> None:
    """Take all batches, but do not ask for one more, which would end the workers."""
    for _ in range(count):
        next(batches)


def _score(texts: list[str], hits: dict) -> None:
    text_metrics.curves(texts, hits, ["METEOR"], nearest=0)


def _distinct_pairs(texts: list[str], ranking: np.ndarray) -> int:
    pairs = set()
    for query, found in enumerate(ranking.tolist()):
        pairs.update((texts[hit], texts[query]) for hit in found)
    return len(pairs)


def _java_seconds() -> float:
    """Processor seconds that the running METEOR processes have used."""
    ticks = 0
    for process in java._idle_meteors:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # user and system
    return ticks / os.sysconf("SC_CLK_TCK")


# How it is measured


def _measured(work: Callable, *arguments: object) -> dict[str, float]:
    """Wall seconds, processor seconds, and MiB at the peak and above what was there before."""
    before = own_memory("VmRSS")
    cpu_started = _cpu_seconds()
    started = time.perf_counter()
    work(*arguments)
    seconds = time.perf_counter() - started
    cpu = _cpu_seconds() - cpu_started
    peak = own_memory("VmHWM")
    return {"seconds": seconds, "cpu": cpu, "peak": peak, "grown": peak - before}


def _cpu_seconds() -> float:
    """Processor seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _memory_of(process: int) -> dict[str, float]:
    """MB of a process: `private`, that no other has; `anonymous`, that no file holds; and
    `proportional`, with its share of what it has in common with others."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    megabytes = {}
    for line in text.splitlines()[1:]:
        name, kib = line.split()[:2]
        megabytes[name] = int(kib) * 1024 / 1e6
    return {
        "private": megabytes["Private_Clean:"] + megabytes["Private_Dirty:"],
        "anonymous": megabytes["Pss_Anon:"],
        "proportional": megabytes["Pss:"],
    }


def _in_a_process(work: str, folder: Path) -> dict:
    """What a function of this file returns in a process whose home is `folder`."""
    command = [sys.executable, __file__, "--child", work]
    environment = os.environ | {"MCR_HOME": str(folder), "MCR_PLAIN": "1"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    if process.returncode:
        raise RuntimeError(f"{work} ended with {process.returncode}: {process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


# The rows


def opening_rows() -> list[dict]:
    """Opening when every checksum is read, and when the files have not changed since."""
    folder = home("release")
    (folder / "data/table" / VERIFIED_FILE).unlink(missing_ok=True)
    first = _in_a_process("opening", folder)
    later = [_in_a_process("opening", folder) for _ in range(3)]
    ratios = [5 / taken["seconds"] for taken in later]
    once = f"{_said(first)} with every checksum read"
    what = f"open 377,110 images and 227,827 reports: {_said(later[0])} ({once})"
    return [row("opening", what, "5 s", ratios, 1)]


def start_rows() -> list[dict]:
    """The first training on new data, and a later one, which finds the tokens."""
    folder = home("release")
    for tokens in folder.glob("data/table/tokens-*"):
        tokens.unlink()
    rows = []
    for name in ("first", "later"):
        taken = _in_a_process("start", folder)
        what = (
            f"{name} training, from opened data to its first batch: vocabulary and model "
            f"{_said(taken['model'])}; tokens and {WORKERS} workers {_said(taken['batch'])}"
        )
        seconds = taken["model"]["seconds"] + taken["batch"]["seconds"]
        rows.append(row("start", what, "60 s", [60 / seconds], 1))
    return rows


def worker_rows() -> list[dict]:
    """Memory of eight workers over one epoch."""
    grown = _in_a_process("workers", home("release"))
    what = (
        f"growth of the largest of {WORKERS} workers in {grown['batches']:,} batches: "
        f"{grown['private']:.0f} MB private, {grown['proportional']:.0f} MB with its share of "
        "what all have"
    )
    return [row("workers", what, "100 MB", [100 / grown["private"]], 1)]


def retrieval_rows() -> list[dict]:
    """Notebook 03 on a large pool."""
    taken = _in_a_process("retrieval", home("pool"))
    gibibytes = taken["peak"] / 1024
    what = f"notebook 03 of 50,000 pairs with labels: {gibibytes:.2f} GiB, {_said(taken)}"
    return [row("pool", what, "4 GiB", [4 / gibibytes], 1)]


def meteor_rows() -> list[dict]:
    """METEOR's time for a pair of reports as long as MIMIC's."""
    with tempfile.TemporaryDirectory() as folder:
        taken = _in_a_process("meteor", Path(folder))
    milliseconds = 1000 * taken["cpu"] / taken["pairs"]
    what = (
        f"METEOR of {taken['pairs']:,} distinct pairs of about 65 words: {milliseconds:.2f} ms of "
        f"a core for each, {taken['seconds']:.0f} s in all"
    )
    rival = f"{METEOR_BEFORE} ms when both texts of each pair were normalised"
    return [row("meteor", what, rival, [METEOR_BEFORE / milliseconds], 1)]


def _said(taken: dict[str, float]) -> str:
    return (
        f"{taken['seconds']:.1f} s ({taken['cpu']:.1f} s of a core), "
        f"{taken['grown']:.0f} MiB more at the peak"
    )


ROWS = {
    "opening": opening_rows,
    "start": start_rows,
    "workers": worker_rows,
    "pool": retrieval_rows,
    "meteor": meteor_rows,
}
CHILDREN = (generate_release, generate_pool, opening, start, workers, retrieval, meteor)


def main(words: list[str]) -> None:
    """Measure the parts that are named, or all; `--save` puts them in place of former ones."""
    chosen = [word for word in words if word != "--save"] or list(ROWS)
    for name in chosen:
        rows = ROWS[name]()
        for measurement in rows:
            print(json.dumps(measurement), flush=True)
        if "--save" in words:
            _save(name, rows)


def _save(name: str, rows: list[dict]) -> None:
    """Keep the rows of a part, and which code they were measured with."""
    measured = {}
    if (config.ROOT / FILE).is_file():
        measured = results.load(FILE)["values"]
    code = code_version()
    measured[name] = [{**measurement, "code": code} for measurement in rows]
    in_order = {part: measured[part] for part in ROWS if part in measured}
    results.save(FILE, in_order)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child = {work.__name__: work for work in CHILDREN}[sys.argv[2]]
        print(json.dumps(child()))
    else:
        main(sys.argv[1:])
