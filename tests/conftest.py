"""A small data set, tokenizer and model that all tests share."""

import os

# Hide the GPU before torch looks for one: some tests compare bits, and in others two processes
# share a batch, which they cannot do on one GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch

from mcrlib import config, pretrained
from mcrlib.data import prepare
from mcrlib.data.batches import SplitPairs
from mcrlib.model import MCR
from mcrlib.training.recompute import lighten


@pytest.fixture(autouse=True)
def umask():
    """Opening data of patients makes all later files private; the next test starts as usual."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A temporary folder that takes the checkout's place for data, results and figures."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "ROOT", folder)
        patch.setenv("MCR_HOME", str(folder))
        patch.setenv("MCR_PLAIN", "1")
        yield folder


@pytest.fixture(scope="session")
def smoke(home):
    """Settings of the smoke run."""
    return config.load("smoke")


@pytest.fixture(scope="session")
def dataset(smoke):
    """The smoke run's phantoms."""
    return prepare.build(smoke, workers=1)


@pytest.fixture(scope="session")
def tokenizer(smoke, dataset):
    return pretrained.load_tokenizer(smoke, dataset.frame["report"].tolist())


@pytest.fixture
def build(smoke, tokenizer):
    """A fresh model of the smoke run with some settings changed."""

    def _build(**changes):
        settings = smoke.replace(**changes)
        torch.manual_seed(0)
        language_model = pretrained.load_language_model(settings, len(tokenizer))
        return lighten(MCR(settings, tokenizer, pretrained.load_vit(settings), language_model))

    return _build


@pytest.fixture(scope="session")
def batch(dataset, smoke, tokenizer):
    """Eight training pairs."""
    return SplitPairs(dataset, "train", smoke, tokenizer).__getitems__(list(range(8)))
