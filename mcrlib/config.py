"""What a run is: every setting of data, model and training, by name.

`load("demo", "abm", seed=1, epochs=3)` starts from the run, applies the variant's few changes, then
the caller's. An unknown name or a value of the wrong kind is an error, never ignored.
Values are ours unless a comment says that they are the paper's.
"""

import difflib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

# data/, results/ and figures/ are kept in the checkout, whatever folder a notebook runs in.
ROOT = Path(os.environ.get("MCR_HOME", Path(__file__).resolve().parents[1]))
PLAIN = "MCR_PLAIN"  # set this variable to get plain log lines instead of progress bars


class _Neutral:
    """Marks a setting that changes no number: runs that differ only in these are the same."""


NEUTRAL = _Neutral()


def _list_to_tuple(value: Any) -> Any:
    """YAML and JSON write a tuple as a list."""
    return tuple(value) if isinstance(value, list) else value


Share = Annotated[float, Field(gt=0, lt=1)]
AtLeastOne = Annotated[int, Field(ge=1)]
Sizes = Annotated[tuple[int, int, int], BeforeValidator(_list_to_tuple)]
Betas = Annotated[tuple[float, float], BeforeValidator(_list_to_tuple)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DataSettings(_Settings):
    """Which pairs, and how they are prepared: prepared data depends on all of these."""

    source: Literal["phantom", "table", "openi", "mimic"] = "mimic"
    data: Annotated[str, NEUTRAL] = ""  # the folder or file given as DATA
    columns: dict[str, str] = Field(default_factory=dict)  # table only: our name -> its column
    sizes: Sizes = (4000, 500, 500)  # phantom only: train, validate, test pairs
    data_seed: int = 0  # phantom only: another seed draws another data set
    policy: Literal["findings", "impression", "both", "longest"] = "both"  # text of the report
    images_per_study: Literal["one", "all"] = "one"  # frontal images taken from a study
    assert_counts: bool = True  # mimic only: stop if the official counts are not found
    cache_size: int = 256  # pixels, side of the cached square


class ModelSettings(_Settings):
    """What the model is. Defaults are the paper's model."""

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
    max_tokens: AtLeastOne = 256  # longer reports are cut
    dropout: float = 0.1  # hidden states of the report encoder; attention has none
    weights: Annotated[str, NEUTRAL] = ""  # folder with the pretrained weights, instead of the hub

    # masks and streams
    image_mask: Share = 0.5  # the paper: share of patches dropped
    report_mask: Share = 0.25  # the paper: share of tokens replaced by [MASK]
    contrast: Literal["masked", "unmasked"] = "masked"  # MCR contrasts masked inputs
    masked_patches: Literal["dropped", "token"] = "dropped"  # before the encoder, or a mask token

    # alignment and decoders
    alignment: Literal["mba", "abm"] = "mba"  # map before aggregation (the paper), or after
    aggregation: Literal["attention", "mean", "max"] = "attention"
    embed_dim: AtLeastOne = 512  # E, width of the common space
    decoder_width: int = 512
    decoder_depth: int = 4
    decoder_heads: int = 16

    # loss
    vrc_weight: float = 0.1  # the paper
    mim_weight: float = 1.0  # the paper
    mrm_weight: float = 1.0  # the paper
    temperature: float = 0.07  # initial value; the temperature is learned

    @model_validator(mode="after")
    def _whole_patches(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"Setting 'image_size' ({self.image_size}) must be a multiple of 'patch_size' "
                f"({self.patch_size})."
            )
        return self


class TrainingSettings(_Settings):
    """How the model is trained."""

    batch_size: AtLeastOne = 256
    epochs: AtLeastOne = 50
    warmup_epochs: int = 5
    lr: float = 1.5e-4  # at the peak, for this batch size
    weight_decay: float = 0.05
    betas: Betas = (0.9, 0.95)
    clip_norm: float = 1.0  # longer gradients are scaled down to this norm
    precision: Literal["no", "bf16"] = "bf16"  # "no" is fp32
    # Activations that the backward pass recomputes, to save memory. `none` is fastest; the paper's
    # batch then takes 47 GB (26 GB with `selective`; simulated, notebook 08).
    recompute: Annotated[Literal["none", "selective", "full"], NEUTRAL] = "none"
    # torch.compile takes a minute and a C++ compiler, then trains faster. On a GPU, combine it with
    # `selective`.
    compile: bool = False
    # Pairs encoded at once; the contrastive loss still sees the whole batch. 0 = all.
    micro_batch: Annotated[int, Field(ge=0)] = 0
    workers: Annotated[int, NEUTRAL] = 8  # processes that prepare batches
    validate_every: AtLeastOne = 2  # epochs between two retrievals on the validation split
    augment: bool = True
    save_minutes: Annotated[float, NEUTRAL] = 5.0  # between saves; each epoch also ends with one


class Config(TrainingSettings, ModelSettings, DataSettings):
    """One model's complete settings. Defaults are the paper's model on MIMIC-CXR."""

    run: str = "mimic"
    variant: str = "mcr"
    seed: int = 0

    @property
    def folder(self) -> Path:
        """This model's files: `results/RUN/VARIANT-seedS`."""
        return ROOT / "results" / self.run / f"{self.variant}-seed{self.seed}"

    @property
    def data_folder(self) -> Path:
        """The run's prepared pairs; `reference` is a copy of a `demo` run."""
        return ROOT / "data" / ("demo" if self.run == "reference" else self.run)

    def replace(self, **changes: Any) -> Self:
        """The same settings with some changed. Raises ValueError as `load` does."""
        return _validated(self.model_dump() | changes)

    def deciding(self) -> dict[str, Any]:
        """Every setting that can change a number, as JSON would hold it."""
        settings = self.model_dump(mode="json")
        return {name: value for name, value in settings.items() if not _is_neutral(name)}

    def data_settings(self) -> dict[str, Any]:
        """The settings that prepared data depends on, as JSON would hold them."""
        return self.model_dump(mode="json", include=set(DataSettings.model_fields))

    def digest(self) -> str:
        """Hash of every setting that can change a number."""
        text = json.dumps(self.deciding(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_neutral(name: str) -> bool:
    return NEUTRAL in Config.model_fields[name].metadata


def _validated(settings: dict[str, Any]) -> Config:
    try:
        return Config(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(_sentence(first, settings)) from None


def _sentence(error: Any, settings: dict[str, Any]) -> str:
    """What pydantic found, as one sentence that names the setting, the rule and the value."""
    kind = error["type"]
    limits = error.get("ctx", {})
    if kind == "value_error":  # our own sentence, about several settings
        return str(limits["error"])
    name = error["loc"][0]
    if kind == "literal_error":
        rule = f"must be {limits['expected']}"
    elif kind in ("greater_than", "less_than"):
        rule = "must be between 0 and 1, both excluded"
    elif kind == "greater_than_equal":
        rule = f"must be at least {limits['ge']}"
    else:
        default = Config.model_fields[name].get_default(call_default_factory=True)
        rule = f"must be {_KINDS[type(default)]} such as {default!r}"
    return f"Setting {name!r} {rule}, not {settings[name]!r}."


_KINDS = {
    bool: "true or false,",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list",
    dict: "a mapping",
}


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
    "smoke": _DEMO.replace(
        run="smoke", sizes=(128, 48, 48), epochs=2, validate_every=1,
        vision_width=64, vision_depth=2, text_width=64, embed_dim=64, batch_size=32,
    ),
    "demo": _DEMO,
    "reference": _DEMO.replace(run="reference"),
    "table": _DEMO.replace(
        run="table", source="table", max_tokens=192, augment=True, batch_size=32
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


def load(run: str, variant: str = "mcr", seed: int = 0, **overrides: Any) -> Config:
    """Settings of one model: the run's, then the variant's, then the caller's.

    Raises ValueError for an unknown run, variant or setting, for a value of the wrong type, and for
    a value out of range.
    """
    settings = RUNS[_known(run, RUNS, "run")].model_dump()
    settings |= VARIANTS[_known(variant, VARIANTS, "variant")]
    for name in overrides:
        _known(name, Config.model_fields, "setting")
    return _validated(settings | overrides | {"variant": variant, "seed": seed})


def parse(words: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` words of a command line, values in YAML. Raises ValueError."""
    settings = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            settings[name] = yaml.safe_load(value) if value else ""
        except yaml.YAMLError as error:
            raise ValueError(f"{word} cannot be read: {error}") from None
    return settings


def project_path(path: str | Path) -> Path:
    """A path as the user means it, whatever folder a notebook or a shell is in.

    Relative paths that begin with `data/`, `results/` or `figures/` belong to the project, so they
    are taken from `ROOT`. All others stay as given.
    """
    path = Path(path)
    if not path.is_absolute() and path.parts and path.parts[0] in ("data", "results", "figures"):
        return ROOT / path
    return path


def current_names(saved: dict[str, Any]) -> dict[str, Any]:
    """Settings saved by version 0.1, under the names that they have today."""
    settings = dict(saved)
    if "pairs" in settings:
        old_value = settings.pop("pairs")
        settings["images_per_study"] = "one" if old_value == "study" else "all"
    return settings


def _known(name: str, names: Iterable[str], kind: str) -> str:
    if name in names:
        return name
    close = difflib.get_close_matches(str(name), list(names), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(names)}."
    raise ValueError(f"There is no {kind} {name!r}; {hint}")
