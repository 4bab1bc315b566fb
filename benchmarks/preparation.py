"""Speed and memory of the data side: decoding, cached batches, flat memory, MIMIC's text.

`python benchmarks/preparation.py` prints a line a measurement. Rivals are timed in turn with ours,
round by round, so that both see the same machine; a ratio is the median over the rounds, its spread
the lowest and highest.
"""

import gzip
import io
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from measured import row
from PIL import Image

from mcrlib.data import images

SIZE, ROUNDS = 256, 15

# `ru_maxrss` would start from the parent's peak.
PEAK = """
from pathlib import Path
def mebibytes():
    return float(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
"""
CACHE = """
import sys
from mcrlib.data import cache
folder = Path(sys.argv[1]).parent
rows = Path(sys.argv[1]).read_text().count("image.jpg")
cache.build([folder / "image.jpg"] * rows, 32, folder, str(rows), workers=1)
print(mebibytes())
"""
TABLE = """
import dataclasses, sys
from mcrlib import config
from mcrlib.data import prepare
settings = config.load("table", data=sys.argv[1], cache_size=32)
prepare.build(settings.replace(run="bench"), workers=1)
print(mebibytes())
"""
TEXT = """
import sys, time
from mcrlib import config
from mcrlib.data import prepare
from mcrlib.data.sources import mimic_cxr
mimic_cxr.FULL_RELEASE = 10**9
began, settings = time.perf_counter(), config.load("mimic", data=sys.argv[1])
kept, excluded = prepare._select(mimic_cxr.rows(settings), settings)
assert len(kept) == 227_827 and not excluded
print(time.perf_counter() - began, mebibytes() / 1024)
"""


def rows() -> list[dict]:
    """One dict a measurement: id, what, rival, ratio, spread, goal (least ratio), met."""
    with tempfile.TemporaryDirectory() as folder:
        return [_decode(), _cached(Path(folder)), *_memory(Path(folder)), *_text(Path(folder))]


def _seconds(work: Callable, *arguments) -> float:
    """Seconds of one core, whatever else the machine does."""
    began = time.process_time()
    work(*arguments)
    return time.process_time() - began


def _radiograph() -> bytes:
    """A JPEG of 2,544 x 3,056 pixels and 1.5 MB, as MIMIC-CXR-JPG's are on average."""
    generator = np.random.default_rng(0)
    smooth = Image.fromarray(generator.integers(0, 200, (24, 20), dtype=np.uint8))
    pixels = np.asarray(smooth.resize((2544, 3056), Image.Resampling.BICUBIC), np.int16)
    noisy = (pixels + generator.normal(0, 1.8, pixels.shape)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _plain(content: bytes) -> np.ndarray:
    """What everybody writes first: decode in full as RGB, scale the shorter side, crop."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = SIZE / min(image.size)
    image = image.resize(tuple(round(length * scale) for length in image.size))
    left, top = ((length - SIZE) // 2 for length in image.size)
    return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))


def _decode() -> dict:
    content = _radiograph()
    ratios = [_seconds(_plain, content) / _seconds(_ours, content) for _ in range(ROUNDS)]
    return row("decode", "JPEG 2544 x 3056 to 256, a core", "PIL as RGB, resize", ratios, 3.5)


def _ours(content: bytes) -> np.ndarray:
    return images.read(lambda: content, SIZE)


def _cached(folder: Path) -> dict:
    content, generator = _radiograph(), np.random.default_rng(0)
    np.save(folder / "cache.npy", generator.integers(0, 255, (4096, SIZE, SIZE), np.uint8))
    cache = np.load(folder / "cache.npy", mmap_mode="r")
    ratios = []
    for _ in range(ROUNDS):
        batches = np.sort(generator.choice(len(cache), (20, 64)))
        cached = _seconds(lambda batches: [cache[batch] for batch in batches], batches)
        ratios.append(64 * _seconds(_ours, content) / (cached / len(batches)))
    return row("cached batch", "64 images from the cache", "decoding them", ratios, 100)


def _memory(folder: Path) -> list[dict]:
    """Of the image cache alone, and of a whole build, whose table and manifest grow by the row."""
    (folder / "image.jpg").write_bytes(_small())
    sides = {"the image cache": CACHE, "a whole build": TABLE}
    peaks = {}
    for n in (1_000, 100_000):
        table = {"pair_id": range(n), "image": "image.jpg", "report": "Clear lungs."}
        pd.DataFrame(table).to_csv(folder / "pairs.csv", index=False)
        for what, code in sides.items():
            peaks[what, n] = float(_python(code, folder / "pairs.csv", folder)[0])  # MiB
    return [
        row(
            "memory",
            f"peak memory of {what}, 100,000 images: {peaks[what, 100_000]:.0f} MiB",
            f"1,000 images: {peaks[what, 1_000]:.0f} MiB",
            [peaks[what, 1_000] / peaks[what, 100_000]],
            0.9,
        )
        for what in sides
    ]


def _small() -> bytes:
    ramp = np.tile(np.arange(40, dtype=np.uint8), (48, 1))
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "JPEG")
    return buffer.getvalue()


def _python(code: str, data: Path, home: Path) -> list[str]:
    command = [sys.executable, "-c", PEAK + code, str(data)]
    done = subprocess.run(command, capture_output=True, text=True, env={"MCR_HOME": str(home)})
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.split()


def _text(folder: Path, studies: int = 227_827) -> list[dict]:
    """Metadata and short made-up reports of all of MIMIC-CXR's studies: joined, parsed, split."""
    draw, tree = random.Random(0), folder / "mimic"
    (tree / "files/p10/p10000000/s50000000").mkdir(parents=True)
    (tree / "files/p10/p10000000/s50000000/0.jpg").write_bytes(b"")
    images = pd.DataFrame({"dicom_id": [f"i{i}" for i in range(studies)]})
    images["subject_id"] = [10_000_000 + i * 2 // 7 for i in range(studies)]
    images["study_id"] = [50_000_000 + i for i in range(studies)]
    images["split"] = ["test" if s % 100 == 0 else "train" for s in images["subject_id"]]
    images["ViewPosition"] = "AP"
    labels = images[["subject_id", "study_id"]].assign(Edema="1.0", Atelectasis="-1.0")
    tables = {"metadata": images.drop(columns="split"), "split": images, "chexpert": labels}
    for name, table in tables.items():
        with gzip.open(tree / f"mimic-cxr-2.0.0-{name}.csv.gz", "wt", compresslevel=1) as file:
            table.to_csv(file, index=False)
    seen = ["The lungs are clear.", "There is a small left pleural effusion, unchanged.",
            "The cardiac silhouette is mildly enlarged.", "No pneumothorax is seen."]  # fmt: skip
    with zipfile.ZipFile(tree / "mimic-cxr-reports.zip", "w") as archive:
        for image in images.itertuples():
            said = "\n ".join(draw.choices(seen, k=4))
            text = (
                f"{'FINAL REPORT':>45}\n EXAMINATION:  CHEST (PA AND LAT)\n \n"
                f" INDICATION:  Cough.\n \n FINDINGS: \n \n {said}\n \n IMPRESSION: \n \n {said}\n"
            )
            name = f"files/p{str(image.subject_id)[:2]}/p{image.subject_id}/s{image.study_id}.txt"
            archive.writestr(name, text)
    seconds, gigabytes = map(float, _python(TEXT, tree, folder))
    return [
        row("mimic text", f"{studies:,} studies, {seconds:.0f} s", "300 s", [300 / seconds], 1),
        row("mimic text memory", f"the same, {gigabytes:.1f} GiB", "4 GiB", [4 / gigabytes], 1),
    ]


ROWS = {"preparation": rows}

if __name__ == "__main__":
    for measurement in rows():
        print(measurement)
