"""The parts of MCR (Figure 2): encoders, mapping with aggregation, and the image decoder.

Shapes are named as in `mcrlib.model`.
"""

import torch
import torch.nn.functional as F
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from mcrlib.config import Config
from mcrlib.masking import dropped_patches, gather_patches
from mcrlib.packing import Packing, plan_packing


class ImageEncoder(nn.Module):
    """E_v: a timm Vision Transformer that computes the kept patches only (MAE's way; ours).

    With `masked_patches="token"` (variant `dual-token`) it also computes a mask token in the place
    of each dropped patch; with `"dropped"` it does not.
    """

    def __init__(self, vit: VisionTransformer, masked_patches: str):
        super().__init__()
        self.vit = vit
        self.patch_size = vit.patch_embed.patch_size[0]
        if masked_patches == "token":
            self.mask_token = nn.Parameter(torch.zeros(vit.embed_dim))
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """`image_tokens [B, 1+k, D]`, [CLS] first, of `pixels [B, 1, H, W]`; all without `keep`.

        If masked patches are tokens, `[B, 1+n, D]`: [CLS], the kept patches, the masked ones.
        """
        cls_position, positions = self.vit.pos_embed[0].tensor_split([1])
        tokens = self._embed(pixels, keep, positions)
        if keep is not None and hasattr(self, "mask_token"):
            dropped = dropped_patches(keep, len(positions))
            masked = F.embedding(dropped, positions) + self.mask_token
            tokens = torch.cat([tokens, masked], dim=1)
        cls_token = (self.vit.cls_token + cls_position).expand(len(pixels), -1, -1)
        encoded = self.vit.blocks(torch.cat([cls_token, tokens], dim=1))
        return self.vit.norm(encoded)

    def patchify(self, pixels: Tensor) -> Tensor:
        """`[B, n, P]`: patches row by row, and the pixels of each patch row by row."""
        size = self.patch_size
        side = pixels.shape[-1] // size
        grid = pixels.view(-1, side, size, side, size)
        return grid.transpose(2, 3).reshape(-1, side * side, size * size)

    def _embed(self, pixels: Tensor, keep: Tensor | None, positions: Tensor) -> Tensor:
        """The patch embeddings `[B, k, D]` with their `positions [n, D]`, of kept patches only."""
        patches = self.patchify(pixels)
        if keep is not None:
            patches = gather_patches(patches, keep)
            # `embedding` rather than an index: it sums its gradient in the same order every time.
            positions = F.embedding(keep, positions)
        # On whole patches the ViT's convolution is a matrix product, so it can be applied to some.
        convolution = self.vit.patch_embed.proj
        embedded = F.linear(patches, convolution.weight.flatten(1), convolution.bias)
        return embedded + positions


class ReportEncoder(nn.Module):
    """E_r: transformers' BERT, on packed reports (`mcrlib.packing` has the drawing)."""

    def __init__(self, bert: nn.Module, mask_token: int):
        super().__init__()
        self.bert = bert
        self.mask_token = mask_token

    def forward(
        self,
        tokens: Tensor,
        present: Tensor,
        masked: Tensor | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """`report_tokens [B, T, D]` of ids `tokens [B, T]`; `present [B, T]` is false at padding.

        `masked [B, T]` is true where the encoder sees [MASK]. Features at padding are 0. Training
        batches bring their `packing`; without it, it is planned here.
        """
        if masked is not None:
            tokens = tokens.masked_fill(masked, self.mask_token)
        if packing is None:
            packing = plan_packing(present)
        encoded = self.bert(
            packing.pack(tokens),
            position_ids=packing.position_ids(),
            attention_mask=packing.attention_mask(),
        )
        return packing.unpack(encoded.last_hidden_state)


class Head(nn.Module):
    """F and the aggregation, in the order that gives the alignment its name.

    MbA (the paper) maps each local feature into the common space and aggregates there; AbM, the
    baseline, aggregates in the modality's own space and maps the result. F is a two-layer
    perceptron (ours): if it is linear, both orders are the same function under the mean.
    """

    def __init__(self, width: int, config: Config):
        super().__init__()
        self.map_first = config.alignment == "mba"
        if config.mapping == "linear":
            self.map = nn.Linear(width, config.embed_dim)
        else:
            self.map = nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.GELU(),
                nn.Linear(4 * width, config.embed_dim),
            )
        aggregated_width = config.embed_dim if self.map_first else width
        self.aggregate = Aggregation(aggregated_width, config.aggregation)

    def forward(
        self, tokens: Tensor, present: Tensor | None = None, packing: Packing | None = None
    ) -> Tensor:
        """Unit rows `[B, E]` of `tokens [B, L, D]`; `present [B, L]` is false at padding.

        Training batches bring their `packing`; without it, it is planned here if needed.
        """
        if self.map_first:  # MbA
            mapped = self.map_each(tokens, present, packing)
            aligned = self.aggregate(mapped, present)
        else:  # AbM
            aggregated = self.aggregate(tokens, present)
            aligned = self.map(aggregated)
        return F.normalize(aligned.float(), dim=-1)

    @property
    def adds_up(self) -> bool:
        """Whether a row is the sum of what each local feature contributes to it."""
        return self.map_first and self.aggregate.is_weighted_sum

    def contributions(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """Parts `[B, L, E]` of the unit rows, one a token; their sum over the tokens is `forward`.

        A token's part is its mapped feature times its weight in the aggregation, over the length of
        the aggregated row; 0 at padding. Only if `adds_up`.
        """
        mapped = self.map_each(tokens, present)
        weighted = self.aggregate.weights(mapped, present) * mapped
        aligned = weighted.float().sum(dim=1, keepdim=True)
        length = aligned.norm(dim=-1, keepdim=True)
        return weighted.float() / length.clamp(min=1e-12)  # `normalize` has the same bound

    def map_each(
        self, tokens: Tensor, present: Tensor | None, packing: Packing | None = None
    ) -> Tensor:
        """Local features `[B, L, E]` in the common space; padding is not mapped but left 0."""
        if present is None:
            return self.map(tokens)
        if packing is None:
            packing = plan_packing(present)
        without_padding = tokens[packing.report, packing.position]
        return packing.pad(self.map(without_padding))


class Aggregation(nn.Module):
    """One vector from many: attention with a learned query, mean or maximum (ours).

    Each dimension attends separately, with its own entry of the query: 0 gives the mean, infinity
    the maximum. A small finding in few tokens must not drown in the mean of all.
    """

    def __init__(self, width: int, how: str):
        super().__init__()
        self.how = how
        if how == "attention":
            self.query = nn.Parameter(torch.full((width,), 5.0))

    def forward(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """`[B, D]` of `tokens [B, L, D]`; `present [B, L]` is false at padding."""
        if self.how == "max":
            return _hide_padding(tokens, present).amax(dim=1)
        return (self.weights(tokens, present) * tokens).sum(dim=1)

    @property
    def is_weighted_sum(self) -> bool:
        """Whether `weights` are those of this aggregation."""
        return self.how in ("attention", "mean", "max")

    def weights(self, tokens: Tensor, present: Tensor | None = None) -> Tensor:
        """`[B, L, D]`, the weight of each token in each dimension, 0 at padding.

        The sum of `weights * tokens` over the tokens is what `forward` returns. Of tokens that
        share a maximum, the first has its weight.
        """
        if self.how == "max":
            winners = _hide_padding(tokens, present).argmax(dim=1, keepdim=True)
            return torch.zeros_like(tokens).scatter(1, winners, 1.0)
        scores = self._scores(tokens)
        return _hide_padding(scores, present).softmax(dim=1)

    def _scores(self, tokens: Tensor) -> Tensor:
        if self.how == "attention":
            return tokens * self.query
        return torch.zeros_like(tokens)  # equal weights: the mean


def _hide_padding(values: Tensor, present: Tensor | None) -> Tensor:
    """`values [B, L, D]` with -inf at padding, which neither maximum nor softmax counts."""
    if present is None:
        return values
    return values.masked_fill(~present[..., None], -torch.inf)


class ImageDecoder(nn.Module):
    """D_v: rebuilds the dropped patches from the features of the kept ones (MAE's; size ours)."""

    def __init__(self, encoder_width: int, config: Config):
        super().__init__()
        width = config.decoder_width
        side = config.image_size // config.patch_size
        self.embed = nn.Linear(encoder_width, width)
        self.register_buffer("positions", build_sincos2d_pos_embed([side, side], width))
        self.blocks = nn.Sequential()
        for _ in range(config.decoder_depth):
            self.blocks.append(Block(width, config.decoder_heads, qkv_bias=True))
        self.norm = nn.LayerNorm(width, eps=1e-6)  # as in MAE
        self.pixels = nn.Linear(width, config.patch_size**2)
        if config.masked_patches == "dropped":  # else the encoder has a mask token
            self.mask_token = nn.Parameter(torch.zeros(width))
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, image_tokens: Tensor, keep: Tensor, dropped: Tensor) -> Tensor:
        """Pixels `[B, m, P]` of the patches `dropped [B, m]`, from the encoder's `image_tokens`.

        The tokens are [CLS], the kept patches, the dropped ones, each with its own position. To
        attention their order makes no difference, so they need not be shuffled back into the
        image's order, and the dropped ones are simply the last m.
        """
        tokens = self.embed(image_tokens)
        if hasattr(self, "mask_token"):
            masked = self.mask_token.expand(*dropped.shape, -1)
            tokens = torch.cat([tokens, masked.to(tokens.dtype)], dim=1)
        patch_positions = self.positions[torch.cat([keep, dropped], dim=1)]
        positions = F.pad(patch_positions, (0, 0, 1, 0))  # zeros for [CLS]
        decoded = self.blocks(tokens + positions)
        count = dropped.shape[1]
        return self.pixels(self.norm(decoded[:, -count:]))
