"""What a training step costs, forward and backward: its bytes, its seconds and its operations.

On a GPU, bytes are what the allocator reports. Without one the step is simulated: weights and
activations are fake tensors, which have shapes but no content, so that the paper's size fits any
machine; ids and masks are real, since shapes depend on them. Bytes are those of tensors. A GPU's
context and the gaps between an allocator's blocks come on top.
"""

import contextlib
import functools
import gc
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from joblib import Parallel, delayed
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary
from transformers import BertTokenizer

from mcrlib import losses, masking, pretrained
from mcrlib.config import Config
from mcrlib.data.batches import Batch, lay_out
from mcrlib.model import MCR
from mcrlib.training.recompute import lighten

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCABULARY = 28_996  # Bio_ClinicalBERT's
# Tokens of eight typical reports: real ones have 60 tokens on average, and are cut at 128.
REPORT_LENGTHS = [128, 92, 71, 57, 46, 38, 28, 20]
# The paper's encoders by their sizes: they need no weights, hub or tokenizer.
PAPER_ENCODERS = {
    "vision": "", "vision_width": 768, "vision_depth": 12, "vision_heads": 12,
    "text": "", "text_width": 768, "text_depth": 12, "text_heads": 12,
}  # fmt: skip


def build_model(config: Config, vocabulary: int = VOCABULARY, device: str = DEVICE) -> MCR:
    """A model of the config's sizes to measure: random weights, in training mode."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(special)})
    with torch.device(device):
        language_model = pretrained.load_language_model(config, vocabulary)
        vit = pretrained.load_vit(config, pretrained=False)
        model = lighten(MCR(config, tokenizer, vit, language_model))
    return model.train()


def random_batch(
    config: Config,
    lengths: Sequence[int],
    vocabulary: int = VOCABULARY,
    device: str = DEVICE,
) -> Batch:
    """Random pairs, their reports of these `lengths` in tokens, masked as the config says."""
    pairs = len(lengths)
    size = config.image_size
    patches = (size // config.patch_size) ** 2
    sorted_lengths = torch.tensor(sorted(lengths))
    positions = torch.arange(int(sorted_lengths.max()))
    present = positions < sorted_lengths[:, None]
    generator = np.random.default_rng(0)
    keep = [masking.keep_patches(patches, config.image_mask, generator) for _ in range(pairs)]
    masked = [masking.mask_tokens(row, config.report_mask, generator) for row in present.numpy()]
    pixels = torch.randn(pairs, 1, size, size)
    tokens = torch.randint(5, vocabulary, present.shape) * present
    kept = torch.from_numpy(np.stack(keep))
    is_masked = torch.from_numpy(np.stack(masked))
    batch = Batch(
        pixels=pixels,
        tokens=tokens,
        present=present,
        keep=kept,
        dropped=masking.dropped_patches(kept, patches),
        masked=is_masked,
        layout=lay_out(present, is_masked),
    )
    return send_to_device(batch, device)


def step_flops(config: Config, lengths: Sequence[int], vocabulary: int = VOCABULARY) -> int:
    """Floating-point operations of a training step, forward and backward, whose reports have these
    `lengths` in tokens and are written in `vocabulary` words (ours).

    Counted are matrix products and convolutions, two operations for each multiplication with its
    addition, attention's included. What is computed twice to save memory counts once, so that
    `recompute` and `micro_batch` change nothing, and neither does the precision; the optimizer is
    left out. The step is simulated, on any machine. Report encoders from the hub are not loaded:
    give their sizes with `text: ""`, as `PAPER_ENCODERS` does.
    """
    if config.text:
        raise ValueError(
            f'The operations of {config.text!r} are counted by its sizes: set text to "" and '
            "give text_width, text_depth and text_heads."
        )
    plain = config.replace(recompute="none", compile=False, micro_batch=0, precision="no")
    with torch.random.fork_rng():
        model = build_model(plain, vocabulary, device="meta")
        batch = random_batch(plain, lengths, vocabulary, device="cpu")
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    _make_fake(model, fake_mode)
    batch = batch._replace(pixels=fake_mode.from_tensor(batch.pixels))

    def contrast(image: Tensor, report: Tensor) -> Tensor:
        return losses.vrc(image, report, model.log_scale.exp())  # asks no other process

    counter = FlopCounterMode(display=False)
    # The counter takes the fused attention of CPUs for nothing; it sees the plain one's products.
    with Tally(fake_mode), counter, sdpa_kernel(SDPBackend.MATH):
        model(batch, contrast)["loss"].backward()
    return counter.get_total_flops()


def measure_bytes(config: Config, lengths: Sequence[int], parts: int = 1) -> dict[str, float | str]:
    """Bytes that a step needs if its gradient is added up over `parts` batches, each with reports
    of these `lengths` in tokens.

    `activations` are what a forward pass leaves for its backward pass; `static` are weights,
    gradients and AdamW's two moments, the same for all variants; `peak` is the most of both
    together at any moment. `kind` says how they were counted: `allocator` or `simulated`. Raises
    RuntimeError if the step does not fit into the GPU.
    """
    batch = random_batch(config, lengths)
    if DEVICE == "cuda":
        model = build_model(config)
        counter = Allocator()
    else:
        model = build_model(config, device="meta")
        fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        _make_fake(model, fake_mode)
        batch = batch._replace(pixels=fake_mode.from_tensor(batch.pixels))
        counter = Tally(fake_mode)
    weights = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    try:
        with counter:
            for _ in range(parts):
                live_before = counter.live  # gradients of earlier parts
                loss = loss_of(model, batch)
                activations = counter.live - live_before
                loss.backward()
            # The counter sees the gradients, but neither the weights nor the two moments.
            peak = 3 * weights + counter.peak
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            f"A step of {len(lengths)} pairs, {config.variant} with recompute {config.recompute}, "
            "does not fit into the GPU; take fewer `pairs`, or simulate it on the CPU: set the "
            "environment variable CUDA_VISIBLE_DEVICES to nothing."
        ) from error
    return {
        "kind": counter.kind,
        "activations": activations,
        "peak": peak,
        "static": 4 * weights,
    }


def measure_variants(
    configs: Sequence[Config],
    tokens: int,
    pairs: int = 64,
    micro_pairs: int = 16,
    more_pairs: int = 128,
    processes: int = -1,
) -> list[dict[str, float | str]]:
    """One row per config, for steps whose reports are all `tokens` long; simulations run in
    parallel, by default on all cores.

    A row holds `measure_bytes` of `pairs` pairs, the peak of two parts of `micro_pairs` each as
    `peak, micro`, and the `largest_batch` that fits into 80 GB, on the line through the peaks of
    `pairs` and `more_pairs` pairs.
    """
    jobs = {}
    for i, config in enumerate(configs):
        jobs[i, "micro"] = delayed(measure_bytes)(config, [tokens] * micro_pairs, parts=2)
        jobs[i, "asked"] = delayed(measure_bytes)(config, [tokens] * pairs)
        jobs[i, "more"] = delayed(measure_bytes)(config, [tokens] * more_pairs)
    if DEVICE == "cuda":
        processes = 1
    results = Parallel(n_jobs=processes)(jobs.values())
    step = dict(zip(jobs, results, strict=True))

    rows = []
    for i, config in enumerate(configs):
        asked = step[i, "asked"]
        peaks = {pairs: asked["peak"], more_pairs: step[i, "more"]["peak"]}
        row = {
            "variant": config.variant,
            "level": config.recompute,
            "tokens": tokens,
            "pairs": pairs,
            "kind": asked["kind"],
            "activations": asked["activations"],
            "peak": asked["peak"],
            "static": asked["static"],
            "peak, micro": step[i, "micro"]["peak"],
            "largest_batch": largest_batch(peaks),
        }
        rows.append(row)
    return rows


def measure_seconds(
    configs: Sequence[Config], lengths: Sequence[int], rounds: int
) -> list[list[float]]:
    """Seconds of `rounds` steps of each config on `DEVICE`, `[configs][rounds]`, for reports of
    these `lengths` in tokens.

    The configs take turns, after a warm-up step each. The optimizer is left out, since its time
    does not depend on the batch. The models share their weights, so that several of the paper's
    size fit into memory.
    """
    batch = random_batch(configs[0], lengths)
    models = _models_with_shared_weights(configs)
    for model in models:
        time_gradient(functools.partial(loss_of, model, batch), model)
    seconds = [[] for _ in models]
    for _ in range(rounds):
        for model, own_seconds in zip(models, seconds, strict=True):
            step = functools.partial(loss_of, model, batch)
            own_seconds.append(time_gradient(step, model))
    return seconds


def time_gradient(loss: Callable[[], Tensor], model: nn.Module) -> float:
    """Seconds to compute a `loss` and its gradient with respect to the model's weights."""
    _wait_for_device()
    started = time.perf_counter()
    loss().backward()
    _wait_for_device()
    seconds = time.perf_counter() - started
    model.zero_grad()
    return seconds


def largest_batch(peaks: dict[int, float], room: float = 80e9) -> int:
    """Largest number of pairs whose step fits into `room` bytes, on the line through the peaks of
    two batch sizes (pairs -> bytes)."""
    few_pairs, many_pairs = sorted(peaks)
    low_peak = peaks[few_pairs]
    high_peak = peaks[many_pairs]
    additional_pairs = (room - low_peak) * (many_pairs - few_pairs) / (high_peak - low_peak)
    return int(few_pairs + additional_pairs)


def loss_of(model: MCR, batch: Batch) -> Tensor:
    """The loss of a batch, in the config's precision."""
    with autocast(model.config):
        return model(batch)["loss"]


def autocast(config: Config) -> torch.autocast:
    """A context in which operations on `DEVICE` have the config's precision."""
    return torch.autocast(
        DEVICE,
        torch.bfloat16,
        enabled=config.precision == "bf16",
        # Recomputation breaks autocast's weight cache, so disable it.
        cache_enabled=config.recompute == "none",
    )


def byte_counter() -> "Tally | Allocator":
    """A context that counts the bytes of real tensors on `DEVICE`: the `live` ones, and their
    `peak`."""
    if DEVICE == "cuda":
        return Allocator()
    return Tally()


class Tally(TorchDispatchMode):
    """Counts the bytes of the tensors that operations allocate in this context: those `live` now,
    and their `peak`.

    Each storage counts once, however many views it has. With a `fake_mode`, tensors are simulated.
    """

    kind = "simulated"

    def __init__(self, fake_mode: FakeTensorMode | None = None):
        super().__init__()
        if fake_mode is None:
            self.simulation = contextlib.nullcontext()
        else:
            self.simulation = fake_mode
        self.live = 0
        self.peak = 0
        self.seen = WeakIdKeyDictionary()  # storages that were counted

    def __enter__(self):
        self.simulation.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.simulation.__exit__(*error)

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = options or {}
        inputs = _tensors((arguments, options))
        # Ids and masks are real: what only depends on them is computed outside the simulation.
        if inputs and not any(isinstance(tensor, FakeTensor) for tensor in inputs):
            context = unset_fake_temporarily()
        else:
            context = contextlib.nullcontext()
        with context:
            outputs = operation(*arguments, **options)
        self._count(inputs, outputs)
        return outputs

    def _count(self, inputs: list[Tensor], outputs: Any) -> None:
        """Count the storages of `outputs` that are neither those of `inputs` nor counted yet."""
        input_storages = {id(tensor.untyped_storage()) for tensor in inputs}
        for tensor in _tensors(outputs):
            storage = tensor.untyped_storage()
            if id(storage) in input_storages or storage in self.seen:
                continue
            self.seen[storage] = True
            size = storage.nbytes()
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


class Allocator(contextlib.AbstractContextManager):
    """Reads PyTorch's GPU allocator: bytes `live` now, and their `peak`, beyond what it held when
    the context began."""

    kind = "allocator"

    def __enter__(self):
        # Models that recompute refer to themselves: only the collector frees earlier ones.
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        self.held_before = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *error):
        pass

    @property
    def live(self) -> int:
        """Bytes allocated now."""
        return torch.cuda.memory_allocated() - self.held_before

    @property
    def peak(self) -> int:
        """Most bytes allocated at any moment."""
        return torch.cuda.max_memory_allocated() - self.held_before


def _models_with_shared_weights(configs: Sequence[Config]) -> list[MCR]:
    models = []
    weights = {}
    for config in configs:
        model = build_model(config)
        model.load_state_dict(weights, strict=False, assign=True)
        # keep_vars shares the parameters themselves, so that tied ones stay one parameter.
        weights.update(model.state_dict(keep_vars=True))
        models.append(model)
    return models


def _make_fake(model: nn.Module, fake_mode: FakeTensorMode) -> None:
    """Replace the model's tensors by fake ones; shared weights stay shared."""
    fake_of = WeakIdKeyDictionary()  # tensor -> its fake one
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None:
                    continue
                if tensor not in fake_of:
                    empty = torch.empty_like(tensor, device="cpu")
                    empty.requires_grad_(tensor.requires_grad)
                    fake_of[tensor] = fake_mode.from_tensor(empty)
                tensors[name] = fake_of[tensor]


def _tensors(tree: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _wait_for_device() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
