"""What a training step needs, forward and backward: bytes and seconds, of a config and a batch.

On a GPU the allocator is asked. Without one the step is simulated: weights and activations are fake
tensors, which have shapes and no content, so that the paper's size fits any machine; ids and masks
are real, since shapes follow from them. Bytes are those of tensors: a GPU's context and the gaps
between an allocator's blocks come on top.
"""

import contextlib
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

from mcrlib import encoders, masking
from mcrlib.config import Config
from mcrlib.data.batches import Batch
from mcrlib.model import MCR

VOCABULARY = 28_996  # Bio_ClinicalBERT's
LENGTHS = [128, 92, 71, 57, 46, 38, 28, 20]  # tokens of eight reports: real ones average 60 of 128
# The paper's encoders by their sizes: they need no weights, hub or tokenizer.
PAPER = {
    "vision": "", "vision_width": 768, "vision_depth": 12, "vision_heads": 12,
    "text": "", "text_width": 768, "text_depth": 12, "text_heads": 12,
}  # fmt: skip


def build(config: Config, vocabulary: int = VOCABULARY) -> MCR:
    """A model of these sizes to measure: random weights, in training mode."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(special)})
    language_model = encoders.language_model(config, vocabulary)
    return MCR(config, tokenizer, encoders.vit(config, pretrained=False), language_model).train()


def batch(config: Config, lengths: Sequence[int], vocabulary: int = VOCABULARY) -> Batch:
    """Random pairs with reports of these `lengths`, in tokens; masks are the config's."""
    lengths = torch.tensor(sorted(lengths))
    present = torch.arange(int(lengths.max())) < lengths[:, None]
    generator = np.random.default_rng(0)
    patches = (config.image_size // config.patch_size) ** 2
    keep = [masking.keep_patches(patches, config.image_mask, generator) for _ in lengths]
    masked = [masking.mask_tokens(row, config.report_mask, generator) for row in present.numpy()]
    return Batch(
        pixels=torch.randn(len(lengths), 1, config.image_size, config.image_size),
        tokens=torch.randint(5, vocabulary, present.shape) * present,
        present=present,
        keep=torch.from_numpy(np.stack(keep)),
        masked=torch.from_numpy(np.stack(masked)),
    )


def step(config: Config, lengths: Sequence[int]) -> dict[str, float | str]:
    """Bytes that a step on reports of these `lengths` needs.

    `activations` are what the forward pass leaves for the backward pass, `static` weights,
    gradients and AdamW's two moments, which are the same for all variants, and `peak` the most of
    both together at any moment. `kind` says where they come from: `allocator` or `simulated`.
    """
    if torch.cuda.is_available():
        model = build(config).cuda()
        given, watch = Batch(*(part.cuda() for part in batch(config, lengths))), Allocator()
    else:
        with torch.device("meta"):
            model = build(config)
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        _fake(model, fake)
        given, watch = batch(config, lengths), Tally(fake)
        given = given._replace(pixels=fake.from_tensor(given.pixels))
    weights = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    with watch:
        loss = forward(model, given)
        activations = watch.live
        loss.backward()
        peak = 3 * weights + watch.peak  # gradients come as activations go
    return {
        "kind": watch.kind, "activations": activations, "peak": peak, "static": 4 * weights
    }  # fmt: skip


def steps(
    configs: Sequence[Config],
    tokens: int,
    pairs: tuple[int, int, int] = (16, 64, 128),
    processes: int = -1,
) -> list[dict]:
    """A row a config, of steps whose reports are all `tokens` long, on all cores where simulated.

    `pairs` are few, those asked for, and more. The row is `step` of those asked for, with the peak
    of the few as `peak, micro`, and the `largest_batch` in 80 GB on the line through the peaks of
    the other two: with few pairs the peak is that of the gradients, whatever the batch.
    """
    jobs = [(c, [tokens] * n) for c in configs for n in pairs]
    processes = 1 if torch.cuda.is_available() else processes
    done = Parallel(n_jobs=processes)(delayed(step)(*job) for job in jobs)
    return [
        {"variant": c.variant, "level": c.recompute, "tokens": tokens, "pairs": pairs[1], **some}
        | {"peak, micro": few["peak"]}
        | {"largest_batch": largest_batch({pairs[1]: some["peak"], pairs[2]: many["peak"]})}
        for c, few, some, many in zip(configs, done[::3], done[1::3], done[2::3], strict=True)
    ]


def seconds(configs: Sequence[Config], lengths: Sequence[int], rounds: int) -> list[list[float]]:
    """Seconds of `rounds` steps of each config, in turn after one that does not count, on the CPU
    or a GPU; without the optimizer, whose time does not depend on the batch.

    The models share their weights, so that several of the paper's size fit into memory.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    given = Batch(*(part.to(device) for part in batch(configs[0], lengths)))
    models, weights = [], {}
    for config in configs:
        models.append(build(config).to(device))
        models[-1].load_state_dict(weights, strict=False, assign=True)
        weights |= models[-1].state_dict(keep_vars=True)  # one parameter, tied or not
    took = [
        [timed(lambda model=model: forward(model, given), model) for model in models]
        for _ in range(1 + rounds)
    ]
    return [list(times) for times in zip(*took[1:], strict=True)]


def timed(loss: Callable[[], Tensor], model: nn.Module) -> float:
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


def forward(model: MCR, given: Batch) -> Tensor:
    """The loss of a batch, in the config's precision."""
    c = model.config
    # A weight's cast that is kept for later blocks would be missed where one is computed again.
    cache, low = c.recompute == "none", c.precision == "bf16"
    with torch.autocast(given.pixels.device.type, torch.bfloat16, low, cache_enabled=cache):
        return model(given)["loss"]


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
    if torch.cuda.is_available():
        torch.cuda.synchronize()
