"""Saves of a run: no kill, full disk or flipped bit turns one into a wrong model (ours).

A save is a folder with the model, tokenizer and settings as `MCR.save_pretrained` writes them, the
optimizer's moments, what the model is made from (`inputs.json`), the position in training
(`position.json`), and the hash of each of these files (`sha256.json`).

It is written in this order: fill a new folder, list the hashes, fsync, rename the folder, and only
then name it in the pointer `saves.json`. A folder in use is never written to, and the previous save
is kept. A save holds no random state, since all random numbers are a function of seed, epoch, step
and pair. Nothing is pickled: tensors are safetensors, the rest is JSON.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file
from torch import Tensor
from transformers import BertTokenizer

from mcrlib.config import TRAINED_MODEL, Config
from mcrlib.data.batches import tokenizer_rules
from mcrlib.data.dataset import Dataset
from mcrlib.files import HASHES_FILE as HASHES
from mcrlib.files import sha256, sync, write
from mcrlib.model import MCR
from mcrlib.training.finished import INPUTS, check_inputs
from mcrlib.training.history import recall_of

POSITION = "position.json"
OPTIMIZER = "optimizer.safetensors"


class Damaged(ValueError):
    """A save is not what was written; the text names the file."""


@dataclass
class Position:
    """How far a run is: `step` steps into the epoch that follows those of `history`."""

    history: list[dict[str, Any]] = field(default_factory=list)  # one row per finished epoch
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)  # of each loss term, over these steps
    seconds: float = 0.0  # spent on these steps

    @property
    def epochs_done(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    @property
    def name(self) -> str:
        """Name of the save at this position. Sorted by name, saves are in the order of time."""
        return _save_name(self.epochs_done, self.step)

    @property
    def best(self) -> str | None:
        """Name of the save after the epoch with the best retrieval on the validation split; None
        before the first epoch ends."""
        if not self.history:
            return None
        best_row = max(self.history, key=recall_of)
        return _save_name(best_row["epoch"], 0)

    def add(self, terms: dict[str, float], seconds: float) -> None:
        """Count a step with these loss terms that ended `seconds` after the epoch's start."""
        self.step += 1
        self.seconds = seconds
        for name, term in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + term

    def end_epoch(self) -> dict[str, Any]:
        """Turn the steps into a new row of the history, with the mean of each term; returns it."""
        row = {"epoch": self.epochs_done + 1}
        for name, total in self.sums.items():
            row[name] = total / self.step
        row["seconds"] = self.seconds
        self.history.append(row)
        self.step = 0
        self.sums = {}
        self.seconds = 0.0
        return row


class Saves:
    """The saves of one run in `config.folder/checkpoint`: the last two, and the best epoch's."""

    def __init__(
        self, config: Config, dataset: Dataset, model: MCR, optimizer: torch.optim.Optimizer
    ):
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.inputs = _inputs(dataset, config, model.tokenizer)
        self.folder = config.folder / "checkpoint"
        self.pointer = self.folder / "saves.json"
        # Name of each save -> hash of its hash list, None if the pointer was lost.
        self.kept: dict[str, str | None] = {}
        self.last_saved = time.monotonic()

    def due(self) -> bool:
        """Whether the last save is `save_minutes` old."""
        age = time.monotonic() - self.last_saved
        return age >= 60 * self.config.save_minutes

    def save(self, position: Position) -> None:
        """Write a save. Raises OSError, with a message that fits one line, if the disk is full."""
        folder = self.folder / position.name
        with _new_folder(folder) as new:
            self._write_state(new, position)
        self._keep(position, sha256(folder / HASHES))
        write(self.pointer, json.dumps(self.kept, indent=1).encode())
        self._remove_others()
        self.last_saved = time.monotonic()

    def resume(self) -> Position:
        """Load the newest intact save into model and optimizer; returns its position, or the start
        if there is no save.

        Raises ValueError if its settings, pairs or tokenizer differ from this run's, and Damaged if
        there are saves but none is intact.
        """
        folder = self._newest_intact()
        if folder is None:
            return Position()
        check_inputs(folder, self.inputs)
        load_model(self.model, folder / "model.safetensors", strict=True)
        optimizer_state = self.optimizer.state_dict()
        optimizer_state["state"] = _unflatten(load_file(folder / OPTIMIZER))
        self.optimizer.load_state_dict(optimizer_state)
        return Position(**json.loads((folder / POSITION).read_text()))

    def finish(self, position: Position) -> None:
        """Make the best epoch's model `final`, and then remove the saves.

        Raises Damaged, and keeps all saves, if a file of `final` is not what the save holds.
        """
        best = self.folder / position.best
        try:
            hashes = _verify(best, self.kept.get(best.name))
        except Damaged as error:
            raise Damaged(
                f"{error} It is the best epoch's save: remove {self.folder} to train anew."
            ) from None
        left_out = shutil.ignore_patterns(HASHES, OPTIMIZER, POSITION)
        final = self.folder / "final"
        with _new_folder(final) as new:
            shutil.copytree(best, new, ignore=left_out, dirs_exist_ok=True)
        for name in set(hashes) - {OPTIMIZER, POSITION}:
            _compare(final / name, hashes[name])
        tidy(self.folder)

    def _write_state(self, folder: Path, position: Position) -> None:
        """Write all files of a save but its hash list."""
        self.model.save_pretrained(folder)
        save_file(_flatten(self.optimizer.state_dict()["state"]), folder / OPTIMIZER)
        (folder / INPUTS).write_text(json.dumps(self.inputs, indent=1))
        (folder / POSITION).write_text(json.dumps(dataclasses.asdict(position), indent=1))

    def _keep(self, position: Position, digest: str) -> None:
        """Keep the save just written, the one before it and the best epoch's."""
        previous = max(self.kept, default=None)
        for name in list(self.kept):
            if name not in (previous, position.best):
                del self.kept[name]
        self.kept[position.name] = digest

    def _remove_others(self) -> None:
        for folder in self.folder.glob("epoch-*"):
            if folder.name not in self.kept:
                shutil.rmtree(folder)

    def _newest_intact(self) -> Path | None:
        """Folder of the newest save that is intact; None if there are no saves."""
        self.kept = self._listed()
        damage = ""
        for name in sorted(self.kept, reverse=True):
            folder = self.folder / name
            try:
                _verify(folder, self.kept[name])
                return folder
            except Damaged as error:
                damage = str(error)
                print(f"{damage} Trying the previous save.", flush=True)
                del self.kept[name]
        if damage:
            raise Damaged(f"{damage} No save is intact: remove {self.folder} to train anew.")
        return None

    def _listed(self) -> dict[str, str | None]:
        """What the pointer lists; if it is missing or damaged, all saves in the folder."""
        try:
            return dict(json.loads(self.pointer.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):  # a kill before the first, or damage
            names = []
            for folder in self.folder.glob("epoch-*"):
                if folder.suffix != ".partial":
                    names.append(folder.name)
            return dict.fromkeys(names)


def load_trained(config: Config, dataset: Dataset) -> MCR:
    """The finished model of (run, variant, seed), in evaluation mode, on a GPU if there is one.

    Raises FileNotFoundError if it is not trained, and ValueError if it was trained on other pairs
    or one of its files is damaged.
    """
    final = config.folder / TRAINED_MODEL
    if not final.is_dir():
        raise FileNotFoundError(
            f"There is no trained model in {final}: run `make train RUN={config.run} "
            f"VARIANTS={config.variant} SEEDS={config.seed}` first."
        )
    check(final, dataset)
    model = MCR.from_pretrained(final)
    device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    return model.to(device)


def check(folder: Path, dataset: Dataset, config: Config | None = None) -> None:
    """Refuse, with a ValueError, a finished model that is damaged or of other data or settings.

    Without `config`, settings are not compared.
    """
    try:
        _verify(folder)
    except Damaged as error:
        raise Damaged(f"{error} Remove {folder} to train this model anew.") from None
    check_inputs(folder, _inputs(dataset, config))


def has_saves(folder: Path) -> bool:
    """Whether the saves of a run are still in `folder`, so that its `final` can be made again."""
    return any(save.suffix != ".partial" for save in folder.glob("epoch-*"))


def tidy(folder: Path) -> None:
    """Remove the saves of a finished run."""
    (folder / "saves.json").unlink(missing_ok=True)
    for save in folder.glob("epoch-*"):
        shutil.rmtree(save, ignore_errors=True)  # another process may be removing it too


def _save_name(epochs_done: int, step: int) -> str:
    return f"epoch-{epochs_done:04d}-step-{step:06d}"


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Write `folder` whole or not at all: the caller fills the empty folder that this context
    gives, which then gets its hash list, is brought to disk, and is renamed.

    Raises OSError if a step before the renaming fails; `folder` is then as it was before.
    """
    new = folder.with_name(folder.name + ".partial")
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        yield new
        _write_hash_list(new)
        _sync_folder(new)
    except Exception as error:  # safetensors and tokenizers raise errors of their own
        shutil.rmtree(new, ignore_errors=True)
        raise OSError(
            f"{folder} could not be written ({error}): make room there and run this again. "
            "Training will resume from the previous save, which is unchanged."
        ) from error
    # A folder of this name is left from a kill or was found damaged. The pointer does not list it.
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    sync(folder.parent)


def _write_hash_list(folder: Path) -> None:
    hashes = {file.name: sha256(file) for file in sorted(folder.iterdir())}
    (folder / HASHES).write_text(json.dumps(hashes, indent=1))


def _sync_folder(folder: Path) -> None:
    for file in folder.iterdir():
        sync(file)
    sync(folder)


def _verify(folder: Path, digest: str | None = None) -> dict[str, str]:
    """Raise Damaged unless all files have the listed hashes, and the list the hash `digest`;
    returns the list."""
    hash_list = folder / HASHES
    try:
        hashes = dict(json.loads(hash_list.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        hashes = None
    is_damaged = hashes is None
    if digest is not None and not is_damaged:
        is_damaged = sha256(hash_list) != digest
    if is_damaged:
        raise Damaged(f"{hash_list} is missing or not the list that was saved.")
    for name, expected in hashes.items():
        _compare(folder / name, expected)
    return hashes


def _compare(file: Path, expected: str) -> None:
    if not file.is_file() or sha256(file) != expected:
        raise Damaged(f"{file} is missing or not the file that was saved.")


def _inputs(
    dataset: Dataset, config: Config | None = None, tokenizer: BertTokenizer | None = None
) -> dict[str, Any]:
    """What a model is made from, by name: hash of the dataset, and, if given, each setting that can
    change a number and the hash of the tokenizer."""
    inputs = {"dataset": dataset.info["dataset_sha256"][:16]}
    if config is not None:
        inputs.update(config.deciding())
    if tokenizer is not None:
        rules = tokenizer_rules(tokenizer)
        inputs["tokenizer"] = hashlib.sha256(rules.encode()).hexdigest()[:16]
    return inputs


def _flatten(state: dict[int, dict[str, Any]]) -> dict[str, Tensor]:
    """An optimizer's state as one level of tensors, named `WEIGHT.KEY`, as safetensors needs it."""
    tensors = {}
    for weight, values in state.items():
        for key, value in values.items():
            tensors[f"{weight}.{key}"] = torch.as_tensor(value).clone()
    return tensors


def _unflatten(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The state that `_flatten` flattened."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        weight, key = name.split(".")
        values = state.setdefault(int(weight), {})
        values[key] = value
    return state
