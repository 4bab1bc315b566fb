"""The build: from a source's rows to a manifest and an image cache, with checksums.

`build` counts every row of the source, either as kept or as excluded with its reason.
`dataset.open_dataset` refuses files that have changed since the build. All rules here are ours;
`dataset.json` states them.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mcrlib.config import DRAWN_SOURCES, Config
from mcrlib.data import cache, reports, sources
from mcrlib.data.dataset import Dataset, open_dataset, publish_build
from mcrlib.data.heading_counts import HeadingCounts
from mcrlib.data.schema import FRONTAL, SCHEMA, SPLITS, Row
from mcrlib.files import (
    CHECKED_FILES,
    DATASET_FILE,
    DISK_FULL,
    EXCLUDED_FILE,
    HEADINGS_FILE,
    IMAGES_FILE,
    MANIFEST_FILE,
    explained,
    keep_private,
    sha256,
    write,
)
from mcrlib.locks import lock

# Prepared data depends on these texts: another wording here makes the next call build again.
RULES = {
    "view": "frontal images only: PA or AP, supine, erect or portable ones too; every image counts "
    "as frontal (view 'unstated') where a table has no view column",
    "images_per_study": {
        "one": "one frontal image a study: PA before AP, then the first in the order of ids; two "
        "patients have two studies, even if these have the same id",
        "all": "every frontal image",
    },
    "split": "the source's own; patients without one by the hash of their id, 80/10/10; a patient "
    "in two splits stays in the one that is evaluated (test, then validate)",
}
# A patient in several splits stays in the one with the highest number; "" is not yet assigned.
SPLIT_PRIORITY = {"": 0, "train": 1, "validate": 2, "test": 3}
TEST_SHARE = 0.1  # of the patients whose split is drawn
VALIDATE_SHARE = 0.1
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # surrogates cannot be written at all
SURROGATE = re.compile(r"[\ud800-\udfff]")
NOT_DRAWN = "not drawn into the sample"
FORMULA_START = r"^(?=[=+\-@\t\r])"  # a spreadsheet would run such text as a formula


def build(config: Config, workers: int | None = None) -> Dataset:
    """Prepare the pairs of `config` in `config.data_folder` and open them.

    `workers` is the number of processes that decode images (default: one per core). Existing data
    is kept until the new build completes, and reused if source and settings match. After an
    interruption, the next call resumes. While another process prepares the same folder, this one
    waits. Unless the pairs are drawn by code, this process writes files that only their owner can
    read from then on. Raises ValueError if no pair is left, OSError if the disk is full, and what
    the source raises if its files are missing.
    """
    if config.source not in DRAWN_SOURCES:
        keep_private()
    source = sources.find(config.source)
    folder = config.data_folder
    partial = folder / "partial"
    made_from = folder / "made_from"
    workers = workers or os.cpu_count() or 1

    kept, excluded, whole, met = select(config)
    inputs = _hash_inputs(kept, excluded, config)
    notice = f"{{holder}} is preparing {folder}; waiting until it is done."
    with lock(folder / "build.lock", wait=math.inf, notice=notice):
        publish_build(folder)
        if _read_text(made_from) == inputs:
            with contextlib.suppress(FileNotFoundError, ValueError):  # damaged: build again
                _write_headings(met, folder)  # data of earlier versions have none
                return open_dataset(folder)
        made_from.unlink(missing_ok=True)  # before the files it vouches for are replaced
        with _explain_failure(folder):
            partial.mkdir(parents=True, exist_ok=True)
            images = [record["image"] for record in kept]
            failures = cache.build(images, config.cache_size, partial, inputs, workers)
            tried = [kept[i]["image"] for i in failures]
            kept = _exclude(kept, excluded, failures)
            if not kept:
                raise ValueError(_nothing_left(excluded, tried, folder))
            notes = source.notes(config) if hasattr(source, "notes") else []
            if config.sample:
                notes = [*notes, f"a sample of {sum(whole.values()):,} images, by patient"]
            _write_headings(met, partial)
            _write(kept, excluded, notes, partial, config)
        publish_build(folder)
        _remove_tokens(folder)
        write(made_from, inputs.encode())
        return open_dataset(folder)


class Selection(NamedTuple):
    """What the rules that need no image make of a source."""

    kept: list[dict]  # records of the images to decode
    excluded: list[dict]  # records of the others, with the reason
    whole: dict[str, int]  # images to decode by split; without a sample, those of `kept`
    headings: HeadingCounts  # of all reports that were read


def select(config: Config) -> Selection:
    """Choose the rows of a source that may become pairs, without reading an image.

    With a `sample`, the rows that are not drawn are excluded, too. Raises what the source raises if
    its files are missing.
    """
    met = HeadingCounts()
    kept, excluded = _select(sources.find(config.source).rows(config), config, met)
    counts = Counter(record["split"] for record in kept)
    whole = {split: counts[split] for split in SPLITS}
    if config.sample:
        kept = _exclude(kept, excluded, _not_drawn(kept, config))
    return Selection(kept, excluded, whole, met)


def _not_drawn(records: list[dict], config: Config) -> dict[int, str]:
    """Index -> reason for all records but a sample: from each split whole patients, in an order
    drawn from the ids alone, until it has its share."""
    rows_of = {split: defaultdict(list) for split in SPLITS}
    for i, record in enumerate(records):
        rows_of[record["split"]][record["patient_id"]].append(i)
    in_order = {}
    for split, patients in rows_of.items():
        drawn = sorted(patients, key=_draw_of)
        in_order[split] = [i for patient in drawn for i in patients[patient]]
    shares = _shares({split: len(rows) for split, rows in in_order.items()}, config.sample)
    reasons = {}
    for split, rows in in_order.items():
        for i in rows[shares[split] :]:
            reasons[i] = NOT_DRAWN
    return reasons


def _draw_of(patient: str) -> str:
    """A sort key that has nothing to do with how patients are numbered or split."""
    return hashlib.sha256(f"sample {patient}".encode()).hexdigest()


def _shares(counts: dict[str, int], sample: int) -> dict[str, int]:
    """How many of the pairs of each split (split -> pairs) a sample takes: a tenth of it for each
    of the evaluated splits, as far as they have pairs, and the rest for training."""
    evaluated = round(TEST_SHARE * sample)
    test = min(counts["test"], evaluated)
    validate = min(counts["validate"], evaluated)
    train = min(counts["train"], sample - test - validate)
    return {"train": train, "validate": validate, "test": test}


def _remove_tokens(folder: Path) -> None:
    for tokens in folder.glob("tokens-*"):  # of the previous pairs
        tokens.unlink()


def _read_text(file: Path) -> str | None:
    """The content of a file; None if there is no such file or it is damaged."""
    try:
        return file.read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        return None


@contextlib.contextmanager
def _explain_failure(folder: Path) -> Iterator[None]:
    """Say in one sentence which file of a build could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise OSError(
                f"The disk is full: make room for {folder} and run this again; the build will "
                "resume where it stopped. Data prepared earlier has not changed."
            ) from None
        if error.filename is None:  # explained already
            raise
        raise explained(error, Path(error.filename)) from error


def _nothing_left(excluded: list[dict], tried: list[Any], folder: Path) -> str:
    """Write why each row was left out, and say it in short; `tried` are images that failed."""
    file = folder / EXCLUDED_FILE
    if (folder / DATASET_FILE).exists():  # its excluded.csv belongs to data that are still good
        file = folder / "excluded-of-the-last-try.csv"
    write(file, _excluded_csv(excluded))
    reasons = _count(record["reason"] for record in excluded)
    listed = ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
    sentence = f"No pair is left of {len(excluded)} rows: {listed or 'the source is empty'}."
    paths = [image for image in tried if isinstance(image, Path)]
    if paths:
        sentence += f" The first image that was tried is {_printable(str(paths[0].absolute()))}."
    return f"{sentence} {file} gives the reason for each row."


def _select(
    rows: Iterable[Row], config: Config, met: HeadingCounts
) -> tuple[list[dict], list[dict]]:
    """Records to decode, and records excluded, by the rules that need no image.

    Every report that is read is counted in `met`.
    """
    kept = []
    excluded = []
    seen_ids = set()
    for row in rows:
        record = _to_record(row)
        reason = _reason(row)
        if not reason and row.pair_id in seen_ids:
            reason = "pair id of an earlier row"
        seen_ids.add(row.pair_id)
        if not reason:
            reading = _read_report(row)
            met.add(row.patient_id, row.study_id, row.text, reading)
            _add_report(record, row, reading.sections, config.policy)
            if not record["report"]:
                reason = f"report has no text under the policy '{config.policy}'"
        if reason:
            excluded.append(_to_excluded(record, reason))
        else:
            kept.append(record)
    if config.images_per_study == "one":
        kept = _exclude(kept, excluded, _other_images(kept))
    kept = _exclude(kept, excluded, _assign_splits(kept))
    return kept, excluded


def _to_record(row: Row) -> dict[str, Any]:
    """The fields that the manifest takes from a row unchanged.

    The order of keys, here and in `_add_report`, enters `_hash_inputs`.
    """
    return {
        "pair_id": row.pair_id,
        "patient_id": row.patient_id,
        "study_id": row.study_id,
        "split": row.split,
        "view": row.view,
        "labels": row.labels,
        "uncertain": row.uncertain,
        "source": row.source,
    }


def _read_report(row: Row) -> reports.Reading:
    """A row's report; if the source itself separates the sections, their names are headings."""
    if row.sections is None:
        return reports.read(row.text)
    sections = {name: text for name, text in row.sections.items() if text.strip()}
    names = [reports.Heading(name, name) for name in sections]
    return reports.Reading(sections, names)


def _add_report(record: dict[str, Any], row: Row, sections: dict[str, str], policy: str) -> None:
    """Add the image and the cleaned report to the record of a row."""
    findings = reports.clean(sections.get("findings", ""))
    impression = reports.clean(sections.get("impression", ""))
    texts = {"findings": findings, "impression": impression}
    record["findings"] = findings
    record["impression"] = impression
    record["image"] = row.image
    record["report"] = reports.choose(texts, policy)


def _reason(row: Row) -> str:
    """Why a row cannot be a pair, whatever its image and its words; "" if it can."""
    if row.reason:
        return row.reason
    if _has_surrogate(row):
        return "a text holds half a character (a surrogate), which no file can hold"
    if not row.view:
        return "view is unknown"
    if not FRONTAL.fullmatch(row.view):
        return f"view {row.view!r} is not frontal"
    if row.split not in SPLIT_PRIORITY:
        return f"split {row.split!r} is none of {', '.join(SPLITS)}"
    if not row.text.strip() and not row.sections:
        return "report is empty"
    return ""


def _has_surrogate(row: Row) -> bool:
    """Whether any text of a row, such as "\\ud800" in JSON, cannot be encoded."""
    texts = [row.pair_id, row.patient_id, row.study_id, row.split, row.view, row.text, row.source]
    texts.extend((row.sections or {}).values())
    texts.extend(row.labels or [])
    texts.extend(row.uncertain or [])
    return any(SURROGATE.search(text) for text in texts)


def _other_images(records: list[dict]) -> dict[int, str]:
    """Index -> reason for all but one image of each study, by RULES["images_per_study"]["one"]."""
    studies = defaultdict(list)
    for i, record in enumerate(records):
        # Ids of studies may restart for each patient: CheXpert has a "study1" for everybody.
        study = (record["patient_id"], record["study_id"])
        studies[study].append(i)
    reasons = {}
    for study in studies.values():
        study.sort(key=lambda i: _preference(records[i]))
        for other in study[1:]:
            reasons[other] = "another frontal image of the study is chosen"
    return reasons


def _preference(record: dict) -> tuple[bool, str]:
    """Sort key of the images of a study: the first is chosen."""
    is_pa = record["view"].upper().startswith(("PA", "POSTERO"))
    return not is_pa, record["pair_id"]


def _assign_splits(records: list[dict]) -> dict[int, str]:
    """Set each record's split to its patient's, by RULES["split"].

    Returns index -> reason for the records to exclude because the source has them in another split.
    """
    splits = {}  # of each patient
    for record in records:
        patient = record["patient_id"]
        split = record["split"]
        if SPLIT_PRIORITY[split] >= SPLIT_PRIORITY[splits.get(patient, "")]:
            splits[patient] = split
    undecided = [patient for patient, split in splits.items() if not split]
    splits.update(_draw(undecided))
    leaks = {}
    for i, record in enumerate(records):
        split = splits[record["patient_id"]]
        if record["split"] not in ("", split):
            leaks[i] = f"patient is in the split {split!r} too"
        record["split"] = split
    return leaks


def _draw(patients: list[str]) -> dict[str, str]:
    """Split of each patient, drawn by the hash of the id alone.

    If that leaves a split of three or more patients empty, the patients with the next draws fill
    it. Fewer than three patients are all for training.
    """
    if len(patients) < 3:
        return dict.fromkeys(patients, "train")
    digests = {patient: hashlib.sha256(patient.encode()).hexdigest() for patient in patients}
    draws = [_to_share(digest) for digest in digests.values()]
    drawn_test = sum(draw < TEST_SHARE for draw in draws)
    drawn_evaluated = sum(draw < TEST_SHARE + VALIDATE_SHARE for draw in draws)
    # At least one patient in each split, so at most all but two for test.
    test_count = max(drawn_test, 1)
    test_count = min(test_count, len(patients) - 2)
    validate_count = max(drawn_evaluated - test_count, 1)
    validate_count = min(validate_count, len(patients) - test_count - 1)

    splits = {}
    for position, patient in enumerate(sorted(patients, key=digests.__getitem__)):
        if position < test_count:
            splits[patient] = "test"
        elif position < test_count + validate_count:
            splits[patient] = "validate"
        else:
            splits[patient] = "train"
    return splits


def _to_share(digest: str) -> float:
    """A number from 0 to 1, uniform over the hashes; it rises with the digest."""
    first_bits = int(digest[:8], 16)
    return first_bits / 16**8


def _exclude(kept: list[dict], excluded: list[dict], reasons: dict[int, str]) -> list[dict]:
    """Add the records that have a reason (by index) to `excluded`; returns the others."""
    for i, reason in reasons.items():
        excluded.append(_to_excluded(kept[i], reason))
    return [record for i, record in enumerate(kept) if i not in reasons]


def _to_excluded(record: dict, reason: str) -> dict[str, str]:
    return {
        "source": _printable(record["source"]),
        "pair_id": _printable(record["pair_id"]),
        "study_id": _printable(record["study_id"]),
        "reason": _printable(reason),
    }


def _printable(text: str) -> str:
    """On one line, and with an escape such as `\\ud800` for what cannot be written to a file."""

    def escaped(match: re.Match) -> str:
        """Python's notation of a character."""
        return match[0].encode("unicode_escape").decode()

    return UNPRINTABLE.sub(escaped, text)


def _hash_inputs(kept: list[dict], excluded: list[dict], config: Config) -> str:
    """Hash of all that prepared data is made from: settings, rules, reports, labels, splits and
    image files. A build of anything else is neither reused nor resumed."""
    settings = json.dumps([RULES, config.data_settings()])
    digest = hashlib.sha256(settings.encode())
    for record in kept:
        inputs = record | {"image": _state_of_file(record["image"])}
        digest.update(json.dumps(inputs).encode())
    for record in excluded:
        inputs = record | {"image": None}
        digest.update(json.dumps(inputs).encode())
    return digest.hexdigest()


def _state_of_file(image: Any) -> tuple[int, int] | None:
    """Size in bytes and time of the last change in ns; None if the image is not an existing file.

    Reading the files instead would take as long as the build.
    """
    # Unlike Path.exists, this is false for a name that no file can have, such as one too long.
    if not isinstance(image, Path) or not os.path.exists(image):
        return None
    state = image.stat()
    return state.st_size, state.st_mtime_ns


def _write(
    kept: list[dict], excluded: list[dict], notes: list[str], folder: Path, config: Config
) -> None:
    """Write all files except images.npy, without dates, so that equal input gives equal bytes."""
    _write_manifest(kept, folder)
    write(folder / EXCLUDED_FILE, _excluded_csv(excluded))
    info = _describe(kept, excluded, notes, folder, config)
    text = json.dumps(info, indent=1, ensure_ascii=False)
    write(folder / DATASET_FILE, text.encode())


def _write_headings(met: HeadingCounts, folder: Path) -> None:
    write(folder / HEADINGS_FILE, met.table().to_csv(index=False).encode())


def _write_manifest(kept: list[dict], folder: Path) -> None:
    table = pa.Table.from_pylist(kept, SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write(folder / MANIFEST_FILE, buffer.getvalue())


def _excluded_csv(excluded: list[dict]) -> bytes:
    columns = ["source", "pair_id", "study_id", "reason"]
    table = pd.DataFrame(excluded, columns=columns, dtype=str)
    table = table.replace(FORMULA_START, "'", regex=True)
    return table.to_csv(index=False).encode()


def _describe(
    kept: list[dict], excluded: list[dict], notes: list[str], folder: Path, config: Config
) -> dict[str, Any]:
    """The content of dataset.json, once the other files are written to `folder`."""
    columns = ["pair_id", "patient_id", "study_id", "split", "view"]
    frame = pd.DataFrame(kept, columns=columns)
    pair_ids = "\n".join(frame["pair_id"])
    hashes = {name: sha256(folder / name) for name in CHECKED_FILES}
    # What a model was trained on: the same ids can come with other images or other words.
    images_and_words = hashes[IMAGES_FILE] + hashes[MANIFEST_FILE]
    rules = {
        "view": RULES["view"],
        "images_per_study": RULES["images_per_study"][config.images_per_study],
        "split": RULES["split"],
    }
    return {
        "source": config.source,
        "policy": config.policy,
        "images_per_study": config.images_per_study,
        "image_size": config.cache_size,
        "rules": rules,
        "notes": notes,
        "seen": len(kept) + len(excluded),
        "kept": len(kept),
        "excluded": _count(record["reason"] for record in excluded),
        "views": _count(frame["view"]),
        "splits": _count_splits(frame),
        "pairs_sha256": _hash_text(pair_ids),
        "sha256": hashes,
        "dataset_sha256": _hash_text(images_and_words),
        "versions": {name: version(name) for name in ("numpy", "pillow", "pydicom", "pyarrow")},
    }


def _count(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, the most frequent first."""
    return dict(Counter(values).most_common())


def _count_splits(frame: pd.DataFrame) -> dict[str, dict[str, int]]:
    counts = {}
    for split in SPLITS:
        part = frame[frame["split"] == split]
        counts[split] = {
            "pairs": part["pair_id"].nunique(),
            "studies": len(part[["patient_id", "study_id"]].drop_duplicates()),
            "patients": part["patient_id"].nunique(),
        }
    return counts


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
