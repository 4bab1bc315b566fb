"""Training: optimiser, schedule, epochs, the best model on the validation split, and resuming.

On several GPUs or nodes: `accelerate launch -m mcrlib.training run=mimic variant=mcr seed=0`, with
any other setting as NAME=VALUE. The batch is shared among the processes; their number changes
nothing but the order in which floating-point numbers are added, and where dropout falls.
"""

import json
import math
import os
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, send_to_device, set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from mcrlib import pretrained, provenance
from mcrlib.config import PLAIN, Config
from mcrlib.data.batches import Batch, EpochOrder, SplitPairs
from mcrlib.data.dataset import Dataset
from mcrlib.evaluation import retrieval
from mcrlib.files import write
from mcrlib.model import MCR
from mcrlib.training import checkpoint
from mcrlib.training.checkpoint import Saves
from mcrlib.training.recompute import lighten
from mcrlib.training.two_pass import two_pass


def train(config: Config, dataset: Dataset) -> pd.DataFrame:
    """Train one model to `config.folder/checkpoint/final`; returns its history, a row an epoch.

    Goes on where an earlier call stopped, from the step of its last save. `final` is the epoch with
    the best mean Recall@10 of both directions on the validation split; the test split is never
    looked at. Raises ValueError where the folder holds a model of other settings or data or no save
    that is intact, or where the batch does not fit the training split or the processes,
    FloatingPointError where loss or gradient is not finite, OSError where the disk is full.
    """
    final, log = config.folder / "checkpoint" / "final", config.folder / "history.csv"
    if final.is_dir():
        checkpoint.check(final, dataset, config)
        checkpoint.tidy(final.parent)
        return pd.read_csv(log)

    on_cpu = not torch.accelerator.is_available()  # which alone does not share it, unless told
    # A weight's cast must not be kept for later blocks where blocks are computed again.
    cast = AutocastKwargs(cache_enabled=config.recompute == "none")
    accelerator = Accelerator(cpu=on_cpu, mixed_precision=config.precision, kwargs_handlers=[cast])
    set_seed(config.seed)
    reports = dataset.frame["report"].iloc[dataset.indices("train")].tolist()
    tokenizer = pretrained.load_tokenizer(config, reports)
    vit = pretrained.load_vit(config)
    language_model = pretrained.load_language_model(config, len(tokenizer))
    model = lighten(MCR(config, tokenizer, vit, language_model))
    network, optimizer = accelerator.prepare(model, _optimizer(model, config))
    pairs, order, loader = _batches(config, dataset, tokenizer, accelerator)
    saves = Saves(config, dataset, model, optimizer)
    at = saves.resume()
    if at.history or at.step:
        accelerator.print(f"going on after {at.step} steps of epoch {len(at.history) + 1}")
    accelerator.wait_for_everyone()  # or a save might go while another process reads it

    for epoch in range(len(at.history), config.epochs):
        pairs.epoch, order.epoch, order.first = epoch, epoch, at.step
        network.train()
        started = time.perf_counter() - at.seconds
        for batch in _watched(loader, at, len(order), config, accelerator):
            rate = learning_rate((epoch + (at.step + 1) / len(order)) / config.epochs, config)
            # Dropout's seed is of the place alone, so that a resumed run repeats an unbroken one.
            torch.manual_seed(hash((config.seed, epoch, at.step, accelerator.process_index)))
            terms = _gradient(batch, accelerator, network, config)
            if not math.isfinite(sum(terms.values())):
                raise _not_finite(terms, at, pairs, order, config, accelerator)
            _update(optimizer, rate)
            at.add(terms, time.perf_counter() - started)
            if accelerator.is_main_process and saves.due() and at.step < len(order):
                saves.save(at)
        row = at.end_epoch()
        if accelerator.is_main_process:  # the others wait in the next step
            if (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs:
                row["validate_recall@10"] = validate(model, dataset)
            write(log, pd.DataFrame(at.history).to_csv(index=False).encode())
            saves.save(at)
            print(_line(at.history, len(pairs), config), flush=True)
    if accelerator.is_main_process:
        saves.finish(at)
    accelerator.wait_for_everyone()
    return pd.DataFrame(at.history)


def validate(model: MCR, dataset: Dataset) -> float:
    """Mean Recall@10 of both directions on the validation split, policy `pair`."""
    both = rank_split(model, dataset, "validate")
    return float(np.mean([retrieval.recall_at(r, ks=(10,))[10] for r in both]))


def rank_split(model: MCR, dataset: Dataset, split: str) -> np.ndarray:
    """Ranks `[2, N]` of a split's pairs: image to report, report to image, policy `pair`."""
    rows = dataset.indices(split)
    image = model.embed_images(dataset.images[rows])
    report = model.embed_reports(dataset.frame["report"].iloc[rows].tolist())
    own = np.arange(len(rows))
    ways = (image, report), (report, image)
    return np.stack([retrieval.ranks(*way, own, own) for way in ways])


def learning_rate(progress: float, config: Config) -> float:
    """The rate after `progress` (0 to 1) of all steps: linear warm-up, then cosine to zero."""
    warmup = config.warmup_epochs / config.epochs
    if progress < warmup:
        return config.lr * progress / warmup
    return config.lr * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, 1e-9))) / 2


def _batches(config, dataset, tokenizer, accelerator) -> tuple[SplitPairs, EpochOrder, DataLoader]:
    """This process's share of each batch; which pairs a batch has, all processes agree on."""
    pairs = SplitPairs(dataset, "train", config, tokenizer)
    pairs.share = slice(accelerator.process_index, None, accelerator.num_processes)
    order = EpochOrder(len(pairs), config.batch_size, config.seed)
    if not len(order):
        raise ValueError(
            f"The training split has {len(pairs)} pairs, fewer than a batch of "
            f"{config.batch_size}; set a smaller batch_size."
        )
    if config.batch_size % accelerator.num_processes:
        raise ValueError(
            f"A batch of {config.batch_size} cannot be shared equally by "
            f"{accelerator.num_processes} processes; set a batch_size that is a multiple of them."
        )
    loader = DataLoader(pairs, batch_sampler=order, collate_fn=_as_is, num_workers=config.workers)
    return pairs, order, loader


def _gradient(batch, accelerator, network, config) -> dict[str, float]:
    """Forward, backward and clipping; the loss, its terms and the gradient's length, over all
    processes. Reading them makes the device wait: only so no weight is ever changed by a loss that
    is not finite."""
    batch = send_to_device(batch, accelerator.device)
    if config.micro_batch:
        terms = two_pass(network, batch, config.micro_batch, accelerator)
    else:
        with accelerator.autocast():
            terms = network(batch)
        accelerator.backward(terms["loss"])
    means = accelerator.reduce(torch.stack([term.detach() for term in terms.values()]), "mean")
    length = accelerator.clip_grad_norm_(network.parameters(), config.clip_norm)
    values = torch.cat([means, length[None]]).tolist()
    return dict(zip([*terms, "gradient_norm"], values, strict=True))


def _update(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()


def _not_finite(terms, at, pairs, order, config, accelerator) -> FloatingPointError:
    """The error to raise; what is needed to find its cause is written first."""
    file = config.folder / "not_finite.json"
    place = {"epoch": len(at.history) + 1, "step": at.step + 1}
    order.first = at.step
    pair_ids = [pairs.pair_ids[i] for i in next(iter(order))]
    values = {name: str(value) for name, value in terms.items()}  # JSON has no NaN
    record = place | {"terms": values, "pair_ids": pair_ids}
    if accelerator.is_main_process:
        write(file, json.dumps(record, indent=1).encode())
    return FloatingPointError(
        f"The loss or its gradient is not finite in epoch {place['epoch']}, step {place['step']}: "
        f"{values}. The step is not taken and the save before is kept; {file} names the batch's "
        "pairs. Lower the learning rate `lr`."
    )


def _optimizer(model: MCR, config: Config) -> torch.optim.AdamW:
    """AdamW; weights of matrices decay, biases, norms and single vectors do not."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )


def _as_is(batch):
    return batch


def _watched(loader, at, steps, config, accelerator) -> Iterator[Batch]:
    """The batches, with a bar for people: pairs a second, time left, memory."""
    bar = tqdm(
        loader,
        f"epoch {len(at.history) + 1}/{config.epochs}",
        total=steps,
        initial=at.step,
        unit="pairs",
        unit_scale=config.batch_size,
        leave=False,
        disable=PLAIN in os.environ or not accelerator.is_main_process,
    )
    for batch in bar:
        yield batch
        bar.set_postfix_str(f"{provenance.peak_memory():.1f} GB", refresh=False)


def _line(history: list[dict], pairs: int, config: Config) -> str:
    """An epoch in one line: where output is kept, it does not grow with the steps."""
    row = history[-1]
    terms = "  ".join(f"{k} {row[k]:.3f}" for k in ("loss", "vrc", "mim", "mrm") if k in row)
    recall = row.get("validate_recall@10")
    shown = "" if recall is None else f"  validation Recall@10 {recall:.3f}"
    left = (config.epochs - row["epoch"]) * np.mean([r["seconds"] for r in history]) / 60
    return (
        f"epoch {row['epoch']:>2}/{config.epochs}  {terms}{shown}  {pairs / row['seconds']:.0f} "
        f"pairs/s, {row['seconds']:.0f} s, {left:.0f} min left, {provenance.peak_memory():.1f} GB"
    )
