"""Speed and memory of preparing data: decoding, cached batches, flat memory, MIMIC's reports.

`python benchmarks/preparation.py` prints the rows. Ours and its rival take turns, round by round,
so that both see the same machine.
"""

import gzip
import io
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from measured import row, seconds_of
from PIL import Image

from mcrlib.data import images

SIZE = 256
ROUNDS = 15
# Two data sets of which the larger one should not need more memory.
FEW_IMAGES = 1_000
MANY_IMAGES = 100_000
STUDIES = 227_827  # as many as MIMIC-CXR has

# Peak memory is measured in separate processes, which run one of these programs. The peak comes
# from /proc, because `ru_maxrss` would start from the parent's.
PEAK = """
from pathlib import Path
def mebibytes():
    status = Path("/proc/self/status").read_text()
    after_name = status.split("VmHWM:")[1]
    return float(after_name.split()[0]) / 1024
"""
CACHE = """
import sys
from mcrlib.data import cache
table = Path(sys.argv[1])
folder = table.parent
rows = table.read_text().count("image.jpg")
cache.build([folder / "image.jpg"] * rows, 32, folder, str(rows), workers=1)
print(mebibytes())
"""
TABLE = """
import sys
from mcrlib import config
from mcrlib.data import prepare
settings = config.load("table", data=sys.argv[1], cache_size=32)
prepare.build(settings.replace(run="bench"), workers=1)
print(mebibytes())
"""
TEXT = f"""
import sys, time
from mcrlib import config
from mcrlib.data import prepare
from mcrlib.data.heading_counts import HeadingCounts
from mcrlib.data.sources import mimic_cxr
mimic_cxr.FULL_RELEASE = 10**9  # the made-up release has other counts
started = time.perf_counter()
settings = config.load("mimic", data=sys.argv[1])
kept, excluded = prepare._select(mimic_cxr.rows(settings), settings, HeadingCounts())
assert len(kept) == {STUDIES} and not excluded
print(time.perf_counter() - started, mebibytes() / 1024)
"""

SENTENCES = [
    "The lungs are clear.",
    "There is a small left pleural effusion, unchanged.",
    "The cardiac silhouette is mildly enlarged.",
    "No pneumothorax is seen.",
]
REPORT = (
    "                                 FINAL REPORT\n"
    " EXAMINATION:  CHEST (PA AND LAT)\n"
    " \n"
    " INDICATION:  Cough.\n"
    " \n"
    " FINDINGS: \n"
    " \n"
    " {text}\n"
    " \n"
    " IMPRESSION: \n"
    " \n"
    " {text}\n"
)


def rows() -> list[dict]:
    """All rows of this file, each as `measured.row` returns it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        decoding = _decode()
        cached = _cached(folder)
        memory = _memory(folder)
        reports = _mimic_text(folder)
    return [decoding, cached, *memory, *reports]


# Decoding and the cache


def _decode() -> dict:
    content = _radiograph()
    ratios = []
    for _ in range(ROUNDS):
        theirs = seconds_of(_decode_in_full, content, clock=time.process_time)
        ours = seconds_of(_decode_with_ours, content, clock=time.process_time)
        ratios.append(theirs / ours)
    return row("decode", "JPEG 2544 x 3056 to 256, a core", "PIL as RGB, resize", ratios, 3.5)


def _cached(folder: Path) -> dict:
    content = _radiograph()
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (4096, SIZE, SIZE), np.uint8)
    np.save(folder / "cache.npy", pixels)
    cache = np.load(folder / "cache.npy", mmap_mode="r")
    ratios = []
    for _ in range(ROUNDS):
        batches = np.sort(generator.choice(len(cache), (20, 64)))
        reading = seconds_of(_read_batches, cache, batches, clock=time.process_time)
        decoding = seconds_of(_decode_with_ours, content, clock=time.process_time)
        reading_a_batch = reading / len(batches)
        ratios.append(64 * decoding / reading_a_batch)
    return row("cached batch", "64 images from the cache", "decoding them", ratios, 100)


def _radiograph() -> bytes:
    """A JPEG of 2,544 x 3,056 pixels and 1.5 MB, as MIMIC-CXR-JPG's are on average."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 200, (24, 20), dtype=np.uint8))
    smooth = coarse.resize((2544, 3056), Image.Resampling.BICUBIC)
    pixels = np.asarray(smooth, np.int16)
    noise = generator.normal(0, 1.8, pixels.shape)
    noisy = (pixels + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noisy).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _decode_in_full(content: bytes) -> np.ndarray:
    """The rival, and what one would write first: decode all as RGB, resize, crop the centre."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    scale = SIZE / min(image.size)
    width = round(image.width * scale)
    height = round(image.height * scale)
    image = image.resize((width, height))
    left = (width - SIZE) // 2
    top = (height - SIZE) // 2
    square = image.crop((left, top, left + SIZE, top + SIZE))
    return np.asarray(square)


def _decode_with_ours(content: bytes) -> np.ndarray:
    return images.read(lambda: content, SIZE)


def _read_batches(cache: np.ndarray, batches: np.ndarray) -> list[np.ndarray]:
    return [cache[batch] for batch in batches]


# Memory


def _memory(folder: Path) -> list[dict]:
    """Rows of the image cache alone, and of a whole build, whose table of rows grows."""
    (folder / "image.jpg").write_bytes(_small_image())
    few = _peaks(folder, FEW_IMAGES)
    many = _peaks(folder, MANY_IMAGES)
    rows = []
    for name in ("the image cache", "a whole build"):
        what = f"peak memory of {name}, {MANY_IMAGES:,} images: {many[name]:.0f} MiB"
        rival = f"{FEW_IMAGES:,} images: {few[name]:.0f} MiB"
        rows.append(row("memory", what, rival, [few[name] / many[name]], 0.9))
    return rows


def _peaks(folder: Path, n: int) -> dict[str, float]:
    """Peak MiB of two processes that prepare the same image n times."""
    table = {"pair_id": range(n), "image": "image.jpg", "report": "Clear lungs."}
    path = folder / "pairs.csv"
    pd.DataFrame(table).to_csv(path, index=False)
    cache_output = _run_program(CACHE, path, folder)
    build_output = _run_program(TABLE, path, folder)
    return {"the image cache": float(cache_output[0]), "a whole build": float(build_output[0])}


def _small_image() -> bytes:
    ramp = np.tile(np.arange(40, dtype=np.uint8), (48, 1))
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "JPEG")
    return buffer.getvalue()


def _run_program(code: str, data: Path, home: Path) -> list[str]:
    """Words that one of the programs above prints in a process that writes below `home`."""
    command = [sys.executable, "-c", PEAK + code, str(data)]
    environment = {"MCR_HOME": str(home)}
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    if process.returncode:
        raise RuntimeError(process.stderr)
    return process.stdout.split()


# MIMIC's reports


def _mimic_text(folder: Path) -> list[dict]:
    """Rows of joining, parsing and splitting all studies of a made-up MIMIC-CXR."""
    release = folder / "mimic"
    table = _studies()
    _write_image(release)
    _write_tables(release, table)
    _write_reports(release, table)
    seconds_text, gibibytes_text = _run_program(TEXT, release, folder)
    seconds = float(seconds_text)
    gibibytes = float(gibibytes_text)
    speed = f"{STUDIES:,} studies, {seconds:.0f} s"
    memory = f"the same, {gibibytes:.1f} GiB"
    return [
        row("mimic text", speed, "300 s", [300 / seconds], 1),
        row("mimic text memory", memory, "4 GiB", [4 / gibibytes], 1),
    ]


def _studies() -> pd.DataFrame:
    """One image for each study; a patient has three or four studies."""
    numbers = range(STUDIES)
    table = pd.DataFrame({"dicom_id": [f"i{i}" for i in numbers]})
    table["subject_id"] = [10_000_000 + i * 2 // 7 for i in numbers]
    table["study_id"] = [50_000_000 + i for i in numbers]
    is_test = table["subject_id"] % 100 == 0
    table["split"] = np.where(is_test, "test", "train")
    table["ViewPosition"] = "AP"
    return table


def _write_image(release: Path) -> None:
    """An empty image of the first study, from which the layout is recognised."""
    folder = release / "files/p10/p10000000/s50000000"
    folder.mkdir(parents=True)
    (folder / "0.jpg").write_bytes(b"")


def _write_tables(release: Path, table: pd.DataFrame) -> None:
    ids = table[["subject_id", "study_id"]]
    tables = {
        "metadata": table.drop(columns="split"),
        "split": table,
        "chexpert": ids.assign(Edema="1.0", Atelectasis="-1.0"),
    }
    for name, content in tables.items():
        path = release / f"mimic-cxr-2.0.0-{name}.csv.gz"
        with gzip.open(path, "wt", compresslevel=1) as file:
            content.to_csv(file, index=False)


def _write_reports(release: Path, table: pd.DataFrame) -> None:
    """Short made-up reports in the form of MIMIC's, in one archive."""
    draw = random.Random(0)
    with zipfile.ZipFile(release / "mimic-cxr-reports.zip", "w") as archive:
        for study in table.itertuples():
            text = "\n ".join(draw.choices(SENTENCES, k=4))
            report = REPORT.format(text=text)
            patient = str(study.subject_id)
            folder = f"files/p{patient[:2]}/p{patient}"
            archive.writestr(f"{folder}/s{study.study_id}.txt", report)


ROWS = {"preparation": rows}

if __name__ == "__main__":
    for measurement in rows():
        print(measurement)
