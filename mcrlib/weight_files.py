"""Files of pretrained weights under the names that our encoders use (ours).

A weight that is not found would silently stay random, so every weight of an encoder must be found.
What is renamed and what is left over is printed.
"""

import re
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

NAMES = ("model.safetensors", "pytorch_model.bin")  # of weight files, the first one found is read
SHOWN = 8  # names in a message

# The weight by which an encoder is found, whatever stands before its name.
BERT_EMBEDDING = "embeddings.word_embeddings.weight"
TIMM_EMBEDDING = "patch_embed.proj.weight"
TRANSFORMERS_EMBEDDING = "embeddings.patch_embeddings.projection.weight"

# A ViT or ViTMAE of transformers -> timm. Query, key and value are joined after this.
VIT_NAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
)


def read(folder: Path) -> dict[str, Tensor]:
    """Weights by name, in float32 whatever their precision in the file.

    Nothing but tensors is unpickled. Raises FileNotFoundError if the folder has none of `NAMES`,
    and ValueError if the file cannot be read or holds numbers that are not finite.
    """
    for name in NAMES:
        file = folder / name
        if file.is_file():
            return _finite(_read_file(file), file)
    raise FileNotFoundError(f"{folder} holds none of {', '.join(NAMES)}.")


def _read_file(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # both libraries raise many kinds
        raise ValueError(_damaged(file, error)) from error
    for wrapper in ("model", "state_dict"):  # as training scripts wrap them
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise ValueError(_damaged(file, TypeError("it holds no weights by name")))
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _damaged(file: Path, error: Exception) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return f"{file} is empty, damaged or no file of weights ({reason}): download it again."


def _finite(weights: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    result = {}
    for name, value in weights.items():
        if value.is_floating_point():
            value = value.float()
            if not value.isfinite().all():
                error = ValueError(f"{name!r} is not finite")
                raise ValueError(_damaged(file, error))
        result[name] = value
    return result


def as_bert(weights: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """A BERT's weights as `BertForMaskedLM` names them: `bert.` for the encoder, `cls.` for the
    head. Raises ValueError if there is no BERT among them."""
    prefix = _prefix(weights, BERT_EMBEDDING)
    if prefix is None:
        raise ValueError(_nothing_found(weights, folder, BERT_EMBEDDING))
    outer = prefix.removesuffix("bert.")
    renamed = {}
    for name, value in weights.items():
        if name.startswith(f"{outer}cls."):
            name = name.removeprefix(outer)
        elif name.startswith(prefix):
            name = "bert." + name.removeprefix(prefix)
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        renamed[name] = value
    if outer:
        print(f"{folder}: weights are named {outer}...; taken without that.", flush=True)
    return renamed


def as_timm(weights: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """A Vision Transformer's weights as timm names them, from timm's or transformers' names.

    Other formats that timm converts itself are returned as they are.
    """
    prefix = _prefix(weights, TIMM_EMBEDDING)
    if prefix is not None:
        if prefix:
            print(f"{folder}: weights are named {prefix}...; taken without that.", flush=True)
        return _below(prefix, weights, folder)
    prefix = _prefix(weights, TRANSFORMERS_EMBEDDING)
    if prefix is None:
        return weights
    print(f"{folder}: weights are named as in transformers; taken by timm's names.", flush=True)
    renamed = {}
    for name, value in _below(prefix, weights, folder).items():
        for pattern, ours in VIT_NAMES:
            name = re.sub(pattern, ours, name)
        renamed[name] = value
    return _join_query_key_value(renamed)


def _prefix(weights: Collection[str], known: str) -> str | None:
    """What stands before the name of a known weight; the shortest if there are several, None if
    there is no such weight."""
    prefixes = []
    for name in weights:
        whole_name = name == known or name.endswith(f".{known}")
        if whole_name:
            prefixes.append(name.removesuffix(known))
    return min(prefixes, key=len, default=None)


def _below(prefix: str, weights: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The weights whose names begin with `prefix`, without it; prints the names of the others."""
    chosen = {}
    left_over = []
    for name, value in weights.items():
        if name.startswith(prefix):
            chosen[name.removeprefix(prefix)] = value
        else:
            left_over.append(name)
    if left_over:
        print(f"{folder}: not used: {listed(left_over)}", flush=True)
    return chosen


def _join_query_key_value(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm keeps the three projections of an attention in one matrix."""
    joined = {}
    for name, value in weights.items():
        if ".attn.query." in name:
            parts = [weights.get(name.replace("query", part)) for part in ("query", "key", "value")]
            if all(part is not None for part in parts):
                joined[name.replace("query", "qkv")] = torch.cat(parts)
        elif ".attn.key." not in name and ".attn.value." not in name:
            joined[name] = value
    return joined


def check_names(wanted: set[str], found: set[str], folder: Path) -> None:
    """Raise ValueError if a wanted weight was not found; print the ones found that nobody wants."""
    missing = wanted - found
    left_over = found - wanted
    if missing:
        unused = f" Not used: {listed(left_over)}." if left_over else ""
        raise ValueError(
            f"{folder} lacks {len(missing)} of the encoder's {len(wanted)} weights: "
            f"{listed(missing)}.{unused} Give the folder of the encoder that the settings name."
        )
    if left_over:
        print(f"{folder}: not used: {listed(left_over)}", flush=True)


def misfit(folder: Path, error: Exception) -> str:
    """The sentence about weights of other shapes than the model's."""
    reason = " ".join(str(error).split())
    return (
        f"The weights in {folder} do not fit the encoder that the settings name ({reason[:300]}): "
        "give that encoder's folder."
    )


def listed(names: Collection[str]) -> str:
    """The first names, and how many more there are."""
    shown = sorted(names)[:SHOWN]
    more = len(names) - len(shown)
    text = ", ".join(shown)
    return f"{text} and {more} more" if more else text


def _nothing_found(weights: Collection[str], folder: Path, known: str) -> str:
    names = listed(weights) if weights else "nothing"
    return (
        f"{folder} lacks the encoder's weights: no name ends with {known!r}. It holds {names}. "
        "Give the folder of the encoder that the settings name."
    )
