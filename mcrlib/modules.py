"""The parts of MCR (Figure 2): encoders, mapping with aggregation, and the image decoder.

Shapes are named as in `mcrlib.model`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from mcrlib import config as settings
from mcrlib.masking import dropped_patches


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
