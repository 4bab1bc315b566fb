"""What a training step needs, forward and backward: bytes and seconds, of a config and a batch.

On a GPU the allocator is asked. Without one the step is simulated: weights and activations are fake
tensors, which have shapes and no content, so that the paper's size fits any machine; ids and masks
are real, since shapes follow from them. Bytes are those of tensors: a GPU's context and the gaps
between an allocator's blocks come on top.
"""

import contextlib
import gc
import time
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from transformers import BertTokenizer

from mcrlib import masking, pretrained
from mcrlib.config import Config
from mcrlib.data.batches import Batch
from mcrlib.model import MCR
from mcrlib.training.recompute import lighten

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCABULARY = 28_996  # Bio_ClinicalBERT's
REPORT_LENGTHS = [
    128,
    92,
    71,
    57,
    46,
    38,
    28,
    20,
]  # tokens of eight reports: real ones average 60 of 128
# The paper's encoders by their sizes: they need no weights, hub or tokenizer.
PAPER_ENCODERS = {
    "vision": "", "vision_width": 768, "vision_depth": 12, "vision_heads": 12,
    "text": "", "text_width": 768, "text_depth": 12, "text_heads": 12,
}  # fmt: skip


def build_model(config: Config, vocabulary: int = VOCABULARY, device: str = DEVICE) -> MCR:
    """A model of these sizes to measure: random weights, in training mode."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(special)})
    with torch.device(device):
        language_model = pretrained.load_language_model(config, vocabulary)
        vit = pretrained.load_vit(config, pretrained=False)
        return lighten(MCR(config, tokenizer, vit, language_model)).train()


def random_batch(config: Config, lengths: Sequence[int], vocabulary: int = VOCABULARY) -> Batch:
    """Random pairs on `DEVICE`, reports of these `lengths` in tokens; masks are the config's."""
    lengths = torch.tensor(sorted(lengths))
    present = torch.arange(int(lengths.max())) < lengths[:, None]
    generator = np.random.default_rng(0)
    patches = (config.image_size // config.patch_size) ** 2
    keep = [masking.keep_patches(patches, config.image_mask, generator) for _ in lengths]
    masked = [masking.mask_tokens(row, config.report_mask, generator) for row in present.numpy()]
    given = Batch(
        pixels=torch.randn(len(lengths), 1, config.image_size, config.image_size),
        tokens=torch.randint(5, vocabulary, present.shape) * present,
        present=present,
        keep=torch.from_numpy(np.stack(keep)),
        masked=torch.from_numpy(np.stack(masked)),
    )
    return Batch(*(part.to(DEVICE) for part in given))


def measure_bytes(config: Config, lengths: Sequence[int], parts: int = 1) -> dict[str, float | str]:
    """Bytes that a step needs whose gradient comes in `parts`, each on reports of these `lengths`.

    `activations` are what a forward pass leaves for its backward pass, `static` weights, gradients
    and AdamW's two moments, which are the same for all variants, and `peak` the most of both
    together at any moment. `kind` says where they come from: `allocator` or `simulated`. Raises
    RuntimeError where the step does not fit into the GPU.
    """
    given = random_batch(config, lengths)
    if DEVICE == "cuda":
        model, watch = build_model(config), Allocator()
    else:
        model, fake = build_model(config, device="meta"), FakeTensorMode(allow_non_fake_inputs=True)
        _fake(model, fake)
        given, watch = given._replace(pixels=fake.from_tensor(given.pixels)), Tally(fake)
    weights = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    found = {"kind": watch.kind, "activations": 0, "peak": 0, "static": 4 * weights}
    try:
        with watch:
            for _ in range(parts):
                before = watch.live  # gradients of the parts before
                loss = loss_of(model, given)
                found["activations"] = watch.live - before
                loss.backward()
            found["peak"] = 3 * weights + watch.peak  # gradients come as activations go
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            f"A step of {len(lengths)} pairs, {config.variant} with recompute {config.recompute}, "
            "does not fit into the GPU; take fewer `pairs`, or simulate it on the CPU: set the "
            "environment variable CUDA_VISIBLE_DEVICES to nothing."
        ) from error
    return found


def measure_variants(
    configs: Sequence[Config],
    tokens: int,
    pairs: tuple[int, int, int] = (16, 64, 128),
    processes: int = -1,
) -> list[dict]:
    """A row a config, of steps whose reports are all `tokens` long, on all cores where simulated.

    `pairs` are few, those asked for, and more. The row is `measure_bytes` of those asked for,
    with the peak of two parts of the few as `peak, micro`, and the `largest_batch` in 80 GB on the
    line through the peaks of the other two.
    """
    few, some, many = pairs
    sizes = ([tokens] * few, 2), ([tokens] * some, 1), ([tokens] * many, 1)
    jobs = [(c, *size) for c in configs for size in sizes]
    processes = 1 if DEVICE == "cuda" else processes
    done = Parallel(n_jobs=processes)(delayed(measure_bytes)(*job) for job in jobs)
    return [
        {"variant": c.variant, "level": c.recompute, "tokens": tokens, "pairs": some, **asked}
        | {"peak, micro": micro["peak"]}
        | {"largest_batch": largest_batch({some: asked["peak"], many: more["peak"]})}
        for c, micro, asked, more in zip(configs, done[::3], done[1::3], done[2::3], strict=True)
    ]


def measure_seconds(
    configs: Sequence[Config], lengths: Sequence[int], rounds: int
) -> list[list[float]]:
    """Seconds of `rounds` steps of each config, in turn after one that does not count, on
    `DEVICE`; without the optimizer, whose time does not depend on the batch.

    The models share their weights, so that several of the paper's size fit into memory.
    """
    given, models, weights = random_batch(configs[0], lengths), [], {}
    for config in configs:
        models.append(build_model(config))
        models[-1].load_state_dict(weights, strict=False, assign=True)
        weights |= models[-1].state_dict(keep_vars=True)  # one parameter, tied or not
    took = [
        [time_gradient(lambda model=model: loss_of(model, given), model) for model in models]
        for _ in range(1 + rounds)
    ]
    return [list(times) for times in zip(*took[1:], strict=True)]


def time_gradient(loss: Callable[[], Tensor], model: nn.Module) -> float:
    """Seconds of computing a `loss` and its gradient with respect to the model's weights."""
    _wait()
    began = time.perf_counter()
    loss().backward()
    _wait()
    took = time.perf_counter() - began
    model.zero_grad()
    return took


def largest_batch(peaks: dict[int, float], room: float = 80e9) -> int:
    """Pairs whose step fits into `room` bytes, on the line through the peaks of two batch sizes."""
    (few, low), (many, high) = sorted(peaks.items())
    return int(few + (room - low) * (many - few) / (high - low))


def loss_of(model: MCR, given: Batch) -> Tensor:
    """The loss of a batch, in the config's precision."""
    with autocast(model.config):
        return model(given)["loss"]


def autocast(config: Config) -> torch.autocast:
    """The config's precision on `DEVICE`, as a context."""
    # A weight's cast that is kept for later blocks would be missed where one is computed again.
    cache, low = config.recompute == "none", config.precision == "bf16"
    return torch.autocast(DEVICE, torch.bfloat16, low, cache_enabled=cache)


def byte_counter() -> "Tally | Allocator":
    """A context that counts the bytes of real tensors on `DEVICE`: those `live`, their `peak`."""
    return Allocator() if DEVICE == "cuda" else Tally()


class Tally(TorchDispatchMode):
    """Bytes of the tensors that operations make: those that `live`, and their `peak`."""

    kind = "simulated"

    def __init__(self, fake: FakeTensorMode | None = None):
        super().__init__()
        self.fake = fake or contextlib.nullcontext()
        self.live, self.peak, self.seen = 0, 0, WeakIdKeyDictionary()

    def __enter__(self):
        self.fake.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.fake.__exit__(*error)

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        given = _tensors((arguments, options))
        real = given and not any(isinstance(tensor, FakeTensor) for tensor in given)
        with unset_fake_temporarily() if real else contextlib.nullcontext():
            made = operation(*arguments, **(options or {}))
        old = {id(tensor.untyped_storage()) for tensor in given}
        for storage in (tensor.untyped_storage() for tensor in _tensors(made)):
            if id(storage) not in old and storage not in self.seen:
                self.seen[storage] = True
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return made

    def _freed(self, size: int) -> None:
        self.live -= size


class Allocator(contextlib.AbstractContextManager):
    """What PyTorch's allocator on a GPU holds beyond what it held before: `live`, and `peak`."""

    kind = "allocator"

    def __enter__(self):
        gc.collect()  # models of before, which refer to themselves where they recompute
        torch.cuda.reset_peak_memory_stats()
        self.before = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *error):
        pass

    @property
    def live(self) -> int:
        return torch.cuda.memory_allocated() - self.before

    @property
    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() - self.before


def _fake(model: nn.Module, fake: FakeTensorMode) -> None:
    """Put fake tensors in the places of the model's; shared weights stay shared."""
    made = WeakIdKeyDictionary()
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor not in made:
                    empty = torch.empty_like(tensor, device="cpu")
                    made[tensor] = fake.from_tensor(empty.requires_grad_(tensor.requires_grad))
                tensors[name] = made.get(tensor)


def _tensors(tree) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
