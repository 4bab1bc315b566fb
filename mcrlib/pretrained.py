"""The encoders and the tokenizer: pretrained from the hub or a folder, or small from scratch."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import timm
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from timm.models.vision_transformer import VisionTransformer
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from mcrlib.config import Config

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def load_vit(config: Config, pretrained: bool = True) -> VisionTransformer:
    """E_v, for one grey channel: timm's `config.vision`, or a small one where that is empty.

    timm sums the weights of its RGB channels into one. Raises FileNotFoundError where pretrained
    weights are wanted and neither the hub nor `config.weights` has them.
    """
    shape = {"img_size": config.image_size, "in_chans": 1, "num_classes": 0}
    if not config.vision:
        return VisionTransformer(
            patch_size=config.patch_size,
            embed_dim=config.vision_width,
            depth=config.vision_depth,
            num_heads=config.vision_heads,
            **shape,
        )
    place = {}
    if pretrained:
        file = _folder(config.vision, f"timm/{config.vision}", config) / "model.safetensors"
        place = {"pretrained_cfg_overlay": {"file": str(file)}}
    return timm.create_model(config.vision, pretrained=pretrained, **shape, **place)


def load_tokenizer(config: Config, reports: Sequence[str]) -> BertTokenizer:
    """The pretrained report encoder's tokenizer, or one trained on `reports` (the training split).

    A vocabulary with capitals keeps them: Bio_ClinicalBERT is cased, but its files do not say so
    and the library would lower-case. Raises ValueError where a tokenizer would be trained on
    MIMIC-CXR: its vocabulary would carry credentialed text.
    """
    if config.text:
        folder = _folder(Path(config.text).name, config.text, config)
        words = BertTokenizer.from_pretrained(folder).get_vocab()
        cased = any(word != word.lower() for word in words if not word.startswith("["))
        return BertTokenizer.from_pretrained(folder, do_lower_case=not cased)
    if config.source == "mimic":
        raise ValueError(
            "No tokenizer is trained on MIMIC-CXR, whose text is credentialed; set `text` to a "
            "pretrained report encoder such as 'emilyalsentzer/Bio_ClinicalBERT'."
        )
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # The trainer numbers the letters inside words at random, and ties of merges follow the numbers:
    # named beforehand, they have the same ones each time.
    letters = sorted({letter for report in reports for letter in report.lower()})
    inside = [f"##{letter}" for letter in letters if letter.isalnum()]
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(
        reports,
        vocab_size=config.vocabulary,
        min_frequency=2,
        show_progress=False,
        special_tokens=special + inside,
    )
    return BertTokenizer(vocab=trained.get_vocab(), do_lower_case=True)


def load_language_model(config: Config, vocabulary: int) -> BertForMaskedLM:
    """E_r with its masked-language head: `config.text`, or a small one where that is empty.

    Attention has no dropout, which would rule out the fused kernels. Raises FileNotFoundError
    where neither the hub nor `config.weights` has the weights.
    """
    dropout = {"hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": 0.0}
    if config.text:
        folder = _folder(Path(config.text).name, config.text, config)
        return BertForMaskedLM.from_pretrained(folder, **dropout)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary,
            hidden_size=config.text_width,
            num_hidden_layers=config.text_depth,
            num_attention_heads=config.text_heads,
            intermediate_size=4 * config.text_width,
            max_position_embeddings=config.max_tokens,
            **dropout,
        )
    )


def _folder(name: str, hub_id: str, config: Config) -> Path:
    """Where the pretrained encoder lies: below `config.weights`, at `hub_id`, or in the cache."""
    if config.weights:
        folder = Path(config.weights) / name
        reason = f"{folder} is no folder"
    else:
        folder = Path(hub_id)
        reason = "the hub cannot be reached or does not have it"
    if not folder.is_dir() and not config.weights:
        with contextlib.suppress(OSError, HfHubHTTPError):
            folder = Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.txt", *_WEIGHTS]))
    if not any(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        raise FileNotFoundError(
            f"The pretrained encoder {hub_id!r} is not there: {reason}, or it holds no weights. On "
            f"a machine with internet run `hf download {hub_id} --local-dir FOLDER/{name}`, then "
            "give WEIGHTS=FOLDER."
        )
    return folder
