"""The stock models that ours are compared with: same settings as ours, random weights."""

import tempfile

import torch
import torch.nn.functional as F
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from torch import nn
from transformers import BertForMaskedLM, ViTMAEConfig, ViTMAEForPreTraining

from mcrlib.config import Config
from mcrlib.data.batches import Batch
from mcrlib.model import MCR


def mae(config: Config) -> ViTMAEForPreTraining:
    """transformers' ViTMAE with the config's encoder and decoder."""
    encoder = {
        "hidden_size": config.vision_width,
        "num_hidden_layers": config.vision_depth,
        "num_attention_heads": config.vision_heads,
        "intermediate_size": 4 * config.vision_width,
    }
    decoder = {
        "decoder_hidden_size": config.decoder_width,
        "decoder_num_hidden_layers": config.decoder_depth,
        "decoder_num_attention_heads": config.decoder_heads,
        "decoder_intermediate_size": 4 * config.decoder_width,
    }
    stock_config = ViTMAEConfig(
        **encoder,
        **decoder,
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_channels=1,
        mask_ratio=config.image_mask,
        norm_pix_loss=True,
        layer_norm_eps=1e-6,
    )
    return ViTMAEForPreTraining(stock_config)


def load_mae(ours: MCR, stock: ViTMAEForPreTraining) -> None:
    """Copy a stock ViTMAE's weights into MCR's image encoder and decoder, one to one."""
    vit = ours.image_encoder.vit
    embeddings = stock.vit.embeddings
    with torch.no_grad():
        vit.cls_token.copy_(embeddings.cls_token)
        vit.pos_embed.copy_(embeddings.position_embeddings)
    _load(vit.patch_embed.proj, embeddings.patch_embeddings.projection)
    _load(vit.norm, stock.vit.layernorm)
    for block, layer in zip(vit.blocks, stock.vit.layers, strict=True):
        _load_layer(block, layer)

    decoder = ours.image_decoder
    positions = stock.decoder.decoder_pos_embed[0]
    with torch.no_grad():
        decoder.mask_token.copy_(stock.decoder.mask_token[0, 0])
        decoder.positions.copy_(positions[1:])  # without the class token's
    _load(decoder.embed, stock.decoder.decoder_embed)
    _load(decoder.norm, stock.decoder.decoder_norm)
    _load(decoder.pixels, stock.decoder.decoder_pred)
    for block, layer in zip(decoder.blocks, stock.decoder.decoder_layers, strict=True):
        _load_layer(block, layer)


def _load(ours: nn.Module, stock: nn.Module) -> None:
    ours.load_state_dict(stock.state_dict())


def _load_layer(block: nn.Module, layer: nn.Module) -> None:
    """Copy one transformer layer; timm keeps query, key and value in a single projection."""
    attention = layer.attention
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    weights = [projection.weight for projection in projections]
    biases = [projection.bias for projection in projections]
    with torch.no_grad():
        block.attn.qkv.weight.copy_(torch.cat(weights))
        block.attn.qkv.bias.copy_(torch.cat(biases))
    _load(block.attn.proj, attention.o_proj)
    _load(block.norm1, layer.layernorm_before)
    _load(block.norm2, layer.layernorm_after)
    _load(block.mlp.fc1, layer.mlp.fc1)
    _load(block.mlp.fc2, layer.mlp.fc2)


class Composition(nn.Module):
    """What one would write first: ViTMAE and BertForMaskedLM, used unchanged.

    Each encoder runs twice: unmasked for the contrast of first tokens, and masked for the
    reconstruction. Reports are padded, and the language model scores every position.
    """

    def __init__(self, ours: MCR):
        super().__init__()
        config = ours.config
        self.mae = mae(config)
        self.language_model = BertForMaskedLM(ours.bert_config)
        self.image = nn.Linear(config.vision_width, config.embed_dim)
        self.report = nn.Linear(config.text_width, config.embed_dim)
        self.mask_token = ours.tokenizer.mask_token_id

    def forward(self, batch: Batch) -> torch.Tensor:
        """The weighted sum of the three losses of a batch, a scalar."""
        attention_mask = batch.present.long()
        contrast = self._contrast(batch, attention_mask)

        self.mae.config.mask_ratio = 0.5
        labels = batch.tokens.masked_fill(~batch.masked, -100)
        shown = batch.tokens.masked_fill(batch.masked, self.mask_token)
        masked_report = self.language_model(shown, labels=labels, attention_mask=attention_mask)
        masked_image = self.mae(batch.pixels)
        return 0.1 * contrast / 2 + masked_image.loss + masked_report.loss

    def _contrast(self, batch: Batch, attention_mask: torch.Tensor) -> torch.Tensor:
        """Sum of both directions' cross-entropies, with nothing masked."""
        self.mae.config.mask_ratio = 0.0
        image_tokens = self.mae.vit(batch.pixels).last_hidden_state
        image = self.image(image_tokens[:, 0])
        bert = self.language_model.bert
        report_tokens = bert(batch.tokens, attention_mask=attention_mask).last_hidden_state
        report = self.report(report_tokens[:, 0])
        cosines = F.normalize(image) @ F.normalize(report).T
        partners = torch.arange(len(cosines), device=cosines.device)
        image_to_report = F.cross_entropy(cosines / 0.07, partners)
        report_to_image = F.cross_entropy(cosines.T / 0.07, partners)
        return image_to_report + report_to_image


def clip(config: Config, bert: dict, context: int) -> CustomTextCLIP:
    """open_clip's model: ViT-B/16 that drops half of the patches, and a BERT text tower.

    `bert` holds the settings of the BERT, `context` is the number of tokens of a report.
    """
    bert_config = BertForMaskedLM.config_class(**bert)
    vision = CLIPVisionCfg(image_size=config.image_size, patch_dropout=config.image_mask)
    with tempfile.TemporaryDirectory() as folder:
        bert_config.save_pretrained(folder)
        text = CLIPTextCfg(context, hf_model_name=folder, hf_model_pretrained=False)
        return CustomTextCLIP(config.embed_dim, vision, text)
