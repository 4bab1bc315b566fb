"""The stock parts that ours are compared with, made from the same settings, without weights."""

import tempfile

import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from torch import nn
from transformers import BertForMaskedLM, ViTMAEConfig, ViTMAEForPreTraining

from mcrlib.config import Config
from mcrlib.data.batches import Batch
from mcrlib.model import MCR


def mae(c: Config) -> ViTMAEForPreTraining:
    """transformers' ViTMAE with the encoder and decoder of the config."""
    return ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=c.vision_width, num_hidden_layers=c.vision_depth,
            num_attention_heads=c.vision_heads, intermediate_size=4 * c.vision_width,
            image_size=c.image_size, patch_size=c.patch_size, num_channels=1,
            decoder_hidden_size=c.decoder_width, decoder_num_hidden_layers=c.decoder_depth,
            decoder_num_attention_heads=c.decoder_heads,
            decoder_intermediate_size=4 * c.decoder_width, mask_ratio=c.image_mask,
            norm_pix_loss=True, layer_norm_eps=1e-6,
        )
    )  # fmt: skip


def load_mae(ours: MCR, stock: ViTMAEForPreTraining) -> None:
    """Copy a stock ViTMAE's weights into MCR's image encoder and decoder, one to one."""
    vit, decoder = ours.image_encoder.vit, ours.image_decoder
    with torch.no_grad():
        vit.cls_token.copy_(stock.vit.embeddings.cls_token)
        vit.pos_embed.copy_(stock.vit.embeddings.position_embeddings)
        decoder.mask_token.copy_(stock.decoder.mask_token[0, 0])
        decoder.positions.copy_(stock.decoder.decoder_pos_embed[0, 1:])
    vit.patch_embed.proj.load_state_dict(
        stock.vit.embeddings.patch_embeddings.projection.state_dict()
    )
    vit.norm.load_state_dict(stock.vit.layernorm.state_dict())
    decoder.embed.load_state_dict(stock.decoder.decoder_embed.state_dict())
    decoder.norm.load_state_dict(stock.decoder.decoder_norm.state_dict())
    decoder.pixels.load_state_dict(stock.decoder.decoder_pred.state_dict())
    layers = [*stock.vit.layers, *stock.decoder.decoder_layers]
    for block, layer in zip([*vit.blocks, *decoder.blocks], layers, strict=True):
        _load_layer(block, layer)


def _load_layer(block: nn.Module, layer: nn.Module) -> None:
    attention = layer.attention
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    with torch.no_grad():
        block.attn.qkv.weight.copy_(torch.cat([p.weight for p in projections]))
        block.attn.qkv.bias.copy_(torch.cat([p.bias for p in projections]))
    block.attn.proj.load_state_dict(attention.o_proj.state_dict())
    block.norm1.load_state_dict(layer.layernorm_before.state_dict())
    block.norm2.load_state_dict(layer.layernorm_after.state_dict())
    block.mlp.fc1.load_state_dict(layer.mlp.fc1.state_dict())
    block.mlp.fc2.load_state_dict(layer.mlp.fc2.state_dict())


class Composition(nn.Module):
    """What one writes first: ViTMAE and BertForMaskedLM as they come, with a stream each for the
    contrast (unmasked, first token) and for reconstruction; reports padded, all positions scored.
    """

    def __init__(self, ours: MCR):
        super().__init__()
        c = ours.config
        self.mae, self.language_model = mae(c), BertForMaskedLM(ours.bert_config)
        self.image = nn.Linear(c.vision_width, c.embed_dim)
        self.report = nn.Linear(c.text_width, c.embed_dim)
        self.mask_token = ours.tokenizer.mask_token_id

    def forward(self, batch: Batch) -> torch.Tensor:
        given = {"attention_mask": batch.present.long()}
        self.mae.config.mask_ratio = 0.0
        image = self.image(self.mae.vit(batch.pixels).last_hidden_state[:, 0])
        report = self.language_model.bert(batch.tokens, **given).last_hidden_state[:, 0]
        cosines = nn.functional.normalize(image) @ nn.functional.normalize(self.report(report)).T
        partner = torch.arange(len(cosines), device=cosines.device)
        contrast = sum(nn.functional.cross_entropy(s / 0.07, partner) for s in (cosines, cosines.T))
        self.mae.config.mask_ratio = 0.5
        labels = batch.tokens.masked_fill(~batch.masked, -100)
        shown = batch.tokens.masked_fill(batch.masked, self.mask_token)
        masked = self.language_model(shown, labels=labels, **given)
        return 0.1 * contrast / 2 + self.mae(batch.pixels).loss + masked.loss


def clip(c: Config, bert: dict, context: int) -> CustomTextCLIP:
    """open_clip's model with ViT-B/16, half of the patches dropped, and a BERT text tower."""
    with tempfile.TemporaryDirectory() as folder:
        BertForMaskedLM.config_class(**bert).save_pretrained(folder)
        vision = CLIPVisionCfg(image_size=c.image_size, patch_dropout=c.image_mask)
        text = CLIPTextCfg(context, hf_model_name=folder, hf_model_pretrained=False)
        return CustomTextCLIP(c.embed_dim, vision, text)
