"""What a run is: every setting of data, model and training, by name.

`load("demo", "abm", seed=1, epochs=3)` starts from the run, applies the variant's few changes, then
the caller's. An unknown name or a value of the wrong kind is an error, never ignored.
Values are ours unless a comment says that they are the paper's.
"""

import difflib
import hashlib
import json
import os
import re
import sys
from collections.abc import Hashable, Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

# data/, results/ and figures/ are kept in the checkout, whatever folder a notebook runs in.
ROOT = Path(os.environ.get("MCR_HOME", Path(__file__).resolve().parents[1]))
# Their pairs are made by code, with labels that say what is in the picture, and are of no patient;
# the data of all other sources is of patients.
DRAWN_SOURCES = ("phantom", "digits")
REFERENCE = "reference"  # the committed copy of a demo run: numbers, without most models
TRAINED_MODEL = Path("checkpoint") / "final"  # in a model's folder, once it is finished
PLAIN = "MCR_PLAIN"  # set this variable to get plain log lines instead of progress bars
REHEARSAL = "rehearse-"  # begins the name of a run that tries out the run named after it
REHEARSED_PAIRS = 600
# `half-RUN` has half of the epochs of RUN, and hence of its compute; `double-RUN` has twice that.
HALF = "half-"
DOUBLE = "double-"
MULTIPLES = MappingProxyType({HALF: 0.5, DOUBLE: 2})
# `pairs-500-RUN` trains on the first 500 training pairs of RUN.
FEWER_PAIRS = re.compile(r"pairs-([1-9][0-9]*)-")


class _Neutral:
    """Marks a setting that changes no number: runs that differ only in these are the same."""


NEUTRAL = _Neutral()


class _Later:
    """Marks a setting that was added when models and data had been made without it: at its default,
    it is left out of what they are compared by."""


LATER = _Later()


def _list_to_tuple(value: Any) -> Any:
    """YAML and JSON write a tuple as a list."""
    return tuple(value) if isinstance(value, list) else value


def _false_to_no(value: Any) -> Any:
    """YAML 1.1 reads the word `no` as false."""
    return "no" if value is False else value


def _whole_to_int(value: Any) -> Any:
    """10.0 is the same number of epochs as 10, so both have the same hash."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


MaskShare = Annotated[float, Field(ge=0, lt=1)]
AtLeastOne = Annotated[int, Field(ge=1)]
Sizes = Annotated[tuple[int, int, int], BeforeValidator(_list_to_tuple)]
Betas = Annotated[tuple[float, float], BeforeValidator(_list_to_tuple)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSettings(_Settings):
    """Which pairs, and how they are prepared: prepared data depends on all of these."""

    source: Literal["phantom", "digits", "table", "openi", "mimic"] = "mimic"
    data: Annotated[str, NEUTRAL] = ""  # the folder or file given as DATA
    columns: dict[str, str] = Field(default_factory=dict)  # table only: our name -> its column
    sizes: Sizes = (4000, 500, 500)  # drawn pairs only: train, validate, test
    data_seed: int = 0  # drawn pairs only: another seed draws another data set
    policy: Literal["findings", "impression", "both", "longest"] = "both"  # text of the report
    images_per_study: Literal["one", "all"] = "one"  # frontal images taken from a study
    assert_counts: bool = True  # mimic only: stop if the official counts are not found
    cache_size: int = 256  # pixels, side of the cached square
    # Pairs drawn from the source, in all splits together; 0 takes all. A rehearsal draws some.
    sample: Annotated[int, Field(ge=0), LATER] = 0


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
    image_mask: MaskShare = 0.5  # the paper: share of patches dropped
    report_mask: MaskShare = 0.25  # the paper: share of tokens replaced by [MASK]
    contrast: Literal["masked", "unmasked"] = "masked"  # MCR contrasts masked inputs
    masked_patches: Literal["dropped", "token"] = "dropped"  # before the encoder, or a mask token

    # alignment and decoders
    mapping: Annotated[Literal["mlp", "linear"], LATER] = "mlp"  # F; a linear one has no LayerNorm
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
        if self.patch_size >= 1 and self.image_size % self.patch_size:
            raise ValueError(
                f"Setting 'image_size' ({self.image_size}) must be a multiple of 'patch_size' "
                f"({self.patch_size})."
            )
        return self

    @model_validator(mode="after")
    def _masked_where_reconstructed(self) -> Self:
        for mask, weight in (("image_mask", "mim_weight"), ("report_mask", "mrm_weight")):
            if getattr(self, mask) == 0 and getattr(self, weight) > 0:
                raise ValueError(
                    f"Setting '{mask}' is 0, so there is nothing to reconstruct: set '{weight}' to "
                    "0, too."
                )
        return self

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        parts = ["decoder"] if self.mim_weight > 0 else []
        if not self.vision:
            parts.append("vision")
        if not self.text:
            parts.append("text")
        for part in parts:
            width = getattr(self, f"{part}_width")
            heads = getattr(self, f"{part}_heads")
            if heads >= 1 and width % heads:
                raise ValueError(
                    f"Setting '{part}_width' ({width}) must be a multiple of '{part}_heads' "
                    f"({heads})."
                )
        return self


class TrainingSettings(_Settings):
    """How the model is trained."""

    batch_size: AtLeastOne = 256
    # A fraction, such as 9.6, ends in mid-epoch, and so does the schedule.
    epochs: Annotated[int | float, Field(ge=1), BeforeValidator(_whole_to_int)] = 50
    # Operations of the whole training, as a multiple of what `mcr` takes for `epochs` epochs, so
    # that variants are compared at equal compute; 0 trains `epochs` epochs whatever they take.
    compute: Annotated[float, Field(ge=0), LATER] = 0.0
    epoch_steps: Annotated[int, Field(ge=0), LATER] = 0  # an epoch ends after these; 0: after all
    # The first so many training pairs are trained on, for as many steps as all would be; 0: all.
    train_pairs: Annotated[int, Field(ge=0), LATER] = 0
    warmup_epochs: int = 5
    lr: float = 1.5e-4  # at the peak, for this batch size
    weight_decay: float = 0.05
    betas: Betas = (0.9, 0.95)
    clip_norm: float = 1.0  # longer gradients are scaled down to this norm
    # "no" is fp32
    precision: Annotated[Literal["no", "bf16"], BeforeValidator(_false_to_no)] = "bf16"
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


# Whole numbers of at least 1, and numbers above 0. The rules are here, not beside the settings, so
# that a setting's line says what it is and nothing else.
COUNTS = (
    "cache_size", "image_size", "patch_size", "vision_width", "vision_depth", "vision_heads",
    "text_width", "text_depth", "text_heads", "vocabulary", "decoder_width", "decoder_depth",
    "decoder_heads",
)  # fmt: skip
POSITIVE = ("temperature", "lr", "clip_norm")
NOT_NEGATIVE = (
    "vrc_weight", "mim_weight", "mrm_weight", "weight_decay", "dropout", "workers",
    "warmup_epochs", "save_minutes", "data_seed",
)  # fmt: skip
LARGEST_SEED = 2**32 - 1  # NumPy takes no larger one


class Config(TrainingSettings, ModelSettings, DataSettings):
    """One model's complete settings. Defaults are the paper's model on MIMIC-CXR."""

    run: str = "mimic"
    variant: str = "mcr"
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        for name in COUNTS:
            self._require(name, getattr(self, name) >= 1, "must be at least 1")
        for name in POSITIVE:
            self._require(name, getattr(self, name) > 0, "must be above 0")
        for name in NOT_NEGATIVE:
            self._require(name, getattr(self, name) >= 0, "must be at least 0")
        self._require("dropout", self.dropout < 1, "must be below 1")
        self._require("sizes", min(self.sizes) >= 1, "must be three whole numbers from 1")
        self._require("betas", min(self.betas) >= 0, "must be two numbers from 0")
        self._require("betas", max(self.betas) < 1, "must be two numbers below 1")
        return self

    def _require(self, name: str, is_right: bool, rule: str) -> None:
        if not is_right:
            raise ValueError(f"Setting {name!r} {rule}, not {getattr(self, name)!r}.")

    @property
    def folder(self) -> Path:
        """This model's files: `results/RUN/VARIANT-seedS`."""
        return ROOT / "results" / self.run / f"{self.variant}-seed{self.seed}"

    @property
    def data_folder(self) -> Path:
        """The run's prepared pairs, see `data_folder`."""
        return data_folder(self.run)

    def replace(self, **changes: Any) -> Self:
        """The same settings with some changed. Raises ValueError as `load` does."""
        return _validated(self.model_dump() | changes)

    def method(self) -> Self:
        """The same settings without the variant's own: those of `mcr`."""
        of_run = RUNS[preset(self.run)]
        own = VARIANTS.get(self.variant, {})
        changes = {name: getattr(of_run, name) for name in own}
        return self.replace(variant="mcr", **changes)

    def deciding(self) -> dict[str, Any]:
        """Every setting that can change a number, as JSON would hold it."""
        settings = self.model_dump(mode="json")
        return {name: value for name, value in settings.items() if _decides(name, value)}

    def data_settings(self) -> dict[str, Any]:
        """The settings that prepared data depends on, as JSON would hold them."""
        settings = self.model_dump(mode="json", include=set(DataSettings.model_fields))
        return {name: value for name, value in settings.items() if not _is_unused(name, value)}

    def digest(self) -> str:
        """Hash of every setting that can change a number."""
        text = json.dumps(self.deciding(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _decides(name: str, value: Any) -> bool:
    """Whether a setting can change a number, and is not one that is unused."""
    is_neutral = NEUTRAL in Config.model_fields[name].metadata
    return not is_neutral and not _is_unused(name, value)


def _is_unused(name: str, value: Any) -> bool:
    """Whether a setting is a later one at its default."""
    field = Config.model_fields[name]
    return LATER in field.metadata and value == field.default


def later_defaults() -> dict[str, Any]:
    """The settings that `deciding` leaves out at these values."""
    defaults = {}
    for name, field in Config.model_fields.items():
        if LATER in field.metadata:
            defaults[name] = field.default
    return defaults


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
    value = settings[name]
    if value is None or value == "":
        return f"Setting {name!r} has no value: give it {_kind(name)}."
    if kind == "literal_error":
        rule = f"must be {limits['expected']}"
    elif kind == "less_than":
        rule = "must be between 0 and 1, 1 excluded"
    elif kind == "greater_than_equal":
        rule = f"must be at least {limits['ge']:g}"
    elif kind == "less_than_equal":
        rule = f"must be at most {limits['le']}"
    else:
        rule = f"must be {_kind(name)}"
    return f"Setting {name!r} {rule}, not {value!r}."


def _kind(name: str) -> str:
    """What a setting takes, with its default as an example."""
    default = Config.model_fields[name].get_default(call_default_factory=True)
    return f"{_KINDS[type(default)]} such as {default!r}"


_KINDS = {
    bool: "true or false,",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list",
    dict: "a mapping",
}


_SMALL = Config(
    run="smoke", source="phantom", cache_size=96, max_tokens=96,
    vision="", image_size=96, text="", dropout=0.0,
    # As small as learning allows, for two cores.
    vision_width=128, text_width=96, text_depth=2, text_heads=2,
    embed_dim=128, decoder_width=64, decoder_depth=1, decoder_heads=2,
    # From scratch and for minutes only, a weight of 0.1 leaves the contrast near chance.
    vrc_weight=1.0,
    # Drawn patients vary by themselves; to move them more delays what can be learned in minutes.
    augment=False,
    batch_size=64, epochs=10, warmup_epochs=1, lr=1e-3, precision="no", workers=0,
)  # fmt: skip
_DEMO = _SMALL.replace(run="demo", patch_size=12, epochs=16, compute=1.0)

RUNS = MappingProxyType({
    "smoke": _SMALL.replace(
        sizes=(128, 48, 48), epochs=2, validate_every=1,
        vision_width=64, vision_depth=2, text_width=64, embed_dim=64, batch_size=32,
    ),
    "demo": _DEMO,
    REFERENCE: _DEMO.replace(run=REFERENCE),
    # Sentences about pictures of scanned digits: another domain, in a minute a model.
    "digits": _SMALL.replace(
        run="digits", source="digits", sizes=(2500, 500, 500), max_tokens=64, patch_size=12,
        batch_size=32,
    ),
    "table": _SMALL.replace(
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
    "image-mask-35": {"image_mask": 0.35},
    "no-image-mask": {"image_mask": 0.0, "mim_weight": 0.0},  # nothing is left to reconstruct
    "report-mask-35": {"report_mask": 0.35},
    "no-report-mask": {"report_mask": 0.0, "mrm_weight": 0.0},
    # One of these is the weight that a run has anyway, so that its model would be `mcr`.
    "vrc-weight-0.1": {"vrc_weight": 0.1},
    "vrc-weight-1": {"vrc_weight": 1.0},
    "vrc-weight-10": {"vrc_weight": 10.0},
    "abm-mean-pool": {"alignment": "abm", "aggregation": "mean"},
    "abm-max-pool": {"alignment": "abm", "aggregation": "max"},
    "linear-map": {"mapping": "linear"},
    "abm-linear-map": {"alignment": "abm", "mapping": "linear"},
})  # fmt: skip


def is_rehearsal(run: str) -> bool:
    """Whether a run only tries out another one, so that its numbers are no results."""
    return str(run).startswith(REHEARSAL)


def rehearsed(run: str) -> str:
    """The run that a rehearsal tries out; any other run itself."""
    return str(run).removeprefix(REHEARSAL)


def multiple_of(run: str) -> str:
    """The key of MULTIPLES that a run's name begins with; "" if it has the epochs of its preset."""
    for beginning in MULTIPLES:
        if rehearsed(run).startswith(beginning):
            return beginning
    return ""


def pairs_of(run: str) -> int:
    """How many training pairs a run's name limits it to; 0 if it takes all."""
    beginning = FEWER_PAIRS.match(rehearsed(run))
    return int(beginning[1]) if beginning else 0


def beginning_of(run: str) -> str:
    """What precedes the preset in a run's name, such as `half-` or `pairs-500-`; "" if nothing."""
    fewer = FEWER_PAIRS.match(rehearsed(run))
    return fewer[0] if fewer else multiple_of(run)


def preset(run: str) -> str:
    """The run of RUNS that a rehearsal, or a run with other epochs or fewer pairs, is named after;
    any other itself."""
    return rehearsed(run).removeprefix(beginning_of(run))


def multiplied(settings: dict[str, Any], run: str) -> dict[str, Any]:
    """Settings with the epochs, if they are among them, times the run's multiple; at least 1."""
    if "epochs" not in settings or not multiple_of(run):
        return settings
    epochs = MULTIPLES[multiple_of(run)] * settings["epochs"]
    return settings | {"epochs": max(1, epochs)}


def data_folder(run: str) -> Path:
    """The prepared pairs of a run. A rehearsal has its own, a run with other epochs or fewer pairs
    those of its preset, and `reference`, a copy of a `demo` run, those of `demo`."""
    own = run if is_rehearsal(run) else preset(run)
    return ROOT / "data" / ("demo" if own == REFERENCE else own)


def load(run: str, variant: str = "mcr", seed: int = 0, **overrides: Any) -> Config:
    """Settings of one model: the run's, then the variant's, then the caller's.

    `rehearse-RUN` is the run RUN on a sample of its pairs; `half-RUN` and `double-RUN` have half
    and twice its epochs, and so of its compute; `pairs-500-RUN` has its first 500 training pairs,
    and as many steps. `overrides` are not multiplied. Raises ValueError for an unknown run, variant
    or setting, for a value of the wrong type, and for a value out of range.
    """
    settings = RUNS[_known(preset(run), RUNS, "run")].model_dump() | {"run": run}
    if is_rehearsal(run):
        settings["sample"] = REHEARSED_PAIRS
    settings = multiplied(settings, run) | {"train_pairs": pairs_of(run)}
    settings |= VARIANTS[_known(variant, VARIANTS, "variant")]
    for name in overrides:
        _known(name, Config.model_fields, "setting")
    return _validated(settings | overrides | {"variant": variant, "seed": seed})


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but 1e-3 is a number, and a name that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping. Raises YAMLError for a name that is given twice or cannot be a name."""
        seen = set()
        for key, _ in node.value:
            name = key.value
            if not isinstance(name, str):
                raise yaml.YAMLError("its name is a list or a mapping, not a word")
            if name in seen:
                raise yaml.YAMLError(f"{name!r} is given twice")
            seen.add(name)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a point and a sign, as in 1.0e-3, and takes everything else for text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def parse(words: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` words of a command line, values in YAML; an empty value is the text "".

    Raises ValueError for a word of another form and for a name that is given twice.
    """
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise ValueError(f"{word!r} cannot be read: write NAME=VALUE, such as epochs=3.")
        if name in settings:
            raise ValueError(f"{name!r} is given twice: {settings[name]!r} and {value!r}.")
        try:
            settings[name] = _from_yaml(value) if value else ""
        except ValueError as error:
            raise ValueError(f"{word} cannot be read: {error}") from None
    return settings


def _from_yaml(text: str) -> Any:
    """Raises ValueError with a sentence on one line."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = getattr(error, "problem", None) or str(error)
        raise ValueError(" ".join(problem.split()) or "it is nested too deeply") from None


# What the Makefile has variables of its own for.
MAKE_VARIABLES = {
    "run": "RUN",
    "variant": "VARIANTS",
    "seed": "SEEDS",
    "data": "DATA",
    "weights": "WEIGHTS",
}
WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]*")


def check_names(
    run: str,
    variants: str | Iterable[str],
    seeds: str | Iterable[str | int],
    settings: str | dict[str, Any] = "",
    processes: str | int = 1,
) -> None:
    """Check what the Makefile is given before anything runs.

    `variants` and `seeds` are lists, or words with spaces between them; `settings` is a mapping, or
    the text of SET, such as "epochs: 3, lr: 1e-3"; `processes` share each batch. Raises ValueError,
    in one sentence, for a run that is neither in RUNS nor named after one, an unknown variant, a
    seed that is not a whole number of at least 0, for settings that do not exist, are given twice
    or have a wrong value, and for a number of processes that cannot share a batch equally.
    """
    _known(str(run).removeprefix(beginning_of(str(run))), RUNS, "run")
    for name, given in (("VARIANTS", variants), ("SEEDS", seeds)):
        if not isinstance(given, Iterable):
            raise ValueError(f"{name} must be a list, or words with spaces between: got {given!r}.")
    variants = variants.split() if isinstance(variants, str) else list(variants)
    seeds = seeds.split() if isinstance(seeds, str) else list(seeds)
    if not variants:
        raise ValueError(f"VARIANTS names no variant; choose from {', '.join(VARIANTS)}.")
    if not seeds:
        raise ValueError("SEEDS names no seed: give whole numbers, such as SEEDS='0 1 2'.")
    changes = read_settings(settings)
    numbers = [_to_seed(seed) for seed in seeds]
    for variant in variants:
        for seed in numbers:
            config = load(run, variant, seed, **changes)
            _check_processes(processes, config.batch_size)


def _check_processes(processes: str | int, batch_size: int) -> None:
    text = str(processes)
    if not WHOLE_NUMBER.fullmatch(text) or int(text) == 0:
        raise ValueError(f"PROCESSES must be a whole number of at least 1, not {text!r}.")
    if batch_size % int(text):
        raise ValueError(
            f"A batch of {batch_size} cannot be shared equally by PROCESSES={text}; set batch_size "
            "to a multiple of their number."
        )


def _to_seed(seed: str | int) -> int:
    """The seed as a number; ValueError unless it is written as `make` will name its folder."""
    text = str(seed)
    if not WHOLE_NUMBER.fullmatch(text) or int(text) > LARGEST_SEED:
        raise ValueError(
            f"There is no seed {text!r}: a seed is a whole number from 0 to {LARGEST_SEED}, "
            "without a sign or leading zeros."
        )
    return int(text)


def read_settings(settings: str | dict[str, Any]) -> dict[str, Any]:
    """The settings in SET, whose names are known and have no variable of their own.

    Raises ValueError, in one sentence, for text that cannot be read and for other names.
    """
    if isinstance(settings, str):
        try:
            settings = _from_yaml("{" + settings + "}")
        except ValueError as error:
            raise ValueError(
                f"SET cannot be read: {error}; write SET='epochs: 3, lr: 1e-3'."
            ) from None
    if not isinstance(settings, dict):
        raise ValueError(f"SET must be text or a mapping, as {{'epochs': 3}}: got {settings!r}.")
    for name, value in settings.items():
        if name in MAKE_VARIABLES:
            raise ValueError(f"SET cannot change {name!r}: use {MAKE_VARIABLES[name]}=... instead.")
        if value is None and name not in Config.model_fields:
            raise ValueError(
                f"SET has {name!r} without a value; write a colon and a space, as in "
                "SET='epochs: 3, lr: 1e-3'."
            )
        _known(name, Config.model_fields, "setting")
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
    if isinstance(name, str) and name in names:
        return name
    close = difflib.get_close_matches(str(name), list(names), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(names)}."
    raise ValueError(f"There is no {kind} {name!r}; {hint}")


def main(arguments: list[str]) -> str | int:
    """Check `RUN VARIANTS SEEDS SET PROCESSES`; returns the exit code 0, or the sentence to exit
    with."""
    if not 3 <= len(arguments) <= 5:
        return (
            "Usage: python -m mcrlib.config RUN VARIANTS SEEDS [SET [PROCESSES]], each one word or "
            "in quotes."
        )
    try:
        check_names(*arguments)
    except ValueError as error:
        return str(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
