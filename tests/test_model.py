"""The model against the paper's statements and against the stock implementations of its parts."""

import io
import itertools
import json

import numpy as np
import pandas as pd
import pytest
import stock
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_model
from torch import nn
from transformers import BertForMaskedLM

from mcrlib import losses
from mcrlib.config import VARIANTS
from mcrlib.data.batches import SplitPairs
from mcrlib.masking import dropped_patches, gather_patches
from mcrlib.model import MCR
from mcrlib.packing import pack_rows

DRAW = torch.Generator().manual_seed(0)


@pytest.fixture
def heads(build):
    """A MbA and an AbM head for tokens of width 64, as wide in the common space."""
    return build(alignment="mba").image_head, build(alignment="abm").image_head


def prefixes(lengths, width):
    """`present [B, width]` of reports of these lengths."""
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def random_keep(images):
    """`keep [B, 18]`, half of 36 patches."""
    shuffled = torch.rand(images, 36, generator=DRAW).argsort(dim=1)
    return shuffled[:, :18].sort(dim=1).values


@pytest.mark.parametrize("aggregation", ["mean", "attention", "max"])
def test_a_linear_mapping_makes_both_orders_equal_under_the_mean_only(build, aggregation):
    heads = []
    for alignment in ("mba", "abm"):
        model = build(alignment=alignment, aggregation=aggregation, mapping="linear")
        heads.append(model.report_head)
    mba, abm = heads
    assert isinstance(mba.map, nn.Linear)  # and no LayerNorm, which is not linear
    abm.map = mba.map
    tokens = torch.randn(5, 9, 64, generator=DRAW)
    present = prefixes([5, 6, 7, 8, 9], width=9)
    difference = (mba(tokens, present) - abm(tokens, present)).abs().max()
    if aggregation == "mean":
        assert difference < 1e-6
    else:
        assert difference > 0.01


def test_mba_is_abm_where_the_mapping_is_linear_and_the_mean_aggregates(build):
    mba = build(alignment="mba", aggregation="mean").report_head
    abm = build(alignment="abm", aggregation="mean").report_head
    linear = nn.Linear(64, 64)
    mba.map = linear
    abm.map = linear
    tokens = torch.randn(5, 9, 64, generator=DRAW)
    present = prefixes([5, 6, 7, 8, 9], width=9)
    torch.testing.assert_close(mba(tokens, present), abm(tokens, present), atol=1e-6, rtol=0)


@pytest.mark.parametrize("aggregation", ["attention", "mean", "max"])
def test_mba_differs_from_abm_with_the_real_mapping(build, aggregation):
    mba = build(alignment="mba", aggregation=aggregation).report_head
    abm = build(alignment="abm", aggregation=aggregation).report_head
    abm.map = mba.map
    tokens = torch.randn(5, 9, 64, generator=DRAW)
    assert (mba(tokens) - abm(tokens)).abs().max() > 0.01


def test_mba_and_abm_have_the_same_parameters_up_to_the_query(heads):
    mba, abm = heads
    mba_count = sum(p.numel() for p in mba.map.parameters())
    abm_count = sum(p.numel() for p in abm.map.parameters())
    assert mba_count == abm_count
    assert mba.aggregate.query.shape == abm.aggregate.query.shape == (64,)


@pytest.mark.parametrize("aggregation", ["attention", "mean", "max"])
def test_padding_changes_no_aggregate(build, aggregation):
    head = build(aggregation=aggregation).report_head
    tokens = torch.randn(3, 6, 64, generator=DRAW)
    padded = torch.cat([tokens, torch.full((3, 4, 64), 1e3)], dim=1)
    present = torch.arange(10).expand(3, 10) < 6
    torch.testing.assert_close(head(padded, present), head(tokens), atol=1e-6, rtol=0)


@pytest.fixture
def stock_mae(build):
    """A stock ViTMAE and an MCR that hold the same weights."""
    ours = build(mim_weight=1.0)
    theirs = stock.mae(ours.config)
    stock.load_mae(ours, theirs)
    return ours, theirs.eval()


def test_mim_equals_the_stock_loss(stock_mae):
    ours, theirs = stock_mae
    pixels = torch.randn(4, 1, 96, 96, generator=DRAW)
    noise = torch.rand(4, 36, generator=DRAW)
    keep = noise.argsort(dim=1)[:, :18].sort(dim=1).values
    image_tokens = ours.image_encoder(pixels, keep)
    dropped = dropped_patches(keep, 36)
    predicted = ours.image_decoder(image_tokens, keep, dropped)
    patches = ours.image_encoder.patchify(pixels)
    loss = losses.mim(predicted, gather_patches(patches, dropped))
    torch.testing.assert_close(loss, theirs(pixels, noise=noise).loss, atol=1e-5, rtol=0)


def test_mrm_equals_the_stock_loss(build, batch, monkeypatch):
    monkeypatch.setattr(losses, "TILE", 7)
    model = build().eval()
    whole = BertForMaskedLM(model.bert_config).eval()
    whole.bert.load_state_dict(model.report_encoder.bert.state_dict())
    whole.cls.load_state_dict(model.report_decoder.state_dict())
    labels = batch.tokens.masked_fill(~batch.masked, -100)
    shown = batch.tokens.masked_fill(batch.masked, model.tokenizer.mask_token_id)
    theirs = whole(shown, attention_mask=batch.present.long(), labels=labels).loss
    torch.testing.assert_close(model(batch)["mrm"], theirs, atol=1e-5, rtol=0)


def test_kept_patches_are_encoded_as_if_the_others_were_never_there(build):
    """The oracle embeds every patch with timm's own code and picks the kept ones afterwards."""
    encoder = build().image_encoder.eval()
    pixels = torch.randn(3, 1, 96, 96, generator=DRAW)
    keep = random_keep(3)
    embedded = encoder.vit._pos_embed(encoder.vit.patch_embed(pixels))
    cls_token = embedded[:, :1]
    kept = gather_patches(embedded[:, 1:], keep)
    encoded = encoder.vit.blocks(torch.cat([cls_token, kept], dim=1))
    expected = encoder.vit.norm(encoded)
    torch.testing.assert_close(encoder(pixels, keep), expected, atol=1e-5, rtol=0)
    unmasked = encoder.vit.forward_features(pixels)
    torch.testing.assert_close(encoder(pixels), unmasked, atol=1e-5, rtol=0)


def test_masked_patches_as_tokens_are_encoded_in_their_places(build):
    """The oracle puts the mask token into timm's own sequence, which stays in the images' order."""
    model = build(masked_patches="token").eval()
    encoder = model.image_encoder
    vit = encoder.vit
    pixels = torch.randn(3, 1, 96, 96, generator=DRAW)
    keep = random_keep(3)
    dropped = dropped_patches(keep, 36)
    seen = torch.zeros(3, 36, 1).scatter_(1, keep[..., None], 1)
    embedded = vit.patch_embed(pixels) * seen + encoder.mask_token * (1 - seen)
    expected = vit.norm(vit.blocks(vit._pos_embed(embedded)))
    our_order = F.pad(torch.cat([keep, dropped], dim=1) + 1, (1, 0))  # [CLS], kept, dropped
    tokens = encoder(pixels, keep)
    torch.testing.assert_close(tokens, gather_patches(expected, our_order), atol=1e-5, rtol=0)

    decoder = model.image_decoder
    positions = F.pad(decoder.positions, (0, 0, 1, 0))
    decoded = decoder.blocks(decoder.embed(expected) + positions)
    theirs = gather_patches(decoder.pixels(decoder.norm(decoded))[:, 1:], dropped)
    torch.testing.assert_close(decoder(tokens, keep, dropped), theirs, atol=1e-5, rtol=0)


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)


@given(LENGTHS, st.integers(0, 20))
def test_packed_reports_share_rows_without_overlap_and_no_two_rows_fit_into_one(lengths, more):
    width = max(lengths) + more
    places = pack_rows(lengths, width)
    rows = places.row.tolist()
    starts = places.start.tolist()
    taken = np.zeros((max(rows) + 1, width), dtype=int)
    for row, start, length in zip(rows, starts, lengths, strict=True):
        assert 0 <= start <= width - length
        taken[row, start : start + length] += 1
    assert taken.max() == 1
    assert taken.sum() == sum(lengths)
    filled = taken.sum(axis=1)
    assert filled.min() > 0
    for one, other in itertools.combinations(filled, 2):
        assert one + other > width


@pytest.mark.parametrize("lengths", [[7, 7, 7], [2, 3, 4, 4, 9], [1, 9]])
@pytest.mark.parametrize("more", [0, 3])
def test_reports_that_share_a_row_are_encoded_as_if_alone(build, lengths, more):
    encoder = build().eval().report_encoder
    present = prefixes(lengths, max(lengths) + more)
    tokens = torch.randint(5, 200, present.shape, generator=DRAW)
    together = encoder(tokens, present)
    assert not together[~present].any()
    for row, length, ids in zip(together, lengths, tokens, strict=True):
        alone = encoder.bert(ids[None, :length]).last_hidden_state[0]
        torch.testing.assert_close(row[:length], alone, atol=2e-6, rtol=1e-5)


def test_dropped_patches_and_masked_tokens_do_not_reach_the_contrast_of_mcr(build, batch):
    model = build().eval()
    size = model.image_encoder.patch_size
    dropped = dropped_patches(batch.keep, 36)
    patches = model.image_encoder.patchify(batch.pixels)
    index = dropped[..., None].expand(-1, -1, patches.shape[-1])
    overwritten = patches.scatter(1, index, 9.0)
    pixels = F.fold(overwritten.transpose(1, 2), 96, size, stride=size)
    tokens = batch.tokens.masked_fill(batch.masked, 7)
    changed = batch._replace(pixels=pixels, tokens=tokens)
    torch.testing.assert_close(model(changed)["vrc"], model(batch)["vrc"])
    dual = build(contrast="unmasked").eval()
    assert (dual(changed)["vrc"] - dual(batch)["vrc"]).abs() > 1e-3


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({}, {"loss", "vrc", "mim", "mrm"}),
        ({"contrast": "unmasked"}, {"loss", "vrc", "mim", "mrm"}),
        ({"contrast": "unmasked", "masked_patches": "token"}, {"loss", "vrc", "mim", "mrm"}),
        ({"contrast": "unmasked", "mim_weight": 0.0, "mrm_weight": 0.0}, {"loss", "vrc"}),
        ({"mim_weight": 0.0}, {"loss", "vrc", "mrm"}),
        ({"mrm_weight": 0.0}, {"loss", "vrc", "mim"}),
        ({"alignment": "abm"}, {"loss", "vrc", "mim", "mrm"}),
    ],
)
def test_each_variant_has_its_terms_and_trains_all_its_weights(build, batch, changes, terms):
    model = build(**changes)
    result = model(batch)
    assert set(result) == terms
    result["loss"].backward()
    still = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert still == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_takes_a_step_on_the_pairs_that_its_own_masks_leave(
    build, dataset, smoke, tokenizer, variant
):
    changes = VARIANTS[variant]
    pairs = SplitPairs(dataset, "train", smoke.replace(**changes), tokenizer)
    model = build(**changes)
    loss = model(pairs.__getitems__(list(range(8))))["loss"]
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert loss.isfinite()
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("side", ["image", "report"])
def test_without_a_mask_the_contrast_sees_all_of_that_side(build, dataset, smoke, tokenizer, side):
    changes = VARIANTS[f"no-{side}-mask"]
    pairs = SplitPairs(dataset, "train", smoke.replace(**changes), tokenizer)
    batch = pairs.__getitems__(list(range(8)))
    model = build(**changes).eval()
    seen = getattr(model.encode(batch), side)
    if side == "image":
        whole = model.project_images(batch.pixels)
    else:
        whole = model.project_reports(batch.tokens, batch.present)
    torch.testing.assert_close(seen, whole)


def test_the_loss_weighs_its_terms(build, batch):
    terms = build(vrc_weight=0.1, mim_weight=2.0, mrm_weight=3.0)(batch)
    expected = 0.1 * terms["vrc"] + 2 * terms["mim"] + 3 * terms["mrm"]
    torch.testing.assert_close(terms["loss"], expected)


def test_a_saved_model_embeds_the_same(build, dataset, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    again = MCR.from_pretrained(tmp_path)
    pictures = dataset.images[:20]
    texts = dataset.frame["report"].tolist()[:20]
    assert torch.equal(model.embed_images(pictures), again.embed_images(pictures))
    assert torch.equal(model.embed_reports(texts), again.embed_reports(texts))
    assert again.config == model.config


def test_loading_is_strict(build, tmp_path):
    build().save_pretrained(tmp_path)
    record = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(record.replace('"vision_depth": 2', '"vision_depth": 3'))
    with pytest.raises(RuntimeError, match="blocks"):
        MCR.from_pretrained(tmp_path)


def test_equal_models_are_equal_bytes(build, tmp_path):
    model = build()
    saved = set()
    for time in range(6):  # a random order of two shared names would show
        model.save_pretrained(tmp_path / str(time))
        saved.add((tmp_path / str(time) / "model.safetensors").read_bytes())
    MCR.from_pretrained(tmp_path / "0").save_pretrained(tmp_path / "again")
    saved.add((tmp_path / "again" / "model.safetensors").read_bytes())
    assert len(saved) == 1


def test_a_file_with_the_list_of_shared_names_still_opens(build, tmp_path):
    """As version 0.2 and safetensors' own `save_model` write it."""
    model = build()
    model.save_pretrained(tmp_path)
    save_model(model, str(tmp_path / "model.safetensors"))
    record = json.loads((tmp_path / "config.json").read_text())
    del record["vocabulary_sha256"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    again = MCR.from_pretrained(tmp_path)
    assert torch.equal(model.embed_reports(["no effusion"]), again.embed_reports(["no effusion"]))


def test_a_folder_without_its_tokenizer_is_refused(build, tmp_path):
    build().save_pretrained(tmp_path)
    for name in ("tokenizer.json", "vocab.txt"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer\.json nor vocab\.txt"):
        MCR.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff"])
def test_a_damaged_tokenizer_is_one_sentence(build, tmp_path, content):
    build().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"The tokenizer in .* copy the model's folder anew"):
        MCR.from_pretrained(tmp_path)


def test_another_model_s_tokenizer_is_refused(build, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    words = sorted(model.tokenizer.get_vocab())
    few = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    shuffled = {word: i for i, word in enumerate(words)}
    for vocabulary in (few, shuffled):
        type(model.tokenizer)(vocab=vocabulary).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"is not the model's"):
            MCR.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(build, tmp_path, value):
    model = build()
    with torch.no_grad():
        model.image_head.aggregate.query[3] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"'image_head\.aggregate\.query' .* not finite"):
        MCR.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"config": 3}', b"\xff\xfe", b"{}"]
)
def test_a_damaged_config_is_one_sentence(build, tmp_path, content):
    build().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is empty, damaged or of another kind"):
        MCR.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        MCR.from_pretrained(tmp_path)


@pytest.mark.parametrize("length", [0, 4, 1000, -1])
def test_cut_weights_are_one_sentence(build, tmp_path, length):
    build().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        MCR.from_pretrained(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        MCR.from_pretrained(tmp_path)


def test_a_missing_model_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="no-such-model"):
        MCR.from_pretrained("nobody/no-such-model")


def test_embeddings_are_unit_rows_for_every_kind_of_picture(build, dataset, tmp_path):
    model = build()
    array = np.asarray(dataset.images[0])
    path = tmp_path / "radiograph.png"
    Image.fromarray(array).save(path)
    rows = model.embed_images([array, Image.fromarray(array), path, str(path)])
    assert not rows.requires_grad
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(rows, rows[:1].expand(4, -1))


def test_embeddings_do_not_depend_on_the_batch(build, dataset):
    model = build()
    texts = dataset.frame["report"].tolist()[:30]
    in_small_batches = model.embed_reports(texts, batch_size=7)
    torch.testing.assert_close(in_small_batches, model.embed_reports(texts), atol=1e-6, rtol=0)
    assert model.embed_reports([]).shape == (0, 64)
    assert model.embed_images([]).shape == (0, 64)


def test_an_unreadable_picture_is_named(build, tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        build().embed_images([path])


def test_one_text_or_picture_is_a_list_of_one(build, dataset, tmp_path):
    model = build()
    (report,) = model.embed_reports(["No effusion."])
    assert torch.equal(model.embed_reports("No effusion."), report[None])
    assert torch.equal(model.embed_reports(text for text in ["No effusion."]), report[None])

    array = np.array(dataset.images[0])
    path = tmp_path / "radiograph.png"
    Image.fromarray(array).save(path)
    expected = model.embed_images([array])
    single = [array, path, str(path), Image.fromarray(array), torch.from_numpy(array)]
    for picture in single:
        assert torch.equal(model.embed_images(picture), expected)
        assert torch.equal(model.embed_images(iter([picture])), expected)
    assert torch.equal(model.embed_images(np.array([str(path)])), expected)


def test_arrays_of_pictures_are_so_many_pictures(build, dataset):
    model = build()
    squares = np.array(dataset.images[:4])
    expected = model.embed_images(list(squares))
    stacks = [squares, squares[:, None], torch.from_numpy(squares)]
    stacks += [torch.from_numpy(squares)[:, None], list(torch.from_numpy(squares)[:, None])]
    for stack in stacks:
        assert torch.equal(model.embed_images(stack), expected)
    # Floating point comes in windows of its own; the shape is what is read here.
    for kind in (torch.float32, torch.bfloat16):
        stack = torch.from_numpy(squares)[:, None].to(kind).requires_grad_()
        assert model.embed_images(stack).shape == expected.shape


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (torch.rand(4, 3, 224, 224), r"\[N, 1, H, W\].*got the shape \[4, 3, 224, 224\]"),
        (np.zeros((224, 224, 3), np.uint8), r"grey radiographs: got the shape \[224, 224, 3\]"),
        (np.zeros(5), r"got the shape \[5\]"),
        (5, "list of paths, PIL images or arrays: got a int"),
        (None, "got a NoneType"),
        (b"PNG", "got a bytes"),
        ([5], r"A radiograph is a path, a PIL image or an array \[H, W\]: got a int"),
        ([None], "got a NoneType"),
    ],
)
def test_what_is_no_picture_is_one_sentence(build, pictures, message):
    with pytest.raises(ValueError, match=message):
        build().embed_images(pictures)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (None, "list of texts: got a NoneType"),
        (b"No effusion.", "got a bytes"),
        ({"a": "b"}, "got a dict"),
        (["Clear.", None], "entry 1 is None"),
        ([float("nan")], "entry 0 is nan"),
        ([["Clear."]], "entry 0 is"),
    ],
)
def test_what_is_no_text_is_one_sentence(build, texts, message):
    with pytest.raises(ValueError, match=message):
        build().embed_reports(texts)


def test_a_batch_size_of_nothing_is_refused(build):
    for embed in (build().embed_reports, build().embed_images):
        with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1"):
            embed([], batch_size=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.embed_images(np.array(3.0)), r"got the shape \[\]"),
        (lambda model: model.embed_images([""]), "path is empty"),
        (lambda model: model.embed_images({"a.png"}), "got a set"),
        (lambda model: model.embed_images(pd.DataFrame({"image": ["a"]})), "got a DataFrame"),
        (lambda model: model.embed_images([], batch_size=True), "batch_size must be"),
        (lambda model: model.embed_reports(np.array("a")), "got a ndarray"),
        (lambda model: model.embed_reports({"a"}), "got a set"),
        (lambda model: model.embed_reports(pd.DataFrame({"report": ["a"]})), "got a DataFrame"),
        (lambda model: model.embed_reports(io.StringIO("a")), "got a StringIO"),
    ],
)
def test_what_is_no_list_of_pictures_or_texts_is_one_sentence(build, call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(build())
    assert "\n" not in str(error.value)


def test_what_was_plainly_meant_is_embedded(build, dataset):
    model = build()
    picture = torch.from_numpy(dataset.images[0].copy())
    expected = model.embed_images([dataset.images[0]])
    assert torch.equal(model.embed_images(picture.to_sparse()), expected)
    assert torch.equal(model.embed_images([picture], batch_size=np.int64(1)), expected)
    halves = model.embed_reports(text for text in ["clear \ud800", "clear ?"])
    assert torch.equal(halves[0], halves[1])
