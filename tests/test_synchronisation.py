"""A step reads nothing back from the device: its work is queued while the device is busy.

There is no device in these tests, so they look for the calls that would make a host wait for one.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mcrlib import config
from mcrlib.data import batches
from mcrlib.data.batches import micro_batches
from mcrlib.masking import dropped_patches
from mcrlib.training import cost, loop
from mcrlib.training.faults import StopSignals
from mcrlib.training.two_pass import two_pass

aten = torch.ops.aten
# Operations whose result, or its shape, is known to the host only once the device has computed it.
READING = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.bincount.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
}
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
# Methods that read a tensor on the CPU without such an operation.
METHODS = {"tolist", "item", "cpu", "numpy", "nonzero", "__array__", "__index__", "__contains__"}
METHODS |= {"__bool__", "__int__", "__float__"}


class Reads:
    """Names of the reads that happen in this context, forward and backward."""

    def __init__(self):
        self.names = []
        self.modes = [_Operations(self.names), _Methods(self.names)]

    def __enter__(self):
        for mode in self.modes:
            mode.__enter__()
        return self.names

    def __exit__(self, *error):
        for mode in reversed(self.modes):
            mode.__exit__(*error)


class _Operations(TorchDispatchMode):
    def __init__(self, names):
        super().__init__()
        self.names = names

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        reads = operation in READING
        if operation in INDEXING:
            indices = [index for index in arguments[1] if index is not None]
            reads = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        if operation is aten.repeat_interleave.Tensor:
            reads = options.get("output_size") is None
        if reads:
            self.names.append(str(operation))
        return operation(*arguments, **options)


class _Methods(TorchFunctionMode):
    def __init__(self, names):
        super().__init__()
        self.names = names

    def __torch_function__(self, function, types, arguments=(), options=None):
        name = getattr(function, "__name__", "")
        if name in METHODS:
            self.names.append(name)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[0].item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: bool(x[0]),
        lambda x: int(x[0]),
        lambda x: float(x[0]),
        lambda x: range(x[0]),
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 1),
        lambda x: x[x > 1],
        lambda x: x.masked_select(x > 1),
        lambda x: x.index_put((x > 1,), torch.tensor(0)),
        lambda x: x.repeat_interleave(x),
        lambda x: torch.equal(x, x),
        lambda x: x.unique(),
        lambda x: x.bincount(),
    ],
)
def test_each_kind_of_read_is_noticed(read):
    numbers = torch.tensor([2, 1, 0])
    with Reads() as names:
        read(numbers)
    assert names


def test_what_needs_no_value_is_no_read():
    numbers = torch.tensor([2, 1, 0])
    with Reads() as names:
        numbers[numbers]
        numbers.masked_fill(numbers > 1, 0)
        torch.where(numbers > 1, numbers, 0)
        numbers.repeat_interleave(numbers, output_size=3)
        numbers.index_put((numbers,), numbers)
    assert names == []


VARIANTS = ["mcr", "dual", "dual-token", "abm", "flip", "clip", "mean-pool", "no-mim", "no-mrm"]


@pytest.mark.parametrize("level", ["none", "selective", "full"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_and_backward_read_nothing(build, batch, variant, level):
    model = build(**config.VARIANTS[variant], dropout=0.1, recompute=level).train()
    with Reads() as names, torch.autocast("cpu", torch.bfloat16, cache_enabled=level == "none"):
        model(batch)["loss"].backward()
    assert names == []


def test_full_reports_are_read_no_more_than_padded_ones(build, batch):
    model = build().train()
    given = cost.random_batch(model.config, [12] * 4, vocabulary=len(model.tokenizer))
    assert given.layout.packing.is_full
    with Reads() as names:
        model(given)["loss"].backward()
    assert names == []


@pytest.fixture
def trainer(smoke, dataset):
    """Builds a trainer at its first step, and the parts of its first batch."""

    def _trainer(**changes):
        settings = smoke.replace(seed=501, **changes)
        made = loop.Trainer(settings, dataset, loop._accelerator(settings))
        made._start_epoch(0)
        return made, next(iter(made.loader))

    return _trainer


def test_a_training_step_reads_its_terms_once_after_all_its_work(trainer):
    made, parts = trainer()
    with Reads() as names:
        terms = loop._gradient(parts, made.accelerator, made.network, made.config, StopSignals())
        made._update_weights(1e-3, terms)
        assert names == []
        loop._read(terms)
    assert names == ["tolist"]


def test_micro_batches_read_only_the_seeds_that_the_host_draws(trainer):
    made, parts = trainer(micro_batch=12)
    assert len(parts) == 3
    with Reads() as names:
        two_pass(made.network, parts, made.accelerator)
    assert names == ["tolist"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["loss", "mim", "gradient_norm"])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_moments(trainer, name, value):
    made, parts = trainer()
    for is_finite in (True, False, True):
        terms = loop._gradient(parts, made.accelerator, made.network, made.config, StopSignals())
        if not is_finite:
            terms[name] = torch.tensor(value)
            for weight in made.model.parameters():
                weight.grad = torch.full_like(weight, value)
        before = _numbers_of(made)
        made._update_weights(1e-3, terms)
        after = _numbers_of(made)
        same = [torch.equal(*pair) for pair in zip(before, after, strict=False)]
        assert all(same) != is_finite
        assert all(tensor.isfinite().all() for tensor in after)


def _numbers_of(made):
    """Copies of all weights, and of both moments and the step count of each."""
    tensors = [weight.detach() for weight in made.model.parameters()]
    for state in made.optimizer.state.values():
        tensors.extend(state.values())
    return [tensor.clone() for tensor in tensors]


@pytest.mark.parametrize("size", [0, 3, 8])
def test_what_the_loader_lays_out_is_what_the_masks_say(dataset, smoke, tokenizer, size):
    pairs = batches.SplitPairs(dataset, "train", smoke, tokenizer)
    whole = pairs.__getitems__(list(range(16)))
    for part in micro_batches(whole, size) if size else [whole]:
        layout = part.layout
        report, position = part.masked.nonzero(as_tuple=True)
        assert torch.equal(layout.masked_report, report)
        assert torch.equal(layout.masked_position, position)
        assert torch.equal(part.dropped, dropped_patches(part.keep, 36))
        packing = layout.packing
        values = part.tokens[packing.report, packing.position]
        assert torch.equal(packing.pad(values), part.tokens)
        assert torch.equal(packing.unpack(packing.pack(part.tokens)), part.tokens)


STEP_ON_A_GPU = """
import torch
from accelerate import Accelerator
from mcrlib import config
from mcrlib.training import cost
from mcrlib.training.two_pass import two_pass
settings = config.load("smoke", precision="bf16", dropout=0.1)
model = cost.build_model(settings)
batch = cost.random_batch(settings, [9, 12, 20, 31])
cost.loss_of(model, batch).backward()  # the first step may wait for libraries
torch.cuda.synchronize()
torch.cuda.set_sync_debug_mode("error")
cost.loss_of(model, batch).backward()
two_pass(model, [batch, batch], Accelerator(mixed_precision="bf16"))
"""


@pytest.mark.skipif(not Path("/dev/nvidia0").exists(), reason="a GPU is needed")
def test_a_gpu_reports_no_synchronisation():
    """In a process of its own, because these tests hide the GPU."""
    environment = {name: value for name, value in os.environ.items() if "CUDA_VIS" not in name}
    subprocess.run([sys.executable, "-c", STEP_ON_A_GPU], env=environment, check=True)
