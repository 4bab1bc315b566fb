"""Training: optimiser, schedule, epochs, resuming, and choosing the best model on validation.

On several GPUs or nodes: `accelerate launch -m mcrlib.training run=mimic variant=mcr seed=0`, with
any other setting as NAME=VALUE. The processes share each batch. Their number changes only the order
in which floating-point numbers are added, and the random numbers that dropout draws.
"""

import contextlib
import functools
import gc
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, broadcast_object_list, send_to_device, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import BertTokenizer

from mcrlib import pretrained
from mcrlib.config import PLAIN, TRAINED_MODEL, Config
from mcrlib.data.batches import Batch, EpochOrder, SplitPairs, micro_batches
from mcrlib.data.dataset import Dataset, refuse_problems
from mcrlib.evaluation import retrieval
from mcrlib.files import write
from mcrlib.locks import Busy, lock
from mcrlib.model import MCR
from mcrlib.provenance import peak_memory
from mcrlib.training import budget, checkpoint
from mcrlib.training.budget import Budget
from mcrlib.training.checkpoint import Damaged, Saves
from mcrlib.training.faults import Stopped, StopSignals, explained, leave_process_group
from mcrlib.training.history import recall_name, recall_of, recorded_k
from mcrlib.training.recompute import lighten
from mcrlib.training.two_pass import two_pass

LOCK_SECONDS = 2.0  # a training that was just killed may still be ending
STOP = "asked to stop"  # among the terms of a step
SHOWN_TERMS = ("loss", "vrc", "mim", "mrm")  # in the line that is printed after each epoch


def train(config: Config, dataset: Dataset) -> pd.DataFrame:
    """Train one model to `config.folder/checkpoint/final`; returns its history, one row per epoch.

    An interrupted run resumes at the step of its last save; a finished one is not trained again.
    `final` is the epoch with the best mean Recall@K of both directions on the validation split; K
    is 10, or less in a small split (`retrieval.telling_k`). The test split is never used.

    Raises ValueError if the folder holds a model of other settings or data, or only damaged saves,
    if a split is empty or too small (`data.dataset.problems`), and if the batch size does not suit
    the training split or the number of processes. Raises FloatingPointError if the loss or its
    gradient is not finite, and OSError if the disk is full or another process is training the same
    model. What else can end a long training is in `training.faults`: Stopped after a signal, with
    everything saved, MemoryError, and ChildProcessError if a process of the loader was killed.
    """
    history = _finished_history(config, dataset)
    if history is not None:
        return history
    refuse_problems(dataset, config)
    accelerator = _accelerator(config)
    with _only_training(config, accelerator):
        history = _finished_history(config, dataset)  # by another process meanwhile
        if history is not None:
            return history
        with explained(config):
            return Trainer(config, dataset, accelerator).run()


def _finished_history(config: Config, dataset: Dataset) -> pd.DataFrame | None:
    """The history of the finished model; None if there is none yet, or only a damaged one whose
    saves can make it again."""
    final = config.folder / TRAINED_MODEL
    if not final.is_dir():
        return None
    try:
        checkpoint.check(final, dataset, config)
    except Damaged as error:
        if not checkpoint.has_saves(final.parent):
            raise
        print(f"{error} Its saves are still there, so it is made again from them.", flush=True)
        return None
    history = _read_history(config.folder / "history.csv")
    checkpoint.tidy(final.parent)
    return history


def _read_history(file: Path) -> pd.DataFrame:
    """The history of a finished model. Raises Damaged if its file is missing or not readable."""
    try:
        return pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise Damaged(
            f"{file}, the history of a finished model, cannot be read ({error}): restore it, or "
            f"remove {file.parent} to train anew."
        ) from None


@contextlib.contextmanager
def _only_training(config: Config, accelerator: Accelerator) -> Iterator[None]:
    """Let no other training of the same model run meanwhile; raises Busy, in all processes of this
    training, if one does."""
    refusal = [""]
    with contextlib.ExitStack() as held:
        if accelerator.is_main_process:
            try:
                held.enter_context(lock(config.folder / "training.lock", wait=LOCK_SECONDS))
            except Busy as holder:
                refusal = [
                    f"Another training of {config.folder} is running ({holder}): wait until it is "
                    "done, or choose another seed, variant or run."
                ]
        broadcast_object_list(refusal)
        if refusal[0]:
            raise Busy(refusal[0])
        yield


class Trainer:
    """One run of training: the model, its data and optimizer, its saves, and the epoch loop.

    With several processes each has a Trainer. All take the same steps; only the main process
    validates, writes files and prints.
    """

    def __init__(self, config: Config, dataset: Dataset, accelerator: Accelerator | None = None):
        self.config = config
        self.dataset = dataset
        self.accelerator = accelerator or _accelerator(config)
        set_seed(config.seed)
        self.model = _new_model(config, dataset)
        optimizer = _optimizer(self.model, config)
        # `network` is the model, wrapped if several processes add their gradients.
        self.network, self.optimizer = self.accelerator.prepare(self.model, optimizer)
        batches = _batches(config, dataset, self.model.tokenizer, self.accelerator)
        self.pairs = batches.pairs
        self.order = batches.order
        self.loader = batches.loader
        self.budget = _budget(self.model, batches)
        self.saves = Saves(config, dataset, self.model, self.optimizer)
        self.position = self.saves.resume()
        self.pool = len(dataset.indices("validate"))
        self.k = _validation_k(self.position.history, self.pool)
        self.signals = StopSignals()
        self.epoch_started = time.perf_counter()
        # No process may write a save while another one still reads it.
        self.accelerator.wait_for_everyone()

    def run(self) -> pd.DataFrame:
        """Train all epochs that are left; returns the history, one row per epoch."""
        self._announce()
        with self.signals:
            for epoch in range(self.position.epochs_done, self.budget.last_epoch):
                self._start_epoch(epoch)
                for parts in self._remaining_batches():
                    values = self.take_step(parts)
                    is_asked_to_stop = values.pop(STOP) > 0
                    self._check_finite(values)
                    self._count_step(values)
                    self._save_if_due()
                    if is_asked_to_stop:
                        self._stop()
                self._end_epoch()
            self._finish()
        return pd.DataFrame(self.position.history)

    def take_step(self, parts: list[Batch]) -> dict[str, float]:
        """Change the weights by one batch, given in micro batches; returns the terms of its loss,
        the gradient's norm, and under STOP the share of processes that were asked to stop."""
        rate = learning_rate(self._progress(), self.config)
        self._seed_dropout()
        terms = _gradient(parts, self.accelerator, self.network, self.config, self.signals)
        self._update_weights(rate, terms)
        return _read(terms)  # the step's only wait for the device: its work is queued

    def _stop(self) -> None:
        """Save and raise Stopped. All processes come here after the same step."""
        if self.accelerator.is_main_process:
            self.saves.save(self.position)
        self.accelerator.wait_for_everyone()  # none may leave before the save is complete
        raise Stopped(
            f"Asked to stop ({self.signals.received or 'in another process'}): saved after step "
            f"{self.position.step} of epoch {self.position.epochs_done + 1}; run the same command "
            "again to go on from there."
        )

    def _announce(self) -> None:
        """Note how long the training is, and say so where equal compute decides it; say from where
        it is resumed."""
        if self.config.compute:
            self.accelerator.print(budget.sentence(self.budget, self.config))
        if self.accelerator.is_main_process:
            self.budget.save(self.config.folder)
        steps = self.position.step
        epochs = self.position.epochs_done
        if steps or epochs:
            self.accelerator.print(f"resuming after {steps} steps of epoch {epochs + 1}")

    def _start_epoch(self, epoch: int) -> None:
        self.pairs.epoch = epoch
        self.order.epoch = epoch
        self.order.steps = self.budget.steps_of(epoch)
        self.order.first = self.position.step
        self.network.train()
        # The steps that were taken before an interruption count as part of the epoch's time.
        self.epoch_started = time.perf_counter() - self.position.seconds

    def _remaining_batches(self) -> Iterator[list[Batch]]:
        """The epoch's batches in parts, from the current position on, with a progress bar that
        shows pairs per second, the time left and the peak memory."""
        progress_bar = tqdm(
            self.loader,
            f"epoch {self.position.epochs_done + 1}/{self.budget.last_epoch}",
            total=len(self.order),
            initial=self.position.step,
            unit="pairs",
            unit_scale=self.config.batch_size,
            leave=False,
            disable=bool(os.environ.get(PLAIN)) or not self.accelerator.is_main_process,
        )
        for parts in progress_bar:
            yield parts
            progress_bar.set_postfix_str(f"{peak_memory():.1f} GB", refresh=False)

    def _progress(self) -> float:
        """Share of all steps that are done once the current step is taken, 0 to 1."""
        share_of_epoch = (self.position.step + 1) / self.budget.epoch_steps
        return (self.position.epochs_done + share_of_epoch) / self.budget.epochs

    def _seed_dropout(self) -> None:
        """Make dropout depend on the position only, so that a resumed run equals an unbroken one,
        bit by bit."""
        place = (
            self.config.seed,
            self.position.epochs_done,
            self.position.step,
            self.accelerator.process_index,
        )
        torch.manual_seed(hash(place))

    def _check_finite(self, terms: dict[str, float]) -> None:
        """Raise FloatingPointError if a term of the loss or the gradient's norm is not finite.

        What is needed to find the cause is first written to `not_finite.json`.
        """
        if math.isfinite(sum(terms.values())):
            return
        file = self.config.folder / "not_finite.json"
        self.order.first = self.position.step
        indices = next(iter(self.order))  # of this step's batch
        record = {
            "epoch": self.position.epochs_done + 1,
            "step": self.position.step + 1,
            "terms": {name: str(value) for name, value in terms.items()},  # JSON has no NaN
            "pair_ids": [self.pairs.pair_ids[i] for i in indices],
        }
        if self.accelerator.is_main_process:
            write(file, json.dumps(record, indent=1).encode())
        raise FloatingPointError(
            f"The loss or its gradient is not finite in epoch {record['epoch']}, step "
            f"{record['step']}: {record['terms']}. This step did not change the model, and the "
            f"last save is kept; {file} lists the batch's pairs. Lower the learning rate `lr`."
        )

    def _update_weights(self, rate: float, terms: dict[str, Tensor]) -> None:
        """Change the weights, unless one of `terms` is not finite.

        The device decides that itself: AdamW skips an update whose `found_inf`, which is how
        PyTorch's gradient scalers speak to it, is 1.
        """
        is_finite = torch.stack([*terms.values()]).isfinite().all()
        self.optimizer.optimizer.found_inf = (~is_finite).float()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _count_step(self, terms: dict[str, float]) -> None:
        seconds = time.perf_counter() - self.epoch_started
        self.position.add(terms, seconds)

    def _save_if_due(self) -> None:
        """Save in mid-epoch if the last save is old enough; each epoch ends with a save anyway."""
        if not self.accelerator.is_main_process:
            return
        in_mid_epoch = self.position.step < len(self.order)
        if self.saves.due() and in_mid_epoch:
            self.saves.save(self.position)

    def _end_epoch(self) -> None:
        """Validate, log and save. The other processes wait for the main one in their next step."""
        row = self.position.end_epoch()
        if not self.accelerator.is_main_process:
            return
        is_last = row["epoch"] == self.budget.last_epoch
        if is_last or self._is_validated(row["epoch"]):
            row[recall_name(self.k)] = validate(self.model, self.dataset, self.k)
        history = self.position.history
        table = pd.DataFrame(history).to_csv(index=False)
        write(self.config.folder / "history.csv", table.encode())
        self.saves.save(self.position)
        pairs = len(self.order) * self.config.batch_size
        print(_epoch_line(history, pairs, self.pool, self.budget), flush=True)

    def _is_validated(self, epoch: int) -> bool:
        """Whether validation is due after an epoch. Epochs of fewer pairs are shorter, so as many
        more lie between."""
        every = self.config.validate_every * self.budget.epochs_of_all
        return epoch // every > (epoch - 1) // every

    def _finish(self) -> None:
        if self.accelerator.is_main_process:
            self.saves.finish(self.position)
        self.accelerator.wait_for_everyone()


def validate(model: MCR, dataset: Dataset, k: int = 10) -> float:
    """Mean Recall@K of both directions on the validation split, 0 to 1, policy `pair`."""
    recalls = []
    for ranks in rank_split(model, dataset, "validate"):
        recalls.append(retrieval.recall_at(ranks, ks=(k,))[k])
    return float(np.mean(recalls))


def rank_split(model: MCR, dataset: Dataset, split: str) -> np.ndarray:
    """Ranks `[2, N]` of a split's pairs: image to report, report to image, policy `pair`."""
    rows = dataset.indices(split)
    image = model.embed_images(dataset.images[rows])
    report = model.embed_reports(dataset.frame["report"].iloc[rows].tolist())
    partners = np.arange(len(rows))  # a query's only positive is its own partner
    image_to_report = retrieval.ranks(image, report, partners, partners)
    report_to_image = retrieval.ranks(report, image, partners, partners)
    return np.stack([image_to_report, report_to_image])


def learning_rate(progress: float, config: Config) -> float:
    """The rate after a share `progress` (0 to 1) of all steps: linear warm-up, then a cosine to
    zero. At equal compute the warm-up is as much shorter or longer as the whole training."""
    warmup = config.warmup_epochs / config.epochs
    if progress < warmup:
        return config.lr * progress / warmup
    angle = math.pi * (progress - warmup) / max(1 - warmup, 1e-9)
    return config.lr * (1 + math.cos(angle)) / 2


def _accelerator(config: Config) -> Accelerator:
    # accelerate does not split CPU work among processes unless cpu=True.
    on_cpu = not torch.accelerator.is_available()
    # Recomputation breaks autocast's weight cache, so disable it.
    cast = AutocastKwargs(cache_enabled=config.recompute == "none")
    return Accelerator(cpu=on_cpu, mixed_precision=config.precision, kwargs_handlers=[cast])


def _new_model(config: Config, dataset: Dataset) -> MCR:
    """An untrained model; a small run's vocabulary is learned from the training reports."""
    training_rows = dataset.training_rows(config.train_pairs)
    reports = dataset.frame["report"].iloc[training_rows].tolist()
    tokenizer = pretrained.load_tokenizer(config, reports)
    vit = pretrained.load_vit(config)
    language_model = pretrained.load_language_model(config, len(tokenizer))
    return lighten(MCR(config, tokenizer, vit, language_model))


def _optimizer(model: MCR, config: Config) -> torch.optim.AdamW:
    """AdamW. Weight decay applies to matrices, not to biases, norms and other vectors."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    matrices = [weight for weight in trained if weight.ndim >= 2]
    vectors = [weight for weight in trained if weight.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


class _Batches(NamedTuple):
    """Where a process's batches come from."""

    pairs: SplitPairs
    order: EpochOrder
    loader: DataLoader


def _batches(
    config: Config, dataset: Dataset, tokenizer: BertTokenizer, accelerator: Accelerator
) -> _Batches:
    """This process's share of each batch. All processes agree on the pairs of a batch."""
    pairs = SplitPairs(dataset, "train", config, tokenizer)
    pairs.share = slice(accelerator.process_index, None, accelerator.num_processes)
    order = EpochOrder(len(pairs), config.batch_size, config.seed, config.epoch_steps)
    if len(order) == 0:
        raise ValueError(
            f"The training split has {len(pairs)} pairs, fewer than a batch of "
            f"{config.batch_size}; set a smaller batch_size."
        )
    if config.batch_size % accelerator.num_processes != 0:
        raise ValueError(
            f"A batch of {config.batch_size} cannot be shared equally by "
            f"{accelerator.num_processes} processes; set batch_size to a multiple of their number."
        )
    loader = DataLoader(
        pairs,
        batch_sampler=order,
        collate_fn=functools.partial(_in_parts, size=config.micro_batch),
        num_workers=config.workers,
        worker_init_fn=_prepare_worker,
        pin_memory=accelerator.device.type == "cuda",
    )
    return _Batches(pairs, order, loader)


def _budget(model: MCR, batches: _Batches) -> Budget:
    """How long the model's training is; the order must still have its whole epochs."""
    config = model.config
    tokens = batches.pairs.tokens  # of the whole split
    of_all = EpochOrder(len(tokens), config.batch_size, config.seed, config.epoch_steps)
    lengths = [tokens.length(row) for row in range(len(tokens))]
    words = len(model.tokenizer)
    return budget.of_training(
        config,
        lengths,
        words,
        model.bert_config,
        epoch_steps=len(batches.order),
        steps_of_all=len(of_all),
    )


def _prepare_worker(worker: int) -> None:
    """Called once in each of the loader's workers, which must be able to pickle it."""
    leave_process_group(worker)
    # Garbage collection writes to every list that it inspects. Those of the whole manifest, which
    # a forked worker inherits but never uses, would be copied into each worker.
    gc.freeze()


def _in_parts(batch: Batch, size: int) -> list[Batch]:
    """The batch in micro batches of `size` pairs; 0 keeps it whole. Runs in the loader's workers,
    which must be able to pickle it."""
    if size == 0:
        return [batch]
    return micro_batches(batch, size)


def _gradient(
    parts: list[Batch],
    accelerator: Accelerator,
    network: nn.Module,
    config: Config,
    signals: StopSignals,
) -> dict[str, Tensor]:
    """Forward pass, backward pass and clipping; returns `loss`, its terms, STOP and
    `gradient_norm`, each over all processes and still on the device.

    That a process was asked to stop travels with the loss, so that all learn of it in the same step
    and none waits for the device once more.
    """
    parts = send_to_device(parts, accelerator.device, non_blocking=True)
    if config.micro_batch:
        terms = two_pass(network, parts, accelerator)
    else:
        (batch,) = parts
        with accelerator.autocast():
            terms = network(batch)
        accelerator.backward(terms["loss"])
    own_terms = {name: term.detach() for name, term in terms.items()}
    own_terms[STOP] = torch.full_like(own_terms["loss"], bool(signals.received))
    means = accelerator.reduce(torch.stack([*own_terms.values()]), "mean")
    over_all_processes = dict(zip(own_terms, means, strict=True))
    norm = accelerator.clip_grad_norm_(network.parameters(), config.clip_norm)
    return {**over_all_processes, "gradient_norm": norm}


def _read(terms: dict[str, Tensor]) -> dict[str, float]:
    """The terms as numbers. This waits for the device."""
    values = torch.stack([*terms.values()]).tolist()
    return dict(zip(terms, values, strict=True))


def _validation_k(history: list[dict[str, Any]], pool: int) -> int:
    """The K that chooses the best epoch: the one that the training began with, or, before its first
    validation, the one that suits the pool."""
    for row in history:
        k = recorded_k(row)
        if k is not None:
            return k
    return retrieval.telling_k(pool)


def _epoch_line(history: list[dict[str, Any]], pairs: int, pool: int, length: Budget) -> str:
    """The last epoch in one line, so that a log file grows with the epochs and not the steps.

    `pairs` are trained on, `pool` validated on.
    """
    row = history[-1]
    seconds = row["seconds"]
    parts = [f"epoch {row['epoch']:>2}/{length.last_epoch}"]
    for name in SHOWN_TERMS:
        if name in row:
            parts.append(f"{name} {row[name]:.3f}")
    k = recorded_k(row)
    if k is not None:
        (chance,) = retrieval.chance_recall((k,), pool).values()
        parts.append(f"validation Recall@{k} {recall_of(row):.3f} (chance {chance:.3f})")
    epochs_left = max(length.epochs - row["epoch"], 0)
    seconds_per_epoch = np.mean([past["seconds"] for past in history])
    minutes_left = epochs_left * seconds_per_epoch / 60
    parts.append(
        f"{pairs / seconds:.0f} pairs/s, {seconds:.0f} s, {minutes_left:.0f} min left, "
        f"{peak_memory():.1f} GB"
    )
    return "  ".join(parts)
