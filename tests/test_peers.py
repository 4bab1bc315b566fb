"""Other people's dual encoders: their own libraries' embeddings, in the tables of a run."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from mcrlib import config, results, tables
from mcrlib.companion import analyses, captions, dual_encoders, peers

ROOT = Path(__file__).parents[1]
FORMATS = ("clip", "siglip", "siglip2", "open_clip", "open_clip_bert")
LETTERS = [*"abcdefghijklmnopqrstuvwxyz0123456789.,:;-/()"]
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    # Larger than usual, so that random encoders tell inputs apart.
    "initializer_range": 0.5,
}
MEAN = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


def save_clip(folder):
    ends = ["<|startoftext|>", "<|endoftext|>"]
    words = [*LETTERS, *[f"{letter}</w>" for letter in LETTERS], *ends]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=24)
    marks = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    text = TOWER | marks | {"vocab_size": len(words), "max_position_embeddings": 24}
    vision = TOWER | {"image_size": 32, "patch_size": 8}
    model_config = transformers.CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=24
    )
    transformers.CLIPModel(model_config).save_pretrained(folder)
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=32)
    transformers.CLIPProcessor(pictures, tokenizer).save_pretrained(folder)


def save_siglip(folder, tokenizer):
    tokenizer.save_pretrained(folder)
    tokenizer = transformers.BertTokenizer.from_pretrained(
        folder, model_max_length=20, model_input_names=["input_ids"]
    )
    text = TOWER | {"vocab_size": len(tokenizer), "max_position_embeddings": 20}
    vision = TOWER | {"image_size": 32, "patch_size": 8}
    text |= {"projection_size": 32, "bos_token_id": None, "eos_token_id": None}
    model_config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    transformers.SiglipModel(model_config).save_pretrained(folder)
    pictures = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    transformers.SiglipProcessor(pictures, tokenizer).save_pretrained(folder)


def save_siglip2(folder):
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = transformers.Siglip2Tokenizer(
        vocab=vocabulary, merges=[], model_input_names=["input_ids"], padding_side="right"
    )
    text = TOWER | {"vocab_size": len(words), "max_position_embeddings": 64, "projection_size": 32}
    text |= {"bos_token_id": 2, "eos_token_id": 1}
    vision = TOWER | {"num_patches": 16, "patch_size": 16}
    model_config = transformers.Siglip2Config(text_config=text, vision_config=vision)
    transformers.Siglip2Model(model_config).save_pretrained(folder)
    pictures = transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=256)
    transformers.Siglip2Processor(pictures, tokenizer).save_pretrained(folder)


def save_open_clip(folder):
    folder.mkdir()
    vision = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    model = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    save_file(open_clip.CLIP(**model).state_dict(), folder / "open_clip_model.safetensors")
    record = {"model_cfg": model, "preprocess_cfg": MEAN | {"resize_mode": "shortest"}}
    (folder / "open_clip_config.json").write_text(json.dumps(record))


def save_open_clip_bert(folder, tokenizer):
    """As BiomedCLIP is saved: a timm ViT and a BERT that is named as on the hub."""
    tokenizer.save_pretrained(folder)
    bert = {"vocab_size": len(tokenizer), "max_position_embeddings": 20}
    transformers.BertConfig(**TOWER, **bert).save_pretrained(folder / "TinyBERT")
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"}
    text = {
        "hf_model_name": "nobody/TinyBERT",
        "hf_tokenizer_name": "nobody/TinyBERT",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 12,
    }
    model = {"embed_dim": 24, "vision_cfg": vision | {"image_size": 64}, "text_cfg": text}
    record = {"model_cfg": model, "preprocess_cfg": MEAN | {"interpolation": "bicubic"}}
    (folder / "open_clip_config.json").write_text(json.dumps(record))
    weights = bert_tower(folder).state_dict()
    torch.save(weights, folder / "open_clip_pytorch_model.bin")


def bert_tower(folder):
    """The model of `save_open_clip_bert` with random weights."""
    model = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    name = {"hf_model_name": str(folder / "TinyBERT"), "hf_model_pretrained": False}
    return open_clip.CustomTextCLIP(**model | {"text_cfg": model["text_cfg"] | name})


@pytest.fixture(scope="session")
def saved(tmp_path_factory, tokenizer):
    """A folder with a small random model in each format."""
    folder = tmp_path_factory.mktemp("peers")
    torch.manual_seed(0)
    save_clip(folder / "clip")
    save_siglip(folder / "siglip", tokenizer)
    save_siglip2(folder / "siglip2")
    save_open_clip(folder / "open_clip")
    save_open_clip_bert(folder / "open_clip_bert", tokenizer)
    return folder


@pytest.fixture
def folder_of(saved, tmp_path):
    """A copy of a saved model that a test may damage."""

    def copy(name):
        return Path(shutil.copytree(saved / name, tmp_path / f"copy of {name}"))

    return copy


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def by_transformers(folder, pictures, texts):
    """Rows by the library's own calls, one input at a time."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    family = model.config.model_type
    length = model.config.text_config.max_position_embeddings
    padding = {"clip": True}.get(family, "max_length")
    images, reports = [], []
    for picture in pictures:
        inputs = processor(images=picture, return_tensors="pt")
        images.append(model.get_image_features(**inputs).pooler_output)
    for text in texts:
        inputs = processor(
            text=[text], padding=padding, truncation=True, max_length=length, return_tensors="pt"
        )
        reports.append(model.get_text_features(**inputs).pooler_output)
    return torch.cat(images), torch.cat(reports)


def by_open_clip(folder, pictures, texts):
    name = f"local-dir:{folder}"
    if (folder / "TinyBERT").is_dir():
        model = bert_tower(folder)
        model.load_state_dict(torch.load(folder / "open_clip_pytorch_model.bin"))
        cfg = PreprocessCfg(size=64, **MEAN)
        preprocess = image_transform_v2(cfg, is_train=False)
    else:
        model, preprocess = open_clip.create_model_from_pretrained(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    images = [model.encode_image(preprocess(picture)[None]) for picture in pictures]
    reports = [model.encode_text(tokenizer([text])) for text in texts]
    return torch.cat(images), torch.cat(reports)


@pytest.mark.parametrize("name", FORMATS)
def test_embeddings_are_those_of_the_library_in_order_whatever_the_batch(saved, dataset, name):
    squares = dataset.images[:7]
    texts = ["No effusion.", "", *dataset.frame["report"][:5]]
    by_library = by_open_clip if name.startswith("open_clip") else by_transformers
    pictures = [Image.fromarray(square).convert("RGB") for square in squares]
    with torch.no_grad():
        images, reports = by_library(saved / name, pictures, texts)
    encoder = dual_encoders.open_encoder(saved / name)
    for batch_size in (1, 3, 64):
        for rows, expected in (
            (encoder.embed_images(squares, batch_size), images),
            (encoder.embed_reports(texts, batch_size), reports),
        ):
            assert rows.dtype == np.float32
            np.testing.assert_allclose(rows, normalize(expected, dim=1).numpy(), atol=2e-6)
            apart = np.linalg.norm(rows[:, None] - rows, axis=2) + np.eye(len(rows))
            assert apart.min() > 1e-4


@pytest.mark.parametrize("name", FORMATS)
def test_cut_texts_are_counted(saved, name):
    encoder = dual_encoders.open_encoder(saved / name)
    words = ["no "] * (encoder.most_tokens * 2)
    short = next(n for n in range(1, len(words)) if encoder.count_cut(["".join(words[:n])])) - 1
    kept, cut = "".join(words[:short]), "".join(words[: short + 1])
    assert encoder.count_cut([kept, cut, kept]) == 1
    # What was cut is not seen; what was kept is.
    more = "".join(words[: short + 4])
    fewer = "".join(words[: short - 2])
    rows = encoder.embed_reports([cut, more, kept, fewer])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    assert np.abs(rows[2] - rows[3]).max() > 1e-5


def test_weights_are_read_from_both_kinds_of_file(folder_of, dataset):
    for name, safe, other in (
        ("clip", "model.safetensors", "pytorch_model.bin"),
        ("open_clip", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    ):
        folder = folder_of(name)
        texts = dataset.frame["report"][:3].tolist()
        before = dual_encoders.open_encoder(folder).embed_reports(texts)
        torch.save(load_file(folder / safe), folder / other)
        (folder / safe).unlink()
        after = dual_encoders.open_encoder(folder).embed_reports(texts)
        np.testing.assert_array_equal(before, after)


def test_a_folder_of_an_older_transformers_is_the_same_model(folder_of, dataset):
    """As PubMedCLIP is on the hub: other files, a position per token among the weights, and no
    word about the classes that read them."""
    folder = folder_of("clip")
    texts = dataset.frame["report"][:3].tolist()
    before = dual_encoders.open_encoder(folder)
    weights = load_file(folder / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(24)[None]
    weights["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(weights, folder / "pytorch_model.bin")
    vocabulary = before.tokenizer.get_vocab()
    for name in ("model.safetensors", "processor_config.json", "tokenizer.json"):
        (folder / name).unlink()
    pictures = {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "do_resize": True,
        "size": 40,
        "resample": 3,
        "do_center_crop": True,
        "crop_size": 32,
        "do_normalize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 24}')
    after = dual_encoders.open_encoder(folder)
    squares = dataset.images[:3]
    np.testing.assert_allclose(after.embed_images(squares), before.embed_images(squares), atol=1e-6)
    np.testing.assert_array_equal(after.embed_reports(texts), before.embed_reports(texts))


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    ("name", "safe", "other"),
    [
        ("clip", "model.safetensors", "pytorch_model.bin"),
        ("open_clip", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    ],
)
def test_no_code_in_weights_is_run(folder_of, tmp_path, name, safe, other):
    folder = folder_of(name)
    (folder / safe).unlink()
    harm = tmp_path / "harm"
    (folder / other).write_bytes(pickle.dumps({"weight": Harm(harm)}))
    with pytest.raises(ValueError, match="download"):
        dual_encoders.open_encoder(folder)
    assert not harm.exists()


def change_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(file, change):
    """Apply `change` to the weights in a file, and save what it returns."""
    save_file(change(load_file(file)), file)


def without_one(weights):
    weights.pop(next(name for name in weights if "proj" in name))
    return weights


def with_nan(weights):
    next(iter(weights.values())).fill_(float("nan"))
    return weights


def wider(weights):
    name = next(name for name in weights if name.endswith("final_layer_norm.weight"))
    return weights | {name: torch.ones(33)}


CLIP, OPEN = "model.safetensors", "open_clip_model.safetensors"
DAMAGES = {
    "no weights": ("clip", lambda f: (f / CLIP).unlink(), "holds none of model.safetensors"),
    "a missing weight": ("clip", lambda f: change_weights(f / CLIP, without_one), "lacks 1 of"),
    "a weight of NaN": ("clip", lambda f: change_weights(f / CLIP, with_nan), "not finite"),
    "a weight of another shape": (
        "clip",
        lambda f: change_weights(f / CLIP, wider),
        "other shapes .* text_model.final_layer_norm",
    ),
    "weights cut off": ("clip", lambda f: os.truncate(f / CLIP, 999), "download it again"),
    "weights in parts": (
        "clip",
        lambda f: (f / CLIP).rename(f / "model.safetensors.index.json"),
        "several parts",
    ),
    "another family": (
        "clip",
        lambda f: change_json(f / "config.json", model_type="bert"),
        "type 'bert', but only clip, siglip, siglip2",
    ),
    "no settings": ("clip", lambda f: (f / "config.json").unlink(), "holds neither config.json"),
    "damaged settings": ("clip", lambda f: (f / "config.json").write_text("{"), "damaged"),
    "no vocabulary": ("clip", lambda f: (f / "tokenizer.json").unlink(), "vocabulary"),
    "no processor": ("siglip", lambda f: (f / "processor_config.json").unlink(), "processor"),
    "a missing package": (
        "siglip",
        lambda f: change_json(f / "tokenizer_config.json", tokenizer_class="SiglipTokenizer"),
        "install sentencepiece with pip",
    ),
    "open_clip: no weights": ("open_clip", lambda f: (f / OPEN).unlink(), "holds none of"),
    "open_clip: a missing weight": (
        "open_clip",
        lambda f: change_weights(f / OPEN, without_one),
        "Missing key",
    ),
    "open_clip: a weight of NaN": (
        "open_clip",
        lambda f: change_weights(f / OPEN, with_nan),
        "not finite",
    ),
    "open_clip: damaged settings": (
        "open_clip",
        lambda f: (f / "open_clip_config.json").write_text("[]"),
        "damaged",
    ),
    "open_clip: no model": (
        "open_clip",
        lambda f: (f / "open_clip_config.json").write_text("{}"),
        "lacks model_cfg",
    ),
    "open_clip: no vocabulary": (
        "open_clip_bert",
        lambda f: (f / "tokenizer.json").unlink(),
        "vocabulary",
    ),
    "open_clip: no configuration of the texts' encoder": (
        "open_clip_bert",
        lambda f: shutil.rmtree(f / "TinyBERT"),
        "hf download nobody/TinyBERT config.json --local-dir .*TinyBERT",
    ),
    "open_clip: code": (
        "open_clip_bert",
        lambda f: change_json(f / "TinyBERT" / "config.json", auto_map={"AutoModel": "x.Y"}),
        "code",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_read_is_one_sentence_with_the_folder(folder_of, damage, monkeypatch):
    name, change, reason = DAMAGES[damage]
    if damage == "a missing package" and "sentencepiece" in sys.modules:
        pytest.skip("sentencepiece is installed")
    folder = folder_of(name)
    change(folder)
    with pytest.raises((ValueError, OSError, ImportError), match=reason) as caught:
        dual_encoders.open_encoder(folder)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message


def test_the_texts_encoder_may_be_configured_elsewhere(folder_of, tmp_path):
    """As people write a path of their own into BiomedCLIP's settings to load it without network."""
    folder = folder_of("open_clip_bert")
    before = dual_encoders.open_encoder(folder).embed_reports(["No effusion."])
    elsewhere = tmp_path / "elsewhere"
    (folder / "TinyBERT").rename(elsewhere)
    file = folder / "open_clip_config.json"
    file.write_text(file.read_text().replace('"nobody/TinyBERT"', f'"{elsewhere}"'))
    after = dual_encoders.open_encoder(folder).embed_reports(["No effusion."])
    np.testing.assert_array_equal(before, after)


def test_a_name_on_the_hub_without_network_gives_the_command():
    with pytest.raises(FileNotFoundError, match="hf download nobody/nothing --local-dir FOLDER"):
        dual_encoders.find_folder("nobody/nothing")
    with pytest.raises(FileNotFoundError, match="neither a folder nor a name on the hub"):
        dual_encoders.find_folder("/no/such/folder")


def test_a_cached_model_of_the_hub_is_found_without_network(saved, tmp_path, monkeypatch):
    """The hub's cache as the library lays it out, with one of the two kinds of weights."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--nobody--clip"
    snapshot = repository / "snapshots" / ("a" * 40)
    shutil.copytree(saved / "clip", snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    assert dual_encoders.find_folder("nobody/clip") == snapshot


@pytest.mark.parametrize(
    "name",
    [
        *("", "a b", "../x", "a/b", "-x", "x-", "x_y", "é", "x--y", "$(touch harm)"),
        *("mcr", "dual", "MCR", "image-mask-25", "tfidf", "chance", "oracle", "floor", "ceiling"),
        *("clip", "x-seed1", "x-SEED"),
    ],
)
def test_a_name_that_tables_cannot_have_is_refused(name):
    with pytest.raises(ValueError, match=r"(cannot be a model's name|name of one of our models)"):
        peers.check_name(name)


@pytest.mark.parametrize("name", ["pubmedclip", "MedSigLIP-448", "biomedclip", "2nd", "seed"])
def test_other_names_are_taken(name):
    peers.check_name(name)


@pytest.fixture
def project(tmp_path, dataset, monkeypatch):
    """A project with the smoke run's pairs and nothing else."""
    shutil.copytree(dataset.folder, tmp_path / "data" / "smoke")
    monkeypatch.setattr(config, "ROOT", tmp_path)
    return tmp_path


def save_random(name, dataset, seed=0, noise=1.0):
    """Embeddings of our own: partners alike but for noise."""
    random = np.random.default_rng(seed)
    for split in peers.SPLITS:
        frame = dataset.frame.iloc[dataset.indices(split)]
        image = random.normal(size=(len(frame), 16))
        report = image + noise * random.normal(size=image.shape)
        file = f"results/smoke/{name}-seed0/embeddings-{split}.npz"
        results.save_embeddings(file, image, report, frame["pair_id"])


def test_a_peer_is_embedded_once_and_its_inputs_are_recorded(project, saved, dataset, capsys):
    folder = peers.add("smoke", "peer", str(saved / "clip"))
    said = capsys.readouterr().out
    assert "pictures of 32 pixels, texts of up to 24 tokens" in said
    assert "test: 48 pairs, 24 dimensions, 48 reports cut at 24 tokens" in said
    assert "enlarged" not in said  # 96 pixels are more than 32
    for split in peers.SPLITS:
        file = folder / f"embeddings-{split}.npz"
        rows = dataset.indices(split)
        frame = dataset.frame.iloc[rows]
        image, report = results.load_embeddings(file, frame["pair_id"].tolist())
        encoder = dual_encoders.open_encoder(saved / "clip")
        np.testing.assert_allclose(image, encoder.embed_images(dataset.images[rows]), atol=1e-6)
        texts = frame["report"].tolist()
        np.testing.assert_allclose(report, encoder.embed_reports(texts), atol=1e-6)
        recorded = results.made_from(file)
        assert recorded["dataset"] == dataset.info["dataset_sha256"][:16]
        assert recorded["peer"] == "peer" and recorded["pairs"] == "phantom"
    capsys.readouterr()
    peers.add("smoke", "peer", str(saved / "clip"))
    assert "kept" in capsys.readouterr().out
    (folder / "embeddings-test.npz").unlink()  # as if the first call had been killed
    peers.add("smoke", "peer", str(saved / "clip"))
    said = capsys.readouterr().out
    assert "test: 48 pairs" in said and "validate" not in said


def test_other_weights_under_a_name_and_other_methods_are_refused(project, saved, dataset):
    peers.add("smoke", "peer", str(saved / "clip"))
    with pytest.raises(ValueError, match=r"made with other weights.* choose another NAME"):
        peers.add("smoke", "peer", str(saved / "siglip"))
    save_random("mine", dataset)
    with pytest.raises(ValueError, match="not made by `make peer`"):
        peers.add("smoke", "mine", str(saved / "clip"))


def test_a_changed_tokenizer_is_another_model(project, folder_of):
    folder = folder_of("clip")
    peers.add("smoke", "peer", str(folder))
    change_json(folder / "tokenizer_config.json", model_max_length=12)
    with pytest.raises(ValueError, match="other weights, configuration or tokenizer"):
        peers.add("smoke", "peer", str(folder))


def test_other_pairs_are_noticed_and_embedded_anew(project, saved, dataset, capsys):
    folder = peers.add("smoke", "peer", str(saved / "clip"))
    file = folder / "embeddings-test.npz"
    pair_id = dataset.frame["pair_id"].iloc[dataset.indices("test")].tolist()
    image, report = results.load_embeddings(file, pair_id)
    old = results.made_from(file) | {"dataset": "0" * 16}
    results.save_embeddings(file, image, report, pair_id, made_from=old)
    with pytest.raises(ValueError, match="make peer RUN=smoke NAME=peer WEIGHTS="):
        results.input_hashes("smoke")
    peers.add("smoke", "peer", str(saved / "clip"))
    results.input_hashes("smoke")
    assert "test: 48 pairs" in capsys.readouterr().out


def test_small_prepared_pictures_are_said(project, dataset, folder_of, capsys):
    folder = folder_of("open_clip")
    record = json.loads((folder / "open_clip_config.json").read_text())
    record["model_cfg"]["vision_cfg"] |= {"image_size": 128, "patch_size": 64}
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**record["model_cfg"]).state_dict(), folder / OPEN)
    (folder / "open_clip_config.json").write_text(json.dumps(record))
    peers.add("smoke", "peer", str(folder))
    said = capsys.readouterr().out
    assert "have only 96 pixels and are enlarged" in said and "cache_size: 128" in said


@pytest.mark.parametrize(
    ("run", "name", "weights", "reason"),
    [
        ("smoke", "peer", "", "WEIGHTS is not set"),
        ("smoke", "", "x/y", "cannot be a model's name"),
        ("reference", "peer", "x/y", "only draws"),
        ("demo", "peer", "x/y", "no prepared data"),
        ("smoke", "peer", "nobody/nothing", "hf download nobody/nothing"),
    ],
)
def test_the_command_ends_with_a_sentence(project, run, name, weights, reason):
    message = peers.main([run, name, weights])
    assert reason in message and "\n" not in message
    assert not (project / "results").exists()


def test_what_a_peer_can_do_cannot_be_told_on_drawn_pairs(project, saved, dataset):
    save_random("mcr", dataset)
    save_random("mine", dataset, seed=1, noise=3.0)
    (alone,) = analyses.retrieve("smoke", draws=20).verdicts.values
    assert peers.note("smoke") == ""
    peers.add("smoke", "peer", str(saved / "clip"))
    retrieval = analyses.retrieve("smoke", draws=20)
    assert set(retrieval.by_variant) == {"mcr", "mine", "peer"}
    mine, peer = retrieval.verdicts.values
    assert mine == alone  # the peer does not count in Holm's correction
    assert peer["variants"] == ["mcr", "peer"]
    table = tables.verdict_table(retrieval.verdicts.values)
    assert table["verdict"].tolist()[1] == "cannot be told here" and not table["p"][1]
    for caption in (
        captions.recall("smoke", retrieval, "pair"),
        captions.verdicts("smoke", retrieval),
        captions.recall_figure("smoke", retrieval, "pair"),
    ):
        assert "What peer can do cannot be told here" in caption


def test_on_pairs_of_patients_a_peer_is_a_model_like_others(project, saved, dataset):
    save_random("mcr", dataset)
    folder = peers.add("smoke", "peer", str(saved / "clip"))
    pair_id = dataset.frame["pair_id"].iloc[dataset.indices("test")].tolist()
    file = folder / "embeddings-test.npz"
    image, report = results.load_embeddings(file, pair_id)
    real = results.made_from(file) | {"pairs": "openi"}
    results.save_embeddings(file, image, report, pair_id, made_from=real)
    (verdict,) = analyses.retrieve("smoke", draws=20).verdicts.values
    assert verdict["verdict"] in ("better", "worse", "open") and verdict["seeds"] == 1
    assert peers.note("smoke") == ""


def test_peers_alone_are_shown(project, saved):
    peers.add("smoke", "peer", str(saved / "clip"))
    retrieval = analyses.retrieve("smoke", draws=20)
    assert set(retrieval.by_variant) == {"peer"} and retrieval.verdicts.values == []


def test_make_peer_puts_the_model_beside_ours(project, saved):
    binaries = Path(sys.executable).parent
    environment = os.environ | {
        "MCR_HOME": str(project),
        "MCR_PLAIN": "1",
        "HF_ENDPOINT": "http://127.0.0.1:9",  # no network, and nobody has said so
        "VIRTUAL_ENV": str(binaries.parent),
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("MAKEFLAGS", None)
    words = ["make", "peer", "RUN=smoke", "NAME=tiny", f"WEIGHTS={saved / 'open_clip_bert'}"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "make tables figures RUN=smoke" in done.stdout
    assert "What tiny can do cannot be told here" in done.stdout
    assert list(results.embedding_files("smoke")) == ["tiny"]


@pytest.mark.whole
def test_notebook_03_shows_the_peer(project, saved, dataset):
    save_random("mcr", dataset)
    peers.add("smoke", "tiny", str(saved / "clip"))
    executed = project / "03.ipynb"
    command = [sys.executable, "-m", "mcrlib.companion.execute", "notebooks/03_retrieval.ipynb"]
    environment = os.environ | {"MCR_HOME": str(project), "MCR_PLAIN": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, executed, "run=smoke", "draws=20"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "cannot be told here" in executed.read_text()
    folder = project / "results" / "smoke"
    assert "tiny" in (folder / "recall.csv").read_text()
    assert "What tiny can do cannot be told here" in (folder / "recall.tex").read_text()
