"""Saves of a run that no kill, full disk or flipped bit turns into a wrong model.

A save is a folder: model, tokenizer and settings as `MCR.save_pretrained` writes them, the
optimizer's moments, what it is made from (`inputs.json`), how far (`position.json`), and the hash
of each of these files (`sha256.json`). It is filled under another name, brought to the disk,
renamed, and only then pointed to by `saves.json` above it; a folder in use is never written to, and
the save before stays. No random state is kept: what is random is a function of seed, epoch, step
and pair. Nothing is pickled: tensors are safetensors, the rest is JSON.
"""

import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, load_model, save_file
from transformers import BertTokenizer

from mcrlib.config import Config, current_names
from mcrlib.data.dataset import Dataset
from mcrlib.files import sha256, sync, write
from mcrlib.model import MCR

HASHES, INPUTS, POSITION = "sha256.json", "inputs.json", "position.json"
OPTIMIZER = "optimizer.safetensors"


class Damaged(ValueError):
    """A save is not what was written; the text names the file."""


@dataclass
class Position:
    """How far a run is: `step` steps into the epoch that follows those of `history`."""

    history: list[dict] = field(default_factory=list)  # a row an epoch
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # of the loss's terms, over those steps
    seconds: float = 0.0  # they took

    @property
    def name(self) -> str:
        """The save's; in the order of names saves are in the order of time."""
        return f"epoch-{len(self.history):04d}-step-{self.step:06d}"

    @property
    def best(self) -> str | None:
        """Name of the save after the epoch with the best retrieval on the validation split."""
        if not self.history:
            return None
        row = max(self.history, key=lambda row: row.get("validate_recall@10", -1.0))
        return f"epoch-{row['epoch']:04d}-step-{0:06d}"

    def add(self, terms: dict[str, float], seconds: float) -> None:
        """Count a step, `seconds` after the epoch's start."""
        self.step, self.seconds = self.step + 1, seconds
        self.sums = {name: self.sums.get(name, 0.0) + term for name, term in terms.items()}

    def end_epoch(self) -> dict:
        """Turn the steps into a row of the history, and return it."""
        means = {name: total / self.step for name, total in self.sums.items()}
        row = {"epoch": len(self.history) + 1, **means, "seconds": self.seconds}
        self.history.append(row)
        self.step, self.sums, self.seconds = 0, {}, 0.0
        return row


class Saves:
    """The saves of one run in `config.folder/checkpoint`: the last two, and the best epoch's."""

    def __init__(
        self, config: Config, dataset: Dataset, model: MCR, optimizer: torch.optim.Optimizer
    ):
        self.config, self.model, self.optimizer = config, model, optimizer
        self.inputs = _inputs(dataset, config, model.tokenizer)
        self.folder = config.folder / "checkpoint"
        self.pointer = self.folder / "saves.json"
        self.kept: dict[str, str] = {}  # name -> hash of the save's hash list
        self.written = time.monotonic()

    def due(self) -> bool:
        """Whether the last save is `save_minutes` old."""
        return time.monotonic() - self.written >= 60 * self.config.save_minutes

    def save(self, position: Position) -> None:
        """Write a save. Raises OSError, in one sentence, where the disk is full."""
        digest = _write(self.folder / position.name, lambda new: self._fill(new, position))
        stay = {position.best, max(self.kept, default=None)}
        self.kept = {name: old for name, old in self.kept.items() if name in stay}
        self.kept[position.name] = digest
        write(self.pointer, json.dumps(self.kept, indent=1).encode())
        for folder in self.folder.glob("epoch-*"):
            if folder.name not in self.kept:
                shutil.rmtree(folder)
        self.written = time.monotonic()

    def resume(self) -> Position:
        """Load the newest save that is intact, if there is any; returns how far it is.

        Raises ValueError where its settings, pairs or tokenizer are others than this run's, and
        Damaged where there are saves but none is intact.
        """
        folder = self._newest()
        if folder is None:
            return Position()
        _check(folder, self.inputs)
        load_model(self.model, folder / "model.safetensors", strict=True)
        state: dict[int, dict] = {}
        for name, value in load_file(folder / OPTIMIZER).items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        return Position(**json.loads((folder / POSITION).read_text()))

    def finish(self, position: Position) -> None:
        """Make the best epoch's model `final`, and remove the saves."""
        best = self.folder / position.best
        _verify(best, self.kept.get(best.name))
        final, left_out = self.folder / "final", shutil.ignore_patterns(HASHES, OPTIMIZER, POSITION)
        _write(final, lambda new: shutil.copytree(best, new, ignore=left_out, dirs_exist_ok=True))
        tidy(self.folder)

    def _fill(self, folder: Path, position: Position) -> None:
        self.model.save_pretrained(folder)
        moments = {
            f"{index}.{key}": torch.as_tensor(value).clone()
            for index, state in self.optimizer.state_dict()["state"].items()
            for key, value in state.items()
        }
        save_file(moments, folder / OPTIMIZER)
        (folder / INPUTS).write_text(json.dumps(self.inputs, indent=1))
        (folder / POSITION).write_text(json.dumps(dataclasses.asdict(position), indent=1))

    def _newest(self) -> Path | None:
        try:
            self.kept = json.loads(self.pointer.read_text())
        except (FileNotFoundError, ValueError):  # killed before it was there, or damaged
            folders = (f for f in self.folder.glob("epoch-*") if not f.suffix)
            self.kept = dict.fromkeys(folder.name for folder in folders)
        refused = ""
        for name in sorted(self.kept, reverse=True):
            try:
                _verify(self.folder / name, self.kept[name])
                return self.folder / name
            except Damaged as error:
                refused = str(error)
                print(f"{refused} The save before it is tried.", flush=True)
                del self.kept[name]
        if refused:
            raise Damaged(f"{refused} No save is intact: remove {self.folder} to train anew.")
        return None


def load_trained(config: Config, dataset: Dataset) -> MCR:
    """The finished model of (run, variant, seed), in evaluation mode, on a GPU where there is one.

    Raises FileNotFoundError where it is not trained, ValueError where it was on other pairs or one
    of its files is damaged.
    """
    final = config.folder / "checkpoint" / "final"
    if not final.is_dir():
        raise FileNotFoundError(
            f"There is no trained model in {final}: run `make train RUN={config.run} "
            f"VARIANTS={config.variant} SEEDS={config.seed}` first."
        )
    check(final, dataset)
    return MCR.from_pretrained(final).to(
        torch.accelerator.current_accelerator(check_available=True) or "cpu"
    )


def check(folder: Path, dataset: Dataset, config: Config | None = None) -> None:
    """Refuse, with a ValueError, a finished model that is damaged or of other data or settings."""
    _verify(folder)
    _check(folder, _inputs(dataset, config))


def tidy(folder: Path) -> None:
    """Remove the saves of a run that is finished."""
    (folder / "saves.json").unlink(missing_ok=True)
    for save in folder.glob("epoch-*"):
        shutil.rmtree(save, ignore_errors=True)  # another process may be at it


def _write(folder: Path, fill: Callable[[Path], object]) -> str:
    """Make `folder` from what `fill` puts into it, whole or not at all; its hash list's hash."""
    new = folder.with_name(folder.name + ".partial")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        fill(new)
        hashes = {file.name: sha256(file) for file in sorted(new.iterdir())}
        (new / HASHES).write_text(json.dumps(hashes, indent=1))
        for path in (*new.iterdir(), new):
            sync(path)
    except Exception as error:  # the writers of tensors and tokenizer have errors of their own
        shutil.rmtree(new, ignore_errors=True)
        raise OSError(
            f"{folder} could not be written ({error}): make room there and run this again; it goes "
            "on from the save before, which has not changed."
        ) from error
    digest = sha256(new / HASHES)
    shutil.rmtree(folder, ignore_errors=True)  # left by a kill, or refused: nothing points to it
    new.rename(folder)
    sync(folder.parent)
    return digest


def _verify(folder: Path, digest: str | None = None) -> None:
    hashes = folder / HASHES
    try:
        listed = json.loads(hashes.read_text())
    except (FileNotFoundError, ValueError):
        listed = None
    if listed is None or digest not in (None, sha256(hashes)):
        raise Damaged(f"{hashes} is missing or not the list that was saved.")
    for name, expected in listed.items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise Damaged(f"{folder / name} is missing or not the file that was saved.")


def _inputs(
    dataset: Dataset, config: Config | None = None, tokenizer: BertTokenizer | None = None
) -> dict:
    """What a model is made from, by name: settings, and hashes of dataset and tokenizer."""
    inputs = {"dataset": dataset.info["dataset_sha256"][:16]}
    if config is not None:
        inputs |= config.deciding()
    if tokenizer is not None:
        rules = tokenizer.backend_tokenizer.to_str()
        inputs["tokenizer"] = hashlib.sha256(rules.encode()).hexdigest()[:16]
    return inputs


def _check(folder: Path, inputs: dict) -> None:
    saved = current_names(json.loads((folder / INPUTS).read_text()))
    for name, value in inputs.items():
        if saved.get(name) != value:
            raise ValueError(
                f"{folder} was trained with {name}={saved.get(name)!r}, asked for is {value!r}; "
                f"remove {folder.parents[1]} to train anew, or take another seed or run."
            )
