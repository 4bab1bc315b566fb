"""What a run is: every setting of data, model and training, by name.

`load("demo", "abm", seed=1, epochs=3)` starts from the run, lets the variant change its few fields,
then lets the caller change any field. A name that does not exist is an error, never ignored.
Values are ours unless a comment says that they are the paper's.
"""

import dataclasses
import difflib
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

# Where data/, results/ and figures/ stand: the checkout, whatever folder a notebook runs in.
ROOT = Path(os.environ.get("MCR_HOME", Path(__file__).resolve().parents[1]))
PLAIN = "MCR_PLAIN"  # in the environment where nobody watches: lines in place of progress bars
# Settings that change no number: two runs that differ in these only are the same.
NEUTRAL = ("data", "weights", "workers", "recompute", "save_minutes")


@dataclass(frozen=True)
class Config:
    """One model's complete settings. Defaults are the paper's model on MIMIC-CXR."""

    run: str = "mimic"
    variant: str = "mcr"
    seed: int = 0

    # data
    source: str = "mimic"  # phantom, table, openi or mimic
    data: str = ""  # the folder or file given as DATA
    columns: dict[str, str] = field(default_factory=dict)  # table only: our name -> its column
    sizes: tuple[int, int, int] = (4000, 500, 500)  # phantom only: train, validate, test pairs
    data_seed: int = 0  # phantom only: another seed draws another data set
    policy: str = "both"  # text used as the report: findings, impression, both, longest
    pairs: str = "study"  # one frontal image a study, or every frontal image: image
    assert_counts: bool = True  # mimic only: stop where the official counts are not found
    cache_size: int = 256  # pixels, side of the cached square
    max_tokens: int = 256  # longer reports are cut

    # image encoder E_v
    vision: str = "vit_base_patch16_224.mae"  # a timm name (the paper: ViT-B/16); "" = small
    image_size: int = 224  # pixels, side of the encoder's input
    patch_size: int = 16
    vision_width: int = 192  # this and the next two: the small encoder only
    vision_depth: int = 4
    vision_heads: int = 4

    # report encoder E_r
    text: str = "emilyalsentzer/Bio_ClinicalBERT"  # hub id (the paper's) or folder; "" = small
    text_width: int = 192  # this and the next three: the small encoder only
    text_depth: int = 3
    text_heads: int = 4
    vocabulary: int = 2000  # WordPiece, trained on the training reports
    dropout: float = 0.1  # hidden states of the report encoder; attention has none
    weights: str = ""  # folder that holds the pretrained weights in place of the hub

    # masks and streams
    image_mask: float = 0.5  # the paper: share of patches dropped
    report_mask: float = 0.25  # the paper: share of tokens replaced by [MASK]
    contrast: str = "masked"  # what contrast sees: masked (MCR) or unmasked (the usual framework)
    masked_patches: str = "dropped"  # before the encoder, as in MAE, or encoded as a mask: token

    # alignment and decoders
    alignment: str = "mba"  # map before aggregation (the paper), or aggregate before mapping: abm
    aggregation: str = "attention"  # attention, mean or max
    embed_dim: int = 512  # E, width of the common space
    decoder_width: int = 512
    decoder_depth: int = 4
    decoder_heads: int = 16

    # loss
    vrc_weight: float = 0.1  # the paper
    mim_weight: float = 1.0  # the paper
    mrm_weight: float = 1.0  # the paper
    temperature: float = 0.07  # where the learnable temperature starts

    # training
    batch_size: int = 256
    epochs: int = 50
    warmup_epochs: int = 5
    lr: float = 1.5e-4  # at the peak, for this batch size
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0  # gradients longer than this are shortened to it
    precision: str = "bf16"  # or "no", fp32
    # What the backward pass computes again, for memory: none, selective or full. None is fastest,
    # and the paper's batch takes 47 GB (26 if selective; simulated, notebook 08).
    recompute: str = "none"
    # torch.compile: faster after a minute, and on a GPU `selective` needs it to be fast; it takes a
    # C++ compiler.
    compile: bool = False
    micro_batch: int = 0  # pairs in the encoders at a time, the contrast being of all; 0 = all
    workers: int = 8  # processes that prepare batches
    validate_every: int = 2  # epochs between two retrievals on the validation split
    augment: bool = True
    save_minutes: float = 5.0  # between two saves in an epoch; each epoch ends with one

    @property
    def folder(self) -> Path:
        """Where this model's files stand."""
        return ROOT / "results" / self.run / f"{self.variant}-seed{self.seed}"

    @property
    def data_folder(self) -> Path:
        """Where the run's prepared pairs stand; `reference` is a copy of a `demo` run."""
        return ROOT / "data" / ("demo" if self.run == "reference" else self.run)

    def digest(self) -> str:
        """Hash of every setting that can change a number."""
        settings = dataclasses.asdict(self)
        for name in NEUTRAL:
            del settings[name]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


_DEMO = Config(
    run="demo", source="phantom", cache_size=96, max_tokens=96,
    vision="", image_size=96, text="", dropout=0.0,
    # As small as learning allows: two cores train three variants in twenty minutes.
    vision_width=128, text_width=96, text_depth=2, text_heads=2,
    embed_dim=128, decoder_width=64, decoder_depth=1, decoder_heads=2,
    # From scratch and for minutes only, a weight of 0.1 leaves the contrast near chance.
    vrc_weight=1.0,
    # Drawn patients lie straight; to move them only delays what can be learned in minutes.
    augment=False,
    batch_size=64, epochs=10, warmup_epochs=1, lr=1e-3, precision="no", workers=0,
)  # fmt: skip

RUNS = MappingProxyType({
    "smoke": dataclasses.replace(
        _DEMO, run="smoke", sizes=(128, 48, 48), epochs=2, validate_every=1,
        vision_width=64, vision_depth=2, text_width=64, embed_dim=64, batch_size=32,
    ),
    "demo": _DEMO,
    "reference": dataclasses.replace(_DEMO, run="reference"),
    "table": dataclasses.replace(
        _DEMO, run="table", source="table", max_tokens=192, augment=True, batch_size=32
    ),
    "openi": Config(run="openi", source="openi", batch_size=64, lr=1.5e-4 * 64 / 256),
    "mimic": Config(),
})  # fmt: skip

# A variant is the method with a few settings changed, so that a comparison is fair by construction.
VARIANTS = MappingProxyType({
    "mcr": {},
    "abm": {"alignment": "abm"},
    "dual": {"contrast": "unmasked"},  # the usual framework, Figure 1a
    "dual-token": {"contrast": "unmasked", "masked_patches": "token"},
    "clip": {"contrast": "unmasked", "mim_weight": 0.0, "mrm_weight": 0.0},
    "flip": {"mim_weight": 0.0, "mrm_weight": 0.0},
    "no-mim": {"mim_weight": 0.0},
    "no-mrm": {"mrm_weight": 0.0},
    "image-mask-25": {"image_mask": 0.25},
    "image-mask-75": {"image_mask": 0.75},
    "report-mask-15": {"report_mask": 0.15},
    "report-mask-50": {"report_mask": 0.5},
    "mean-pool": {"aggregation": "mean"},
    "max-pool": {"aggregation": "max"},
})  # fmt: skip

_CHOICES = {
    "source": ("phantom", "table", "openi", "mimic"),
    "policy": ("findings", "impression", "both", "longest"),
    "pairs": ("study", "image"),
    "contrast": ("masked", "unmasked"),
    "masked_patches": ("dropped", "token"),
    "alignment": ("mba", "abm"),
    "aggregation": ("attention", "mean", "max"),
    "precision": ("no", "bf16"),
    "recompute": ("none", "selective", "full"),
}


def load(run: str, variant: str = "mcr", seed: int = 0, **overrides: Any) -> Config:
    """Settings of one model: the run's, then the variant's, then the caller's.

    Raises ValueError for a run, variant or field that does not exist, a value of another type
    than the field's, and a value out of range.
    """
    base = RUNS[_known(run, RUNS, "run")]
    changes = dict(VARIANTS[_known(variant, VARIANTS, "variant")])
    for name, value in overrides.items():
        changes[_known(name, [f.name for f in dataclasses.fields(Config)], "setting")] = value
    changes |= {"variant": variant, "seed": seed}
    changes = {name: _typed(name, value, getattr(base, name)) for name, value in changes.items()}
    return _checked(dataclasses.replace(base, **changes))


def parse(words: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` words of a command line, values in YAML. Raises ValueError."""
    parts = (word.partition("=") for word in words)
    try:
        return {name: yaml.safe_load(value) if value else "" for name, _, value in parts}
    except yaml.YAMLError as error:
        raise ValueError(f"{' '.join(words)} cannot be read: {error}") from None


def _known(name: str, names: Any, kind: str) -> str:
    if name in names:
        return name
    close = difflib.get_close_matches(str(name), list(names), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names)}."
    raise ValueError(f"There is no {kind} {name!r}; {hint}")


def _typed(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, tuple) and isinstance(value, (list, tuple)):
        if len(value) == len(default):
            return tuple(value)
    elif isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif type(value) is type(default):
        return value
    kind = type(default).__name__
    raise ValueError(f"Setting {name!r} takes a {kind} such as {default!r}, not {value!r}.")


def _checked(config: Config) -> Config:
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            raise ValueError(
                f"Setting {name!r} is one of {', '.join(choices)}, not {getattr(config, name)!r}."
            )
    for name in ("image_mask", "report_mask"):
        if not 0 < getattr(config, name) < 1:
            raise ValueError(f"Setting {name!r} is a share between 0 and 1, both excluded.")
    counts = ("batch_size", "epochs", "validate_every", "max_tokens", "embed_dim")
    for name, least in {**dict.fromkeys(counts, 1), "micro_batch": 0}.items():
        if getattr(config, name) < least:
            raise ValueError(f"Setting {name!r} is at least {least}, not {getattr(config, name)}.")
    if config.image_size % config.patch_size:
        raise ValueError(
            f"Setting 'image_size' ({config.image_size}) is a multiple of 'patch_size' "
            f"({config.patch_size})."
        )
    return config
