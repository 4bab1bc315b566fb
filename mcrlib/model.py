"""MCR, Figure 2 of the paper: encoders E, mappings F with aggregation, decoders D.

`MCR.forward` is the table of contents. In shapes, B is the pairs of a batch, n the patches of an
image, k those kept, m those dropped, P the pixels of a patch, T the tokens of the longest report,
D an encoder's width and E the common space's. Masks have the polarity of `mcrlib.masking`.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from PIL import Image
from safetensors.torch import load_model, save_model
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from mcrlib import config as settings
from mcrlib import encoders, losses, processes
from mcrlib.data import batches, images
from mcrlib.masking import dropped_patches


class MCR(nn.Module):
    """Masked contrastive reconstruction; the config also makes it each baseline and ablation.

    `vit` and `language_model`, with its `tokenizer`, are the encoders that `mcrlib.encoders` makes.
    """

    def __init__(
        self,
        config: settings.Config,
        tokenizer: BertTokenizer,
        vit: VisionTransformer,
        language_model: BertForMaskedLM,
    ):
        super().__init__()
        self.config, self.tokenizer, self.bert = config, tokenizer, language_model.config
        self.image_encoder = ImageEncoder(vit, config.masked_patches)  # E_v
        self.report_encoder = ReportEncoder(language_model.bert, tokenizer.mask_token_id)  # E_r
        self.image_head = Head(vit.embed_dim, config)  # F_v->s, aggregation
        self.report_head = Head(self.bert.hidden_size, config)  # F_r->s, aggregation
        if config.mim_weight > 0:
            self.image_decoder = ImageDecoder(vit.embed_dim, config)  # D_v
        if config.mrm_weight > 0:
            self.report_decoder = language_model.cls  # D_r, tied to the token embeddings
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        blocks = [*vit.blocks, *language_model.bert.encoder.layer]
        decoder = [*self.image_decoder.blocks] if config.mim_weight > 0 else []
        if config.recompute != "none":
            for block in blocks:
                recompute(block, config.recompute)
            for part in [*decoder, self.image_head, self.report_head]:  # cheap beside the encoders
                recompute(part, "full")
        if config.compile:
            torch._dynamo.config.recompile_limit = 64  # kinds of blocks, passes and shapes share it
            for block in blocks + decoder:  # dropout draws what it would: two passes draw the same
                block.forward = torch.compile(block.forward, options={"fallback_random": True})

    def forward(
        self, batch: batches.Batch, contrast: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The terms of the loss, `vrc`, `mim`, `mrm`, and their weighted sum `loss` (Figure 2).

        The usual framework (Figure 1a, variant `dual`) differs in the contrast only: it encodes
        the unmasked input once more. A term without weight is neither computed nor returned.
        `contrast(S^v, S^r)` takes the place of L_vrc (`mcrlib.step`).
        """
        c, (pixels, tokens, present, keep, masked) = self.config, batch
        if c.contrast == "unmasked":
            image, report = self.project(batch)
        if c.contrast == "masked" or c.mim_weight > 0 or c.mrm_weight > 0:
            image_tokens = self.image_encoder(pixels, keep)  # f^v
            report_tokens = self.report_encoder(tokens, present, masked)  # f^r

        if c.contrast == "masked":
            image, report = self.image_head(image_tokens), self.report_head(report_tokens, present)
        terms = {"vrc": (contrast or self.contrast)(image, report)}  # S^v, S^r

        if c.mim_weight > 0:
            patches = self.image_encoder.patchify(pixels)
            dropped = dropped_patches(keep, patches.shape[1])
            predicted = self.image_decoder(image_tokens, keep, dropped)
            terms["mim"] = losses.mim(predicted, gather(patches, dropped))
        if c.mrm_weight > 0:
            places = masked.nonzero(as_tuple=True)
            terms["mrm"] = self.reconstruct(report_tokens[places], tokens[places])
            if contrast is None:  # or the step weighs the parts itself
                terms["mrm"] = terms["mrm"] * processes.weight(masked.sum())

        return {"loss": self.weighted(terms), **terms}

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """The loss: the sum of its terms with the config's weights."""
        return sum(getattr(self.config, f"{name}_weight") * term for name, term in terms.items())

    def contrast(self, image: Tensor, report: Tensor) -> Tensor:
        """L_vrc of the rows S^v and S^r `[B, E]`, and of those of the other processes."""
        image, report = processes.gathered(image), processes.gathered(report)
        return losses.vrc(image, report, self.log_scale.exp())

    def reconstruct(self, report_tokens: Tensor, tokens: Tensor) -> Tensor:
        """L_mrm of masked tokens' features `[M, D]` and ids `[M]`, a tile at a time.

        With recomputation the scores `[M, V]`, a step's largest tensor, are never held at once.
        """

        def tile(rows: Tensor, ids: Tensor) -> Tensor:
            return losses.mrm(self.report_decoder(rows), ids) * len(ids)

        if self.config.recompute != "none":
            tile = functools.partial(checkpoint, tile, use_reentrant=False)
        tiles = zip(report_tokens.split(losses.TILE), tokens.split(losses.TILE), strict=True)
        return sum(tile(*one) for one in tiles) / len(tokens)

    def project(self, batch: batches.Batch) -> tuple[Tensor, Tensor]:
        """The unit rows S^v and S^r `[B, E]` that the contrast sees."""
        pixels, tokens, present, keep, masked = batch
        if self.config.contrast == "unmasked":
            keep = masked = None
        return self.project_images(pixels, keep), self.project_reports(tokens, present, masked)

    def project_images(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Unit rows S^v `[B, E]` of `pixels [B, 1, H, W]`, unmasked without `keep`."""
        return self.image_head(self.image_encoder(pixels, keep))

    def project_reports(
        self, tokens: Tensor, present: Tensor, masked: Tensor | None = None
    ) -> Tensor:
        """Unit rows S^r `[B, E]` of `tokens [B, T]`, `present [B, T]` false at padding."""
        return self.report_head(self.report_encoder(tokens, present, masked), present)

    @torch.no_grad()
    def embed_images(self, pictures: Sequence, batch_size: int = 64) -> Tensor:
        """Unit rows `[N, E]` on the CPU, of radiographs: paths, PIL images or arrays `[H, W]`.

        Leaves the model in evaluation mode. Raises ValueError where a radiograph cannot be read.
        """
        self.eval()
        rows = [torch.empty(0, self.config.embed_dim)]
        for start in range(0, len(pictures), batch_size):
            chosen = pictures[start : start + batch_size]
            squares = [_square(picture, self.config.cache_size) for picture in chosen]
            pixels = batches.to_pixels(torch.from_numpy(np.stack(squares)), self.config.image_size)
            rows.append(self.project_images(pixels.to(self.log_scale.device)).float().cpu())
        return torch.cat(rows)

    @torch.no_grad()
    def embed_reports(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Unit rows `[N, E]` on the CPU, of report texts; longer ones are cut at `max_tokens`.

        Leaves the model in evaluation mode.
        """
        self.eval()
        ids = batches.tokenize(self.tokenizer, texts, self.config.max_tokens)
        by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # for little padding
        rows = torch.empty(len(ids), self.config.embed_dim)
        for start in range(0, len(ids), batch_size):
            chosen = by_length[start : start + batch_size]
            tokens, present = batches.pad([ids[i] for i in chosen], self.tokenizer.pad_token_id)
            device = self.log_scale.device
            rows[chosen] = self.project_reports(tokens.to(device), present.to(device)).float().cpu()
        return rows

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights (safetensors), both configurations and the tokenizer into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        record = {"config": dataclasses.asdict(self.config), "bert": self.bert.to_dict()}
        (folder / "config.json").write_text(json.dumps(record, indent=1))
        save_model(self, str(folder / "model.safetensors"))

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path) -> Self:
        """Open what `save_pretrained` wrote, strictly, in evaluation mode.

        Raises FileNotFoundError where there is no such folder or hub repository, and RuntimeError
        where a weight is missing, left over or of another shape.
        """
        folder = Path(folder_or_hub_id)
        if not folder.is_dir():
            try:
                folder = Path(snapshot_download(str(folder_or_hub_id)))
            except Exception as error:
                raise FileNotFoundError(
                    f"There is no folder {str(folder_or_hub_id)!r}, and no hub repository of that "
                    "name can be reached; give the folder `checkpoint/final` of a trained model."
                ) from error
        record = json.loads((folder / "config.json").read_text())
        config = settings.load(**record["config"] | {"compile": False})  # which is for training
        model = cls(
            config,
            BertTokenizer.from_pretrained(folder),
            encoders.vit(config, pretrained=False),
            BertForMaskedLM(BertConfig.from_dict(record["bert"])),
        )
        load_model(model, folder / "model.safetensors", strict=True)
        return model.eval()


class ImageEncoder(nn.Module):
    """E_v: a timm Vision Transformer that computes the kept patches only (MAE's way; ours)."""

    def __init__(self, vit: VisionTransformer, masked_patches: str):
        super().__init__()
        self.vit, self.patch_size = vit, vit.patch_embed.patch_size[0]
        if masked_patches == "token":
            self.mask_token = nn.Parameter(torch.zeros(vit.embed_dim))
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """`image_tokens [B, 1+k, D]`, [CLS] first, of `pixels [B, 1, H, W]`; all without `keep`.

        Where masked patches are tokens, `[B, 1+n, D]`: the others follow those kept.
        """
        patches, (start, positions) = self.patchify(pixels), self.vit.pos_embed[0].tensor_split([1])
        if keep is not None:
            patches = gather(patches, keep)
        # On whole patches the convolution is a matrix product: only the kept ones are embedded.
        projection = self.vit.patch_embed.proj
        tokens = F.linear(patches, projection.weight.flatten(1), projection.bias)
        # `embedding` where an index would do: its gradient is summed in the same order every time.
        tokens = tokens + (positions if keep is None else F.embedding(keep, positions))
        if keep is not None and hasattr(self, "mask_token"):
            dropped = dropped_patches(keep, len(positions))
            masked = F.embedding(dropped, positions) + self.mask_token
            tokens = torch.cat([tokens, masked], dim=1)
        start = (self.vit.cls_token + start).expand(len(pixels), -1, -1)
        return self.vit.norm(self.vit.blocks(torch.cat([start, tokens], dim=1)))

    def patchify(self, pixels: Tensor) -> Tensor:
        """`[B, n, P]`, the pixels of each patch, both in rows."""
        p, side = self.patch_size, pixels.shape[-1] // self.patch_size
        return pixels.view(-1, side, p, side, p).transpose(2, 3).reshape(-1, side * side, p * p)


class ReportEncoder(nn.Module):
    """E_r: transformers' BERT."""

    def __init__(self, bert: nn.Module, mask_token: int):
        super().__init__()
        self.bert, self.mask_token = bert, mask_token

    def forward(self, tokens: Tensor, present: Tensor, masked: Tensor | None = None) -> Tensor:
        """`report_tokens [B, T, D]` of ids `tokens [B, T]`; `present [B, T]` is false at padding.

        Short reports share a row, each attending to itself only, so that little is padding.
        """
        if masked is not None:
            tokens = tokens.masked_fill(masked, self.mask_token)
        width, lengths = tokens.shape[1], present.sum(dim=1).tolist()  # at once: a GPU must wait
        rows, starts = pack(lengths, width)
        shape = int(rows.max()) + 1, width
        report, place = present.nonzero(as_tuple=True)
        shared = rows.to(report.device)[report], starts.to(report.device)[report] + place
        owner = put(report, shared, shape, -1)
        alone = min(lengths) == width  # then nobody else is to be seen
        encoded = self.bert(
            put(tokens[report, place], shared, shape),
            position_ids=put(place, shared, shape),
            attention_mask=None if alone else owner[:, None, :, None] == owner[:, None, None, :],
        ).last_hidden_state
        return put(encoded[shared], (report, place), tokens.shape)


class Head(nn.Module):
    """F and the aggregation, in the order that gives the alignment its name.

    MbA (the paper) maps each local feature into the common space and aggregates there; AbM, the
    baseline, aggregates in the modality's own space and maps the result. F is a two-layer
    perceptron (ours): were it linear, with the mean both orders would be the same function.
    """

    def __init__(self, width: int, config: settings.Config):
        super().__init__()
        self.map_first = config.alignment == "mba"
        self.map = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, config.embed_dim),
        )
        self.aggregate = Aggregation(
            config.embed_dim if self.map_first else width, config.aggregation
        )

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Unit rows `[B, E]` of `tokens [B, L, D]`; `present [B, L]` is false at padding."""
        if self.map_first:
            aligned = self.aggregate(self.map_each(tokens, present), present)
        else:
            aligned = self.map(self.aggregate(tokens, present))
        return F.normalize(aligned.float(), dim=-1)

    def map_each(self, tokens: Tensor, present: Tensor | None) -> Tensor:
        """Local features `[B, L, E]` in the common space; padding is not mapped, but 0."""
        if present is None:
            return self.map(tokens)
        places = present.nonzero(as_tuple=True)
        return put(self.map(tokens[places]), places, present.shape)


class Aggregation(nn.Module):
    """One vector for many: attention with a learned query, mean or maximum (ours).

    Each dimension attends for itself, with its entry of the query: 0 makes it the mean, infinity
    the maximum. One small finding among many tokens must not drown in their mean.
    """

    def __init__(self, width: int, how: str):
        super().__init__()
        self.how = how
        if how == "attention":
            self.query = nn.Parameter(torch.full((width,), 5.0))

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """`[B, D]` of `tokens [B, L, D]`; `present [B, L]` is false at padding."""
        absent = None if present is None else ~present[..., None]
        if self.how == "max":
            return (tokens if absent is None else tokens.masked_fill(absent, -torch.inf)).amax(
                dim=1
            )
        scores = tokens * self.query if self.how == "attention" else torch.zeros_like(tokens)
        if absent is not None:
            scores = scores.masked_fill(absent, -torch.inf)
        return (scores.softmax(dim=1) * tokens).sum(dim=1)


class ImageDecoder(nn.Module):
    """D_v: rebuilds the dropped patches from the features of the kept ones (MAE's; size ours)."""

    def __init__(self, encoder_width: int, config: settings.Config):
        super().__init__()
        side, width = config.image_size // config.patch_size, config.decoder_width
        self.embed = nn.Linear(encoder_width, width)
        self.register_buffer("positions", build_sincos2d_pos_embed([side, side], width))
        self.blocks = nn.Sequential(
            *(
                Block(width, config.decoder_heads, qkv_bias=True)
                for _ in range(config.decoder_depth)
            )
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)  # as in MAE
        self.pixels = nn.Linear(width, config.patch_size**2)
        if config.masked_patches == "dropped":
            self.mask_token = nn.Parameter(torch.zeros(width))
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, image_tokens: Tensor, keep: Tensor, dropped: Tensor) -> Tensor:
        """Pixels `[B, m, P]` of the patches `dropped [B, m]`, from the encoder's `image_tokens`.

        Attention does not care for order: kept and dropped stand one after the other, each with
        its place's position, so that nothing is shuffled back and only dropped ones are decoded.
        """
        tokens = self.embed(image_tokens)
        if hasattr(self, "mask_token"):
            masked = self.mask_token.expand(*dropped.shape, -1)
            tokens = torch.cat([tokens, masked.to(tokens.dtype)], dim=1)
        places = F.pad(self.positions[torch.cat([keep, dropped], dim=1)], (0, 0, 1, 0))
        tokens = tokens + places
        decoded = self.blocks(tokens)[:, -dropped.shape[1] :]
        return self.pixels(self.norm(decoded))


_DEAR = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
]


def recompute(module: nn.Module, level: str) -> None:
    """Let `module` keep less for its backward pass, which computes the rest again (ours).

    `full` keeps the input. `selective` also keeps what is dear to compute: the results of attention
    and of matrix products. Losses and gradients stay what they are.
    """
    contexts = {}
    if level == "selective":
        contexts["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _DEAR)
    module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False, **contexts)


def pack(lengths: Sequence[int], width: int) -> tuple[Tensor, Tensor]:
    """Row and first column of each report, `[B]` both, where short ones share a row of `width`.

    `lengths` are in tokens, at most `width`; the longest first, each into the first row with room
    for it (Krell et al., 2021).
    """
    rows, starts, free = [0] * len(lengths), [0] * len(lengths), []
    for report in sorted(range(len(lengths)), key=lambda report: -lengths[report]):
        row = next((i for i, room in enumerate(free) if room >= lengths[report]), len(free))
        if row == len(free):
            free.append(width)
        rows[report], starts[report] = row, width - free[row]
        free[row] -= lengths[report]
    return torch.tensor(rows), torch.tensor(starts)


def put(values: Tensor, places: tuple[Tensor, Tensor], shape: Sequence[int], rest=0) -> Tensor:
    """`[*shape, ...]`: `values [N, ...]` at `places`, two indices `[N]`, and `rest` elsewhere."""
    return values.new_full((*shape, *values.shape[1:]), rest).index_put(places, values)


def gather(rows: Tensor, index: Tensor) -> Tensor:
    """`[B, k, D]`: for each pair the rows of `rows [B, n, D]` that `index [B, k]` names."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))


def _square(picture, size: int) -> np.ndarray:
    if isinstance(picture, Image.Image):
        picture = np.asarray(picture if picture.mode.startswith("I") else picture.convert("L"))
    try:
        return images.read(Path(picture) if isinstance(picture, str) else picture, size)
    except ValueError as error:
        name = picture if isinstance(picture, (str, Path)) else "A radiograph"
        raise ValueError(f"{name} cannot be embedded: {error}.") from None
