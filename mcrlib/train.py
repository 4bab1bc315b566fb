"""Training: optimiser, schedule, epochs, the best model on the validation split, and resuming."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, set_seed
from safetensors.torch import load_file, load_model, save_file
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from mcrlib import encoders, results, retrieval
from mcrlib.config import PLACES, PLAIN, Config
from mcrlib.data.batches import EpochOrder, Pairs
from mcrlib.data.manifest import Dataset
from mcrlib.model import MCR
from mcrlib.step import two_pass


def train(config: Config, dataset: Dataset) -> pd.DataFrame:
    """Train one model to `config.folder/checkpoint/final`; returns its history, a row an epoch.

    Goes on where an earlier call stopped, to the epoch. `final` is the epoch with the best mean
    Recall@10 of both directions on the validation split; the test split is never looked at.
    Raises ValueError where the folder holds a model of other settings or data, or where the
    training split is smaller than a batch, FloatingPointError where the loss is not finite.
    """
    checkpoint = config.folder / "checkpoint"
    if (checkpoint / "final").is_dir():
        _check_same(checkpoint / "final", config, dataset)
        return pd.read_csv(config.folder / "history.csv")

    # A weight's cast must not be kept for later blocks where blocks are computed again.
    cast = AutocastKwargs(cache_enabled=config.recompute == "none")
    accelerator = Accelerator(mixed_precision=config.precision, kwargs_handlers=[cast])
    set_seed(config.seed)
    reports = dataset.frame["report"].iloc[dataset.indices("train")].tolist()
    tokenizer = encoders.tokenizer(config, reports)
    model = MCR(
        config, tokenizer, encoders.vit(config), encoders.language_model(config, len(tokenizer))
    )
    pairs = Pairs(dataset, "train", config, tokenizer)
    order = EpochOrder(len(pairs), config.batch_size, config.seed)
    if not len(order):
        raise ValueError(
            f"The training split has {len(pairs)} pairs, fewer than a batch of "
            f"{config.batch_size}; set a smaller batch_size."
        )
    loader = DataLoader(pairs, batch_sampler=order, collate_fn=_as_is, num_workers=config.workers)
    network, optimizer, loader = accelerator.prepare(model, _optimizer(model, config), loader)
    history = _resume(checkpoint, config, dataset, model, optimizer)
    for epoch in range(len(history), config.epochs):
        pairs.epoch = order.epoch = epoch
        torch.manual_seed(hash((config.seed, epoch)))  # dropout, the same after a resume
        row = _epoch(epoch, config, accelerator, network, optimizer, loader)
        if (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs:
            row["validate_recall@10"] = validate(model, dataset)
        history.append(row)
        _save(checkpoint, config, dataset, model, optimizer, history)
        print(_line(row, config, history), flush=True)
    return _finish(checkpoint, config, history)


def validate(model: MCR, dataset: Dataset) -> float:
    """Mean Recall@10 of both directions on the validation split, policy `pair`."""
    rows = dataset.indices("validate")
    image = model.embed_images(dataset.images[rows])
    report = model.embed_reports(dataset.frame["report"].iloc[rows].tolist())
    own = np.arange(len(rows))
    ranks = retrieval.ranks(image, report, own, own), retrieval.ranks(report, image, own, own)
    return float(np.mean([retrieval.recall_at(r, ks=(10,))[10] for r in ranks]))


def trained(config: Config, dataset: Dataset) -> MCR:
    """The finished model of (run, variant, seed), in evaluation mode.

    Raises FileNotFoundError where it is not trained, ValueError where it was on other pairs.
    """
    final = config.folder / "checkpoint" / "final"
    if not final.is_dir():
        raise FileNotFoundError(
            f"There is no trained model in {final}: run `make train RUN={config.run} "
            f"VARIANTS={config.variant} SEEDS={config.seed}` first."
        )
    _check_pairs(final, dataset)
    return MCR.from_pretrained(final)


def learning_rate(progress: float, config: Config) -> float:
    """The rate after `progress` (0 to 1) of all steps: linear warm-up, then cosine to zero."""
    warmup = config.warmup_epochs / config.epochs
    if progress < warmup:
        return config.lr * progress / warmup
    return config.lr * (1 + math.cos(math.pi * (progress - warmup) / max(1 - warmup, 1e-9))) / 2


def _epoch(epoch, config, accelerator, network, optimizer, loader) -> dict[str, float]:
    network.train()
    started, sums = time.perf_counter(), {}
    bar = tqdm(
        loader, f"epoch {epoch + 1}/{config.epochs}", leave=False, disable=PLAIN in os.environ
    )
    for step, batch in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate((epoch + (step + 1) / len(loader)) / config.epochs, config)
        if config.micro_batch:
            terms = two_pass(network, batch, config.micro_batch, accelerator)
        else:
            with accelerator.autocast():
                terms = network(batch)
            accelerator.backward(terms["loss"])
        accelerator.clip_grad_norm_(network.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term.detach()
    means = {name: float(total) / len(loader) for name, total in sums.items()}
    if not math.isfinite(means["loss"]):
        raise FloatingPointError(
            f"The loss is not finite in epoch {epoch + 1} ({means}); the checkpoint of the epoch "
            "before is kept. Lower the learning rate `lr`."
        )
    return {"epoch": epoch + 1, **means, "seconds": time.perf_counter() - started}


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


def _line(row: dict, config: Config, history: list[dict]) -> str:
    terms = "  ".join(f"{k} {row[k]:.3f}" for k in ("loss", "vrc", "mim", "mrm") if k in row)
    recall = row.get("validate_recall@10")
    shown = "" if recall is None else f"  validation Recall@10 {recall:.3f}"
    left = (config.epochs - row["epoch"]) * np.mean([r["seconds"] for r in history]) / 60
    return (
        f"epoch {row['epoch']:>2}/{config.epochs}  {terms}{shown}  "
        f"{row['seconds']:.0f} s, {left:.0f} min left"
    )


# A checkpoint folder is written under another name, renamed, and only then pointed to by
# `position.json`; no folder in use is ever written to.


def _save(checkpoint, config, dataset, model, optimizer, history) -> None:
    name = f"epoch-{len(history):04d}"
    new = checkpoint / f"{name}.partial"
    shutil.rmtree(new, ignore_errors=True)
    model.save_pretrained(new)
    moments = {
        f"{index}.{key}": torch.as_tensor(value).clone()
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }
    save_file(moments, new / "optimizer.safetensors")
    pairs = {"pairs_sha256": dataset.info["pairs_sha256"]}
    (new / "dataset.json").write_text(json.dumps(pairs))
    shutil.rmtree(checkpoint / name, ignore_errors=True)
    new.rename(checkpoint / name)
    best = _best(history)
    position = {"last": name, "best": best, "history": history}
    results.write(checkpoint / "position.json", json.dumps(position, indent=1).encode())
    for folder in checkpoint.glob("epoch-*"):
        if folder.name not in (name, best):
            shutil.rmtree(folder)


def _best(history: list[dict]) -> str:
    row = max(history, key=lambda row: row.get("validate_recall@10", -1.0))
    return f"epoch-{row['epoch']:04d}"


def _resume(checkpoint, config, dataset, model, optimizer) -> list[dict]:
    """Load what `_save` wrote, if anything; returns the history so far."""
    if not (checkpoint / "position.json").is_file():
        return []
    position = json.loads((checkpoint / "position.json").read_text())
    last = checkpoint / position["last"]
    _check_same(last, config, dataset)
    load_model(model, last / "model.safetensors", strict=True)
    state: dict[int, dict] = {}
    for name, value in load_file(last / "optimizer.safetensors").items():
        index, key = name.split(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    print(f"going on after epoch {len(position['history'])} of {config.epochs}", flush=True)
    return position["history"]


def _check_same(folder: Path, config: Config, dataset: Dataset) -> None:
    saved = json.loads((folder / "config.json").read_text())["config"]
    for name, value in json.loads(json.dumps(dataclasses.asdict(config))).items():
        if saved.get(name) != value and name not in PLACES:
            raise ValueError(
                f"{folder} was trained with {name}={saved.get(name)!r}, asked for is {value!r}; "
                f"remove {config.folder} to train anew, or take another seed or run."
            )
    _check_pairs(folder, dataset)


def _check_pairs(folder: Path, dataset: Dataset) -> None:
    saved = json.loads((folder / "dataset.json").read_text())["pairs_sha256"]
    if saved != dataset.info["pairs_sha256"]:
        raise ValueError(
            f"{folder} was trained on other pairs than {dataset.folder} holds now; remove "
            f"{folder.parents[1]} to train anew."
        )


def _finish(checkpoint: Path, config: Config, history: list[dict]) -> pd.DataFrame:
    frame = pd.DataFrame(history)
    frame.to_csv(config.folder / "history.csv", index=False)
    final = checkpoint / "final.partial"
    shutil.rmtree(final, ignore_errors=True)
    shutil.copytree(
        checkpoint / _best(history), final, ignore=shutil.ignore_patterns("optimizer.safetensors")
    )
    final.rename(checkpoint / "final")
    (checkpoint / "position.json").unlink()
    for folder in checkpoint.glob("epoch-*"):
        shutil.rmtree(folder)
    return frame
