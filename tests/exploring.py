"""A home with embedded models, shared by the tests of the explorer."""

import contextlib

import pytest
import torch

from mcrlib import config, pretrained, results
from mcrlib.model import MCR


@contextlib.contextmanager
def home_with_models(root, dataset, smoke, tokenizer):
    """The smoke run's pairs, two untrained models of ours and a method of a user's in `root`."""
    (root / "data").mkdir()
    (root / "data" / "smoke").symlink_to(dataset.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "ROOT", root)
        for seed, variant in enumerate(("mcr", "dual")):
            model = untrained(smoke.replace(variant=variant), tokenizer, seed)
            folder = root / "results" / "smoke" / f"{variant}-seed0"
            model.save_pretrained(folder / "checkpoint" / "final")
            for split in ("validate", "test"):
                rows = dataset.indices(split)
                image = model.embed_images(list(dataset.images[rows]))
                report = model.embed_reports(dataset.frame["report"].iloc[rows].tolist())
                ids = dataset.frame["pair_id"].iloc[rows]
                results.save_embeddings(folder / f"embeddings-{split}.npz", image, report, ids)
        theirs = root / "results" / "smoke" / "theirs-seed0" / "embeddings-test.npz"
        results.save_embeddings(theirs, image, report, ids)
        yield root


def untrained(settings, tokenizer, seed):
    """A model with random weights."""
    torch.manual_seed(seed)
    language_model = pretrained.load_language_model(settings, len(tokenizer))
    return MCR(settings, tokenizer, pretrained.load_vit(settings), language_model).eval()
