"""The data contract: from a source's rows to a manifest and an image cache that are checked.

`build` counts every row of the source as kept or as excluded with its reason, `open` refuses files
that are not those that were built. All rules here are ours; `dataset.json` states them.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mcrlib.config import Config
from mcrlib.data import cache, reports, sources
from mcrlib.data.dataset import FILES, Dataset, open_dataset, publish_build
from mcrlib.data.schema import FRONTAL, SCHEMA, SPLITS, Row
from mcrlib.files import sha256, write

RULES = {
    "view": "frontal images only: PA or AP, supine, erect or portable ones too; every image counts "
    "as frontal (view 'unstated') where a table has no view column",
    "images_per_study": {
        "one": "one frontal image a study: PA before AP, then the first in the order of ids",
        "all": "every frontal image",
    },
    "split": "the source's own; patients without one by the hash of their id, 80/10/10; a patient "
    "in two splits stays in the one that is evaluated (test, then validate)",
}
SAME = [name for name in SCHEMA.names if name in Row.__slots__]  # taken over as they are


def build(config: Config, workers: int | None = None) -> Dataset:
    """Prepare the pairs of `config` in `config.data_folder`, on `workers` processes (default: one
    a core), and open them.

    What was there stays until everything new is complete, and is taken as it is where the source
    and the settings are those that it was made from; after an interruption the next call goes on
    where this one stopped. Raises ValueError where no pair is left, OSError where the disk
    is full, and what the source raises where its files are not there.
    """
    source = sources.find(config.source)
    folder, partial = config.data_folder, config.data_folder / "partial"
    publish_build(folder)
    kept, excluded = _select(source.rows(config), config)
    inputs, made_from = _made_from(kept, excluded, config), folder / "made_from"
    if made_from.exists() and made_from.read_text() == inputs:
        with contextlib.suppress(FileNotFoundError, ValueError):  # damaged since: made anew
            return open_dataset(folder)
    made_from.unlink(missing_ok=True)  # before the files that it vouches for are replaced
    try:
        partial.mkdir(parents=True, exist_ok=True)
        failures = cache.build(
            [record["image"] for record in kept],
            config.cache_size, partial, inputs, workers or os.cpu_count() or 1,
        )  # fmt: skip
        kept = _without(kept, excluded, failures)
        if not kept:
            counts = Counter(record["reason"] for record in excluded).most_common()
            raise ValueError(f"No pair is left of {len(excluded)} rows: {dict(counts)}.")
        notes = source.notes(config) if hasattr(source, "notes") else []
        _write(kept, excluded, partial, config, notes)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            f"The disk is full: make room for {folder} and run this again; it goes on where it "
            "stopped, and prepared data that was there has not changed."
        ) from None
    publish_build(folder)
    for tokens in folder.glob("tokens-*"):  # of the pairs before
        tokens.unlink()
    write(made_from, inputs.encode())
    return open_dataset(folder)


def _select(rows: Iterable[Row], config: Config) -> tuple[list[dict], list[dict]]:
    """Records to decode, and records excluded, by the rules that need no image."""
    kept, excluded, ids = [], [], set()
    for row in rows:
        record = {name: getattr(row, name) for name in SAME}
        reason = _reason(row) or ("pair id of an earlier row" if row.pair_id in ids else "")
        ids.add(row.pair_id)
        if not reason:
            parts = row.sections if row.sections is not None else reports.sections(row.text)
            parts = {name: reports.clean(parts.get(name, "")) for name in reports.MAIN[:2]}
            record |= parts | {"image": row.image, "report": reports.choose(parts, config.policy)}
            if not record["report"]:
                reason = f"report has no text under the policy '{config.policy}'"
        excluded.append(_out(record, reason)) if reason else kept.append(record)
    if config.images_per_study == "one":
        kept = _without(kept, excluded, _other_images(kept))
    kept = _without(kept, excluded, _assign_splits(kept))
    return kept, excluded


def _reason(row: Row) -> str:
    """Why a row cannot be a pair, whatever its image and its words are; "" where it can."""
    if row.reason:
        return row.reason
    if not FRONTAL.fullmatch(row.view):
        return f"view {row.view!r} is not frontal" if row.view else "view is unknown"
    if row.split not in ("", *SPLITS):
        return f"split {row.split!r} is none of {', '.join(SPLITS)}"
    if not row.text.strip() and not row.sections:
        return "report is empty"
    return ""


def _other_images(records: list[dict]) -> dict[int, str]:
    """All but one image of each study, by RULES["images_per_study"]["one"]."""
    studies = defaultdict(list)
    for i, record in enumerate(records):
        first = record["view"].upper().startswith(("PA", "POSTERO"))
        studies[record["study_id"]].append((not first, record["pair_id"], i))
    others = [i for images in studies.values() for *_, i in sorted(images)[1:]]
    return dict.fromkeys(others, "another frontal image of the study is chosen")


def _assign_splits(records: list[dict]) -> dict[int, str]:
    """Fill in each record's split by patient, by RULES["split"]; returns those to exclude."""
    rising = sorted(records, key=lambda record: ("", *SPLITS).index(record["split"]))
    home = {record["patient_id"]: record["split"] for record in rising}  # the last one stays
    home |= _draw([patient for patient, split in home.items() if not split])
    leaks = {}
    for i, record in enumerate(records):
        if record["split"] not in ("", home[record["patient_id"]]):
            leaks[i] = f"patient is in the split {home[record['patient_id']]!r} too"
        record["split"] = home[record["patient_id"]]
    return leaks


def _draw(patients: list[str]) -> dict[str, str]:
    """Split of each patient by the hash of the id alone; where that leaves one of the splits of
    three or more patients empty, those with the next draws go there."""
    if len(patients) < 3:
        return dict.fromkeys(patients, "train")
    draws = sorted((hashlib.sha256(patient.encode()).hexdigest(), patient) for patient in patients)
    shares = [int(digest[:8], 16) / 16**8 for digest, _ in draws]
    test = min(max(sum(share < 0.1 for share in shares), 1), len(draws) - 2)
    validate = min(max(sum(share < 0.2 for share in shares) - test, 1), len(draws) - 1 - test)
    names = ["test"] * test + ["validate"] * validate + ["train"] * len(draws)
    return {patient: name for (_, patient), name in zip(draws, names, strict=False)}


def _without(kept: list[dict], excluded: list[dict], reasons: dict[int, str]) -> list[dict]:
    excluded += [_out(kept[i], reason) for i, reason in reasons.items()]
    return [record for i, record in enumerate(kept) if i not in reasons]


def _out(record: dict, reason: str) -> dict[str, str]:
    named = {name: record[name] for name in ("source", "pair_id", "study_id")}
    return named | {"reason": reason}


def _made_from(kept: list[dict], excluded: list[dict], config: Config) -> str:
    """Hash of all that prepared data is made from: settings, rules, reports, labels, splits and
    image files. A build of something else is neither taken as it is nor resumed."""
    settings = [RULES, config.data_settings()]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for record in kept + excluded:
        image = record.get("image")
        state = image.stat() if isinstance(image, Path) and image.exists() else None
        said = record | {"image": state and (state.st_size, state.st_mtime_ns)}
        digest.update(json.dumps(said).encode())
    return digest.hexdigest()


def _write(kept: list[dict], excluded: list[dict], folder: Path, config: Config, notes) -> None:
    """The files beside images.npy, without dates: equal input gives equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(kept, SCHEMA), buffer)
    write(folder / "manifest.parquet", buffer.getvalue())
    names = ["source", "pair_id", "study_id", "reason"]
    left_out = pd.DataFrame(excluded, columns=names, dtype=str)
    # A spreadsheet must not take a name for a formula.
    left_out = left_out.replace(r"^(?=[=+\-@\t\r])", "'", regex=True)
    write(folder / "excluded.csv", left_out.to_csv(index=False).encode())
    frame = pd.DataFrame(kept, columns=SCHEMA.names[:5])
    sizes = frame.groupby("split")[["pair_id", "study_id", "patient_id"]].nunique()
    sizes = sizes.set_axis(["pairs", "studies", "patients"], axis=1).reindex(SPLITS, fill_value=0)
    hashes = {name: sha256(folder / name) for name in FILES[:-1]}
    images_and_words = "".join(hashes[name] for name in FILES[:2])
    info = {
        "source": config.source,
        "policy": config.policy,
        "images_per_study": config.images_per_study,
        "image_size": config.cache_size,
        "rules": RULES | {"images_per_study": RULES["images_per_study"][config.images_per_study]},
        "notes": notes,
        "seen": len(kept) + len(excluded),
        "kept": len(kept),
        "excluded": dict(Counter(record["reason"] for record in excluded).most_common()),
        "views": dict(Counter(frame["view"]).most_common()),
        "splits": sizes.to_dict("index"),
        "pairs_sha256": hashlib.sha256("\n".join(frame["pair_id"]).encode()).hexdigest(),
        "sha256": hashes,
        # What a model was trained on: the same ids can come with other images or other words.
        "dataset_sha256": hashlib.sha256(images_and_words.encode()).hexdigest(),
        "versions": {name: version(name) for name in ("numpy", "pillow", "pydicom", "pyarrow")},
    }
    write(folder / "dataset.json", json.dumps(info, indent=1, ensure_ascii=False).encode())
