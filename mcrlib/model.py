"""MCR, Figure 2 of the paper: encoders E, mappings F with aggregation, decoders D.

`MCR.forward` is the table of contents. In shapes, B is the pairs of a batch, n the patches of an
image, k those kept, m those dropped, P the pixels of a patch, T the tokens of the longest report,
D an encoder's width and E the common space's. Masks have the polarity of `mcrlib.masking`.
"""

import functools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from huggingface_hub import snapshot_download
from PIL import Image
from safetensors.torch import load_model, save_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from mcrlib import config as settings
from mcrlib import distributed, losses, pretrained
from mcrlib.data import batches, images
from mcrlib.masking import dropped_patches
from mcrlib.modules import Head, ImageDecoder, ImageEncoder, ReportEncoder, gather


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

    def forward(
        self, batch: batches.Batch, contrast: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The terms of the loss, `vrc`, `mim`, `mrm`, and their weighted sum `loss` (Figure 2).

        The usual framework (Figure 1a, variant `dual`) differs in the contrast only: it encodes
        the unmasked input once more. A term without weight is neither computed nor returned.
        `contrast(S^v, S^r)` takes the place of L_vrc (`mcrlib.training.two_pass`).
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
                terms["mrm"] = terms["mrm"] * distributed.weight(masked.sum())

        return {"loss": self.weighted(terms), **terms}

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """The loss: the sum of its terms with the config's weights."""
        return sum(getattr(self.config, f"{name}_weight") * term for name, term in terms.items())

    def contrast(self, image: Tensor, report: Tensor) -> Tensor:
        """L_vrc of the rows S^v and S^r `[B, E]`, and of those of the other distributed."""
        image, report = distributed.gathered(image), distributed.gathered(report)
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
            squares = [_read_square(picture, self.config.cache_size) for picture in chosen]
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
        record = {"config": self.config.model_dump(mode="json"), "bert": self.bert.to_dict()}
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
        config = settings.load(**settings.current_names(record["config"]))
        model = cls(
            config,
            BertTokenizer.from_pretrained(folder),
            pretrained.load_vit(config, pretrained=False),
            BertForMaskedLM(BertConfig.from_dict(record["bert"])),
        )
        load_model(model, folder / "model.safetensors", strict=True)
        return model.eval()


def _read_square(picture, size: int) -> np.ndarray:
    if isinstance(picture, Image.Image):
        picture = np.asarray(picture if picture.mode.startswith("I") else picture.convert("L"))
    try:
        return images.read(Path(picture) if isinstance(picture, str) else picture, size)
    except ValueError as error:
        name = picture if isinstance(picture, (str, Path)) else "A radiograph"
        raise ValueError(f"{name} cannot be embedded: {error}.") from None
