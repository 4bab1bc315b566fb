"""MCR, Figure 2 of the paper: encoders E, mappings F with aggregation, decoders D.

Read `MCR.forward` first: it is the table of contents. The letters in shapes:

    B  pairs in a batch                        E  width of the common space
    n  patches of an image                     D  width of an encoder
    k  patches kept                            P  pixels of a patch
    m  patches dropped, n - k                  V  words in the vocabulary
    T  tokens of the longest report            M  masked tokens in a batch

`mcrlib.masking` states the polarity of the masks.
"""

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from huggingface_hub import snapshot_download
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_model, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from mcrlib import config as settings
from mcrlib import distributed, losses, pretrained
from mcrlib.arguments import is_list, is_whole
from mcrlib.data import batches, images
from mcrlib.explain import Explanation, explain_pair
from mcrlib.masking import gather_patches
from mcrlib.modules import Head, ImageDecoder, ImageEncoder, ReportEncoder
from mcrlib.packing import Packing

# A radiograph: a file, a picture, or an array [H, W].
Picture = str | Path | Image.Image | np.ndarray | Tensor


class Features(NamedTuple):
    """What encoders and heads make of a batch."""

    image: Tensor  # S^v [B, E], unit rows
    report: Tensor  # S^r [B, E], unit rows
    image_tokens: Tensor | None = None  # f^v [B, 1+k, D]; None if nothing is reconstructed
    report_tokens: Tensor | None = None  # f^r [B, T, D]; None if nothing is reconstructed


class MCR(nn.Module):
    """Masked contrastive reconstruction; the config also makes it each baseline and ablation.

    `vit`, `language_model` and its `tokenizer` come from `mcrlib.pretrained`.
    """

    def __init__(
        self,
        config: settings.Config,
        tokenizer: BertTokenizer,
        vit: VisionTransformer,
        language_model: BertForMaskedLM,
    ):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.bert_config = language_model.config
        self.image_encoder = ImageEncoder(vit, config.masked_patches)  # E_v
        self.report_encoder = ReportEncoder(language_model.bert, tokenizer.mask_token_id)  # E_r
        self.image_head = Head(vit.embed_dim, config)  # F_v->s, aggregation
        self.report_head = Head(self.bert_config.hidden_size, config)  # F_r->s, aggregation
        if config.mim_weight > 0:
            self.image_decoder = ImageDecoder(vit.embed_dim, config)  # D_v
        if config.mrm_weight > 0:
            self.report_decoder = language_model.cls  # D_r, tied to the token embeddings
        # The logarithm keeps the scale, one over the temperature, positive while it is learned.
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def forward(
        self, batch: batches.Batch, contrast: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The terms of the loss, `vrc`, `mim` and `mrm`, and their weighted sum `loss` (Figure 2).

        Terms with weight 0 are neither computed nor returned. `contrast(S^v, S^r)` replaces L_vrc;
        `mcrlib.training.two_pass` uses it. No value is read back from the device, neither here nor
        in the backward pass: what decides a shape comes with the batch.
        """
        features = self.encode(batch)  # f^v, f^r of the masked pairs, and from them S^v, S^r
        vrc = contrast or self.contrast
        terms = {"vrc": vrc(features.image, features.report)}
        if self.config.mim_weight > 0:
            terms["mim"] = self.reconstruct_image(features.image_tokens, batch)
        if self.config.mrm_weight > 0:
            terms["mrm"] = self.reconstruct_report(features.report_tokens, batch)
            if contrast is None:  # two_pass weighs its micro batches itself
                terms["mrm"] = terms["mrm"] * distributed.weight(batch.masked.sum())
        return {"loss": self.weighted_sum(terms), **terms}

    def encode(self, batch: batches.Batch) -> Features:
        """What every term of the loss is computed from.

        In MCR masked pairs are all that the model sees in training: the same features feed the
        contrast and both decoders. In the usual framework (Figure 1a, variant `dual`) the contrast
        has a second stream, the unmasked pairs. That stream comes first, so that both passes of
        `two_pass` draw the same dropout for it.
        """
        if self.config.contrast == "masked":
            image_tokens, report_tokens = self.encode_masked(batch)  # f^v, f^r
            image = self.image_head(image_tokens)  # S^v
            report = self.report_head(report_tokens, batch.present, batch.layout.packing)  # S^r
            return Features(image, report, image_tokens, report_tokens)

        image, report = self.project(batch)  # S^v, S^r of the unmasked pairs
        reconstructs = self.config.mim_weight > 0 or self.config.mrm_weight > 0
        if not reconstructs:
            return Features(image, report)
        image_tokens, report_tokens = self.encode_masked(batch)
        return Features(image, report, image_tokens, report_tokens)

    def encode_masked(self, batch: batches.Batch) -> tuple[Tensor, Tensor]:
        """Local features of the masked pairs: f^v `[B, 1+k, D]`, [CLS] first, and f^r `[B, T, D]`.

        f^v is `[B, 1+n, D]` if masked patches are encoded as mask tokens (variant `dual-token`).
        """
        image_tokens = self.image_encoder(batch.pixels, batch.keep)
        report_tokens = self.report_encoder(
            batch.tokens, batch.present, batch.masked, batch.layout.packing
        )
        return image_tokens, report_tokens

    def contrast(self, image: Tensor, report: Tensor) -> Tensor:
        """L_vrc of S^v and S^r `[B, E]`, with the rows of all processes as negatives."""
        all_images = distributed.gathered(image)
        all_reports = distributed.gathered(report)
        return losses.vrc(all_images, all_reports, self.log_scale.exp())

    def reconstruct_image(self, image_tokens: Tensor, batch: batches.Batch) -> Tensor:
        """L_mim: D_v predicts the pixels of the dropped patches from f^v."""
        patches = self.image_encoder.patchify(batch.pixels)
        predicted = self.image_decoder(image_tokens, batch.keep, batch.dropped)
        return losses.mim(predicted, gather_patches(patches, batch.dropped))

    def reconstruct_report(self, report_tokens: Tensor, batch: batches.Batch) -> Tensor:
        """L_mrm: D_r predicts the words at the masked tokens from f^r.

        The scores `[M, V]` are the largest tensor of a step, so they are computed in tiles. With
        recomputation each tile is dropped and computed again in the backward pass: there is never
        more than one in memory.
        """
        places = (batch.layout.masked_report, batch.layout.masked_position)
        masked_features = report_tokens[places]
        original_tokens = batch.tokens[places]
        loss_of_tile = self._summed_mrm
        if self.config.recompute != "none":
            loss_of_tile = functools.partial(checkpoint, loss_of_tile, use_reentrant=False)
        total = 0
        feature_tiles = masked_features.split(losses.TILE)
        token_tiles = original_tokens.split(losses.TILE)
        for features, tokens in zip(feature_tiles, token_tiles, strict=True):
            total = total + loss_of_tile(features, tokens)
        return total / len(original_tokens)

    def _summed_mrm(self, features: Tensor, tokens: Tensor) -> Tensor:
        """L_mrm of some masked tokens, as a sum in place of the mean."""
        scores = self.report_decoder(features)
        return losses.mrm(scores, tokens) * len(tokens)

    def weighted_sum(self, terms: dict[str, Tensor]) -> Tensor:
        """The loss: the sum of its terms with the config's weights."""
        weights = {
            "vrc": self.config.vrc_weight,
            "mim": self.config.mim_weight,
            "mrm": self.config.mrm_weight,
        }
        return sum(weights[name] * term for name, term in terms.items())

    def project(self, batch: batches.Batch) -> tuple[Tensor, Tensor]:
        """S^v and S^r `[B, E]` as the contrast sees them: masked in MCR, unmasked in Figure 1a."""
        packing = batch.layout.packing
        if self.config.contrast == "masked":
            image = self.project_images(batch.pixels, batch.keep)
            report = self.project_reports(batch.tokens, batch.present, batch.masked, packing)
        else:
            image = self.project_images(batch.pixels)
            report = self.project_reports(batch.tokens, batch.present, packing=packing)
        return image, report

    def project_images(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Unit rows S^v `[B, E]` of `pixels [B, 1, H, W]`, unmasked without `keep`."""
        image_tokens = self.image_encoder(pixels, keep)
        return self.image_head(image_tokens)

    def project_reports(
        self,
        tokens: Tensor,
        present: Tensor,
        masked: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """Unit rows S^r `[B, E]` of `tokens [B, T]`; `present [B, T]` is false at padding."""
        report_tokens = self.report_encoder(tokens, present, masked, packing)
        return self.report_head(report_tokens, present, packing)

    @torch.no_grad()
    def embed_images(self, pictures: Iterable[Picture] | Picture, batch_size: int = 64) -> Tensor:
        """Unit rows `[N, E]`, on the CPU, of radiographs: paths, PIL images or arrays `[H, W]`.

        A single path, picture or array `[H, W]` is a list of one; an array or tensor `[N, H, W]`
        or `[N, 1, H, W]` holds N radiographs. Leaves the model in evaluation mode. Raises
        ValueError if a radiograph cannot be read.
        """
        _check_batch_size(batch_size)
        pictures = _list_of_pictures(pictures)
        self.eval()
        rows = [torch.empty(0, self.config.embed_dim)]  # the result without pictures
        for start in range(0, len(pictures), batch_size):
            chosen = pictures[start : start + batch_size]
            pixels = self._pixels(chosen)
            embedded = self.project_images(pixels)
            rows.append(embedded.float().cpu())
        return torch.cat(rows)

    @torch.no_grad()
    def embed_reports(self, texts: Iterable[str] | str, batch_size: int = 64) -> Tensor:
        """Unit rows `[N, E]`, on the CPU, of report texts; longer ones are cut at `max_tokens`.

        A single text is a list of one. Leaves the model in evaluation mode. Raises ValueError for
        what is no text.
        """
        _check_batch_size(batch_size)
        texts = _list_of_texts(texts)
        self.eval()
        device = self.log_scale.device
        ids = batches.tokenize(self.tokenizer, texts, self.config.max_tokens)
        by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # for little padding
        rows = torch.empty(len(ids), self.config.embed_dim)
        for start in range(0, len(ids), batch_size):
            chosen = by_length[start : start + batch_size]
            chosen_ids = [ids[i] for i in chosen]
            tokens, present = batches.pad(chosen_ids, self.tokenizer.pad_token_id)
            embedded = self.project_reports(tokens.to(device), present.to(device))
            rows[chosen] = embedded.float().cpu()
        return rows

    def explain(self, image: Picture, report: str, method: str | None = None) -> Explanation:
        """Which patches of a radiograph and which words of a report make up their cosine.

        `method` is "exact" or "occlusion". By default it is "exact", if the model maps local
        features before it aggregates them: `.score` is the cosine, `.patches [side, side]` holds
        what each patch contributes to it, `.words` each word (text, characters, share), and
        `.matrix [1+n, T]` each pair of an image token and a report token, with [CLS] and [SEP] in
        rows and columns of their own. The matrix sums to the score, and so do the patches with the
        row of [CLS]. Contributions are signed, and their absolute values can sum to several times
        the score. They are those of output tokens, which have seen the whole picture or report, so
        they do not prove that a patch or word is the cause.

        Models that aggregate first (variant `abm`) have "occlusion" only, which all models have:
        the fall of the score if a patch is set to the picture's mean grey, or a word to [MASK].
        There is no matrix then, and the falls do not sum to the score. `.method` says which it was.

        Words after `max_tokens` are not explained. Leaves the model in evaluation mode. Raises
        ValueError for what is not one radiograph or not one text, for an empty text, and for a
        method that the model does not have.
        """
        pictures = _list_of_pictures(image)
        if len(pictures) != 1:
            raise ValueError(f"explain takes one radiograph: got {len(pictures)}.")
        if not isinstance(report, str):
            kind = type(report).__name__
            raise ValueError(f"explain takes one report, a text: got a {kind}.")
        (text,) = _list_of_texts(report)
        self.eval()
        (pixels,) = self._pixels(pictures)
        return explain_pair(self, pixels, text, method)

    def _pixels(self, pictures: Sequence[Picture]) -> Tensor:
        """Encoder input `[B, 1, H, W]`, on the model's device. Raises ValueError."""
        squares = [_read_square(picture, self.config.cache_size) for picture in pictures]
        stacked = torch.from_numpy(np.stack(squares))
        pixels = batches.to_pixels(stacked, self.config.image_size)
        return pixels.to(self.log_scale.device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), both configurations and the tokenizer into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        record = {
            "config": self.config.model_dump(mode="json"),
            "bert": self.bert_config.to_dict(),
            "vocabulary_sha256": _vocabulary_hash(self.tokenizer),
        }
        (folder / "config.json").write_text(json.dumps(record, indent=1))
        save_file(_distinct_weights(self), folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path) -> Self:
        """Open what `save_pretrained` wrote, strictly, in evaluation mode.

        Relative paths into `results/` are taken from the project, whatever the current folder is.
        Raises FileNotFoundError if there is no such folder or hub repository or it lacks a file,
        ValueError if a file is damaged, the tokenizer is another one or a weight is not finite, and
        RuntimeError if a weight is missing, left over or of another shape.
        """
        folder = _find_folder(folder_or_hub_id)
        record = _read_record(folder / "config.json")
        config = settings.load(**settings.current_names(record["config"]))
        config = config.replace(compile=False)  # only training compiles
        bert_config = BertConfig.from_dict(record["bert"])
        model = cls(
            config,
            _read_tokenizer(folder, record),
            pretrained.load_vit(config, pretrained=False),
            BertForMaskedLM(bert_config),
        )
        _load_weights(model, folder / "model.safetensors")
        return model.eval()


def _vocabulary_hash(tokenizer: BertTokenizer) -> str:
    """Hash of all words with their ids. Unlike the tokenizer's file it does not change with the
    library's version."""
    words = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()


def _distinct_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights by name; one that has several names, as tied weights do, under the first.

    Without the list of shared names, whose order in the file would be random, equal models are
    equal bytes. Loading finds the shared names in the model itself.
    """
    weights = {}
    seen = set()
    for name, tensor in sorted(model.state_dict().items()):
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if place in seen and tensor.numel() > 0:
            continue
        seen.add(place)
        weights[name] = tensor.contiguous()
    return weights


def _read_record(file: Path) -> dict[str, Any]:
    """The model folder's config.json. Raises FileNotFoundError or ValueError."""
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: give the whole folder that `save_pretrained` wrote, such as "
            "`checkpoint/final` of a trained model."
        )
    try:
        record = json.loads(file.read_bytes())
        is_complete = isinstance(record["config"], dict) and isinstance(record["bert"], dict)
    except (ValueError, TypeError, KeyError):
        is_complete = False
    if not is_complete:
        raise ValueError(
            f"{file} is empty, damaged or of another kind of model: copy the model's folder anew, "
            "or train the model again."
        )
    return record


def _read_tokenizer(folder: Path, record: dict[str, Any]) -> BertTokenizer:
    """The model's tokenizer. Raises FileNotFoundError if it is missing, and ValueError if it is
    damaged or another model's."""
    names = ("tokenizer.json", "vocab.txt")
    if not any((folder / name).is_file() for name in names):
        raise FileNotFoundError(
            f"{folder} holds neither tokenizer.json nor vocab.txt, without which every word is "
            "unknown: copy the model's folder anew."
        )
    try:
        tokenizer = BertTokenizer.from_pretrained(folder)
    except Exception as error:  # the library raises many kinds, even bare ones
        reason = repr(error).splitlines()[0]
        raise ValueError(
            f"The tokenizer in {folder} is damaged ({reason}): copy the model's folder anew."
        ) from error
    is_trained_with_model = not record["config"].get("text")
    rows = record["bert"].get("vocab_size", len(tokenizer))
    fits = len(tokenizer) == rows if is_trained_with_model else len(tokenizer) <= rows
    expected_hash = record.get("vocabulary_sha256")  # missing in folders of version 0.1
    if expected_hash is not None:
        fits = fits and _vocabulary_hash(tokenizer) == expected_hash
    if not fits:
        raise ValueError(
            f"The tokenizer in {folder}, with {len(tokenizer)} words, is not the model's, which "
            f"has {rows}: copy the model's folder anew."
        )
    return tokenizer


def _load_weights(model: nn.Module, file: Path) -> None:
    """Raises FileNotFoundError, ValueError or RuntimeError as `from_pretrained` does."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: copy the model's folder anew.")
    try:
        load_model(model, file, strict=True)
    except SafetensorError as error:
        raise ValueError(
            f"{file} is damaged ({error}): copy the model's folder anew, or train the model again."
        ) from error
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(
                f"{file} is damaged: the weight {name!r} has values that are not finite. Copy the "
                "model's folder anew, or train the model again."
            )


def _find_folder(folder_or_hub_id: str | Path) -> Path:
    """The folder itself, or the hub repository in its local cache, downloaded to if needed."""
    folder = settings.project_path(folder_or_hub_id)
    if folder.is_dir():
        return folder
    if folder.is_absolute():
        raise FileNotFoundError(
            f"{folder} is not a folder; give the folder `checkpoint/final` of a trained model. "
            "`make train` trains one."
        )
    try:
        return Path(snapshot_download(str(folder_or_hub_id)))
    except Exception as error:
        raise FileNotFoundError(
            f"{str(folder_or_hub_id)!r} is neither a folder nor a hub repository that can be "
            "reached; give the folder `checkpoint/final` of a trained model."
        ) from error


def _check_batch_size(batch_size: int) -> None:
    if not is_whole(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1: got {batch_size!r}.")


def _list_of_texts(texts: Iterable[str] | str) -> list[str]:
    """The reports as a list; ValueError for what is no text."""
    if isinstance(texts, str):
        texts = [texts]
    if not is_list(texts):
        kind = type(texts).__name__
        raise ValueError(f"embed_reports takes a list of texts: got a {kind}.")
    reports = list(texts)
    for i, report in enumerate(reports):
        if not isinstance(report, str):
            raise ValueError(
                f"embed_reports takes texts, but entry {i} is {report!r}: use '' for a missing one."
            )
    # Half a surrogate pair, which no tokenizer takes, becomes a question mark.
    return [report.encode(errors="replace").decode() for report in reports]


def _list_of_pictures(pictures: Iterable[Picture] | Picture) -> Sequence[Picture]:
    """The radiographs as a sequence; ValueError for what cannot be one."""
    if isinstance(pictures, (str, Path, Image.Image)):
        return [pictures]
    if isinstance(pictures, Tensor):
        pictures = _to_array(pictures)
    if isinstance(pictures, np.ndarray) and pictures.dtype.kind in "biufc":
        return _split_pictures(pictures)
    if not is_list(pictures):
        kind = type(pictures).__name__
        raise ValueError(
            f"Radiographs are given as a list of paths, PIL images or arrays: got a {kind}."
        )
    return list(pictures)


def _split_pictures(array: np.ndarray) -> Sequence[np.ndarray]:
    """The radiographs `[N, H, W]` of an array `[H, W]`, `[N, H, W]` or `[N, 1, H, W]`."""
    if array.ndim == 1 and len(array) == 0:
        return []
    if array.ndim == 2:
        return array[None]
    is_colour = array.shape[-1:] in ((3,), (4,))
    if array.ndim == 3 and not is_colour:
        return array
    if array.ndim == 4 and array.shape[1] == 1:
        return array[:, 0]
    raise ValueError(
        "An array must be [H, W], [N, H, W] or [N, 1, H, W] of grey radiographs: got the "
        f"shape {list(array.shape)}."
    )


def _to_array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu().to_dense()
    if tensor.dtype == torch.bfloat16:  # NumPy has none
        tensor = tensor.float()
    return tensor.numpy()


def _read_square(picture: Picture, size: int) -> np.ndarray:
    """A radiograph as uint8 `[size, size]`. Raises ValueError that names the file."""
    if isinstance(picture, str):
        if not picture:
            raise ValueError("A radiograph's path is empty: leave that pair out.")
        source = settings.project_path(picture)
    elif isinstance(picture, Image.Image):
        source = _grey_array(picture)
    elif isinstance(picture, Tensor):
        source = _one_picture(_to_array(picture))
    elif isinstance(picture, np.ndarray):
        source = _one_picture(picture)
    elif isinstance(picture, Path) or callable(picture):
        source = picture
    else:
        kind = type(picture).__name__
        raise ValueError(f"A radiograph is a path, a PIL image or an array [H, W]: got a {kind}.")
    try:
        return images.read(source, size)
    except ValueError as error:
        is_file = isinstance(picture, (str, Path))
        name = picture if is_file else "A radiograph"
        raise ValueError(f"{name} cannot be embedded: {error}.") from None


def _one_picture(array: np.ndarray) -> np.ndarray:
    """`[H, W]` of an array `[H, W]` or `[1, H, W]`; others stay, for `images.read` to refuse."""
    if array.ndim == 3 and len(array) == 1:
        return array[0]
    return array


def _grey_array(picture: Image.Image) -> np.ndarray:
    """`[H, W]`. PIL's modes `I` and `I;16` are grey already and have more than eight bits."""
    if picture.mode.startswith("I"):
        return np.asarray(picture)
    return np.asarray(picture.convert("L"))
