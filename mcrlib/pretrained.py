"""Encoders and tokenizer: pretrained from the hub or a folder, or small ones from scratch."""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from timm.models import load_pretrained
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from tokenizers import BertWordPieceTokenizer
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from mcrlib import weight_files
from mcrlib.config import Config

_SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MOST_REPORTS = 50_000  # that a vocabulary is learned from
_ATTENTION_DROPOUT = 0.0  # any other value rules out the fused attention kernels


def load_vit(config: Config, pretrained: bool = True) -> VisionTransformer:
    """E_v for one grey channel: timm's `config.vision`, or a small one if that is empty.

    timm sums the pretrained weights of its RGB channels into one. Raises FileNotFoundError if
    pretrained weights are wanted and neither the hub nor `config.weights` has them, and ValueError
    if a weight of the encoder is missing, damaged or of another shape.
    """
    if not config.vision:
        return VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            in_chans=1,
            num_classes=0,
            embed_dim=config.vision_width,
            depth=config.vision_depth,
            num_heads=config.vision_heads,
        )
    weights = {}
    if pretrained:
        folder = _weights_folder(config.vision, f"timm/{config.vision}", config)
        weights = weight_files.read(folder)
        weights = weight_files.as_timm(weights, folder)
    vit = timm.create_model(
        config.vision, pretrained=False, img_size=config.image_size, in_chans=1, num_classes=0
    )
    if pretrained:
        _fill_vit(vit, weights, folder)
    return vit


def _fill_vit(vit: VisionTransformer, weights: dict[str, Tensor], folder: Path) -> None:
    """Load weights with timm's names, after checking that there is one for each of the model's."""
    converted = checkpoint_filter_fn(dict(weights), vit)
    weight_files.check_names(set(vit.state_dict()), set(converted), folder)
    source = vit.pretrained_cfg | {"state_dict": weights}
    try:
        load_pretrained(
            vit, source, num_classes=0, in_chans=1, filter_fn=checkpoint_filter_fn, strict=False
        )
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(weight_files.misfit(folder, error)) from error


def load_tokenizer(config: Config, reports: Sequence[str]) -> BertTokenizer:
    """The pretrained report encoder's tokenizer, or one trained on `reports` (the training split).

    Raises FileNotFoundError as `load_language_model` does, and ValueError if a tokenizer would be
    trained on MIMIC-CXR: its vocabulary would carry credentialed text.
    """
    if config.text:
        return _pretrained_tokenizer(config)
    if config.source == "mimic":
        raise ValueError(
            "No tokenizer is trained on MIMIC-CXR, whose text is credentialed; set `text` to a "
            "pretrained report encoder such as 'emilyalsentzer/Bio_ClinicalBERT'."
        )
    return _train_tokenizer(reports, config.vocabulary)


def load_language_model(config: Config, vocabulary: int) -> BertForMaskedLM:
    """E_r with its masked-language head: `config.text`, or a small one if that is empty.

    `vocabulary` is the tokenizer's number of words. Raises FileNotFoundError if neither the hub nor
    `config.weights` has the weights, and ValueError if a weight of the encoder is missing, damaged
    or of another shape.
    """
    if config.text:
        folder = _weights_folder(Path(config.text).name, config.text, config)
        return _load_bert(folder, config)
    small = BertConfig(
        vocab_size=vocabulary,
        hidden_size=config.text_width,
        num_hidden_layers=config.text_depth,
        num_attention_heads=config.text_heads,
        intermediate_size=4 * config.text_width,
        max_position_embeddings=config.max_tokens,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=_ATTENTION_DROPOUT,
    )
    return BertForMaskedLM(small)


def _load_bert(folder: Path, config: Config) -> BertForMaskedLM:
    weights = weight_files.read(folder)
    weights = weight_files.as_bert(weights, folder)
    bert_config = BertConfig.from_pretrained(
        folder,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=_ATTENTION_DROPOUT,
    )
    try:
        model, found = BertForMaskedLM.from_pretrained(
            None,
            config=bert_config,
            state_dict=weights,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except RuntimeError as error:
        raise ValueError(weight_files.misfit(folder, error)) from error
    missing = set(found["missing_keys"])
    head = {name for name in missing if name.startswith("cls.")}
    encoder = {name for name in model.state_dict() if name.startswith("bert.")}
    weight_files.check_names(encoder, encoder - missing, folder)
    left_over = set(found["unexpected_keys"])
    if left_over:
        print(f"{folder}: not used: {weight_files.listed(left_over)}", flush=True)
    if head:
        print(f"{folder}: the masked-language head is new: {weight_files.listed(head)}", flush=True)
    return model


def _pretrained_tokenizer(config: Config) -> BertTokenizer:
    """The tokenizer of `config.text`, which keeps capitals if its vocabulary has any.

    Bio_ClinicalBERT is cased, but its files do not say so, and transformers would lower-case.
    """
    folder = _weights_folder(Path(config.text).name, config.text, config)
    vocabulary = BertTokenizer.from_pretrained(folder).get_vocab()
    words = [word for word in vocabulary if not word.startswith("[")]  # not [CLS] and the like
    is_cased = any(word != word.lower() for word in words)
    return BertTokenizer.from_pretrained(folder, do_lower_case=not is_cased)


def _train_tokenizer(reports: Sequence[str], vocabulary: int) -> BertTokenizer:
    """A lower-case WordPiece tokenizer with `vocabulary` words; the same reports give the same.

    Of more than `MOST_REPORTS`, every second, third and so on is read: words that it would lack are
    so rare that they are written in parts anyway.
    """
    letters = set()
    for report in reports:
        letters.update(report.lower())
    # The trainer numbers the letters inside words at random and breaks ties between merges by these
    # numbers. Naming the letters as special tokens fixes their numbers.
    letters_inside_words = []
    for letter in sorted(letters):
        if letter.isalnum():
            letters_inside_words.append(f"##{letter}")
    step = max(math.ceil(len(reports) / MOST_REPORTS), 1)
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(
        reports[::step],
        vocab_size=vocabulary,
        min_frequency=2,
        show_progress=False,
        special_tokens=_SPECIAL_TOKENS + letters_inside_words,
    )
    return BertTokenizer(vocab=trained.get_vocab(), do_lower_case=True)


def _weights_folder(name: str, hub_id: str, config: Config) -> Path:
    """The folder with a pretrained encoder's weights.

    It is `config.weights/name` if that setting is given, else `hub_id` itself if that is a folder,
    else the hub's cache, downloaded to if needed.
    """
    if config.weights:
        folder = Path(config.weights) / name
        reason = f"{folder} is not a folder"
    else:
        folder = _download(hub_id)
        reason = "the hub cannot be reached or does not have it"
    if not _has_weights(folder):
        raise FileNotFoundError(
            f"The pretrained encoder {hub_id!r} was not found: {reason}, or it holds no weights. "
            f"On a machine with internet access run `hf download {hub_id} --local-dir "
            f"FOLDER/{name}`, then set WEIGHTS=FOLDER."
        )
    return folder


def _download(hub_id: str) -> Path:
    """`hub_id` as a local folder: itself, or the hub's cache; may not exist if the hub fails."""
    folder = Path(hub_id)
    if folder.is_dir():
        return folder
    wanted = ["*.json", "*.txt", *weight_files.NAMES]
    with contextlib.suppress(OSError, HfHubHTTPError):
        folder = Path(snapshot_download(hub_id, allow_patterns=wanted))
    return folder


def _has_weights(folder: Path) -> bool:
    return any((folder / name).exists() for name in weight_files.NAMES)
