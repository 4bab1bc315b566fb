"""Explanations: exact ones add up to the cosine, occlusion is what a plain loop finds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mcrlib import config
from mcrlib.data import batches
from mcrlib.modules import Aggregation, Head

REPORT = "There is a large right pleural effusion. No pneumothorax."
MAPS_FIRST = [
    name for name, changes in config.VARIANTS.items() if changes.get("alignment") != "abm"
]
HOW = ("attention", "mean", "max")
DRAW = torch.Generator().manual_seed(0)


@pytest.fixture
def picture(dataset):
    return np.array(dataset.images[0])


def variant(build, name):
    """A model of a variant, whose attention differs from dimension to dimension."""
    model = build(**config.VARIANTS[name])
    with torch.no_grad():
        for head in (model.image_head, model.report_head):
            if hasattr(head.aggregate, "query"):
                head.aggregate.query.normal_(std=3.0, generator=DRAW)
    return model


def cosine(model, picture, report):
    return (model.embed_images([picture]) @ model.embed_reports([report]).T).item()


@pytest.mark.parametrize("name", MAPS_FIRST)
def test_contributions_of_every_variant_that_maps_first_add_up(build, picture, name):
    model = variant(build, name)
    explained = model.explain(picture, REPORT)
    tokens = len(batches.tokenize(model.tokenizer, [REPORT], 96)[0])
    assert explained.method == "exact"
    assert explained.score == pytest.approx(cosine(model, picture, REPORT), abs=1e-6)
    assert explained.matrix.shape == (37, tokens) and explained.patches.shape == (6, 6)
    assert explained.matrix.sum().item() == pytest.approx(explained.score, abs=1e-5)
    from_patches = explained.patches.sum() + explained.matrix[0].sum()
    assert from_patches.item() == pytest.approx(explained.score, abs=1e-5)
    special = explained.matrix[:, 0].sum() + explained.matrix[:, -1].sum()
    from_words = sum(word.share for word in explained.words) + special.item()
    assert from_words == pytest.approx(explained.score, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    how=st.sampled_from(HOW),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    width=st.integers(1, 9),
    ties=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_parts_of_a_row_add_up_to_it(how, lengths, width, ties, seed):
    torch.manual_seed(seed)
    head = Head(8, config.load("smoke", embed_dim=width, aggregation=how))
    if how == "attention":
        torch.nn.init.normal_(head.aggregate.query, std=4.0)
    tokens = torch.randn(len(lengths), 7, 8)
    if ties:
        tokens[:, 1::2] = tokens[:, :1]
    present = torch.arange(7) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        parts = head.contributions(tokens, present)
        row = head(tokens, present)
    torch.testing.assert_close(parts.sum(dim=1), row, atol=1e-6, rtol=1e-5)
    assert (parts[~present] == 0).all()


def test_a_tie_of_the_maximum_goes_to_the_first():
    tokens = torch.tensor([[[0.0, 5.0], [2.0, 5.0], [2.0, 5.0], [9.0, 9.0]]])
    present = torch.tensor([[True, True, True, False]])
    weights = Aggregation(2, "max").weights(tokens, present)
    assert weights.tolist() == [[[0, 1], [1, 0], [0, 0], [0, 0]]]


@pytest.mark.parametrize("how", HOW)
def test_patches_are_linear_in_the_reports_embedding(build, dataset, picture, how):
    """What 80 reports show of the linear map holds for others: no rescaled heuristic has that."""
    model = variant(build, "mcr") if how == "attention" else build(aggregation=how)
    reports = dataset.frame["report"].drop_duplicates().tolist()[:110]
    embedded = model.embed_reports(reports).double()
    patches = torch.stack([model.explain(picture, report).patches.flatten() for report in reports])
    map_of_80 = torch.linalg.pinv(embedded[:80]) @ patches[:80]
    torch.testing.assert_close(embedded[80:] @ map_of_80, patches[80:], atol=1e-5, rtol=1e-3)
    assert patches.std(dim=0).max() > 1e-3  # and they do depend on the report


def test_words_are_those_of_the_report_with_sub_words_joined(build, picture):
    model = build()
    report = "  Xylophonic pseudo-EFFUSION,\nno  pneumothorax!"
    explained = model.explain(picture, report)
    texts = [word.text for word in explained.words]
    assert texts == ["Xylophonic", "pseudo", "-", "EFFUSION", ",", "no", "pneumothorax", "!"]
    for word in explained.words:
        assert report[slice(*word.span)] == word.text
    pieces = len(model.tokenizer.tokenize("Xylophonic"))
    assert pieces > 1
    first = explained.matrix[:, 1 : 1 + pieces].sum().item()
    assert explained.words[0].share == pytest.approx(first, abs=1e-9)


def test_words_that_are_cut_off_are_not_explained(build, picture):
    explained = build(max_tokens=6).explain(picture, "no no no no no no no no")
    assert len(explained.words) == 4 and explained.matrix.shape[1] == 6


@pytest.mark.parametrize("name", ["abm", "mcr", "clip"])
def test_occlusion_is_what_a_plain_loop_finds(build, picture, name):
    model = variant(build, name)
    explained = model.explain(picture, REPORT, method="occlusion")
    assert explained.method == "occlusion" and explained.matrix is None
    score = cosine(model, picture, REPORT)
    assert explained.score == pytest.approx(score, abs=1e-6)
    pixels = batches.to_pixels(torch.from_numpy(picture)[None], 96)
    report = model.embed_reports([REPORT])
    for row, column in ((0, 0), (2, 5), (5, 1)):
        hidden = pixels.clone()
        hidden[0, 0, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = pixels.mean()
        with torch.no_grad():
            fall = score - (model.project_images(hidden) @ report.T).item()
        assert explained.patches[row, column].item() == pytest.approx(fall, abs=1e-5)
    word = next(word for word in explained.words if word.text == "pneumothorax")
    start, end = word.span
    masked = model.embed_reports([f"{REPORT[:start]}[MASK]{REPORT[end:]}"])
    if len(model.tokenizer.tokenize("pneumothorax")) == 1:
        fall = score - (model.embed_images([picture]) @ masked.T).item()
        assert word.share == pytest.approx(fall, abs=1e-5)


def test_models_that_aggregate_first_are_explained_by_occlusion(build, picture):
    model = build(alignment="abm")
    assert model.explain(picture, REPORT).method == "occlusion"
    with pytest.raises(ValueError, match=r"no sums of contributions.*method='occlusion'"):
        model.explain(picture, REPORT, method="exact")


def test_an_aggregation_without_weights_is_not_called_exact(build, picture):
    model = build()
    for head in (model.image_head, model.report_head):
        head.aggregate.how = "another"
    assert model.explain(picture, REPORT).method == "occlusion"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, picture: model.explain(picture, ""), "report is empty"),
        (lambda model, picture: model.explain(picture, " \n"), "report is empty"),
        (lambda model, picture: model.explain(picture, None), "one report, a text: got a NoneType"),
        (lambda model, picture: model.explain(picture, [REPORT]), "one report.*got a list"),
        (lambda model, picture: model.explain([picture] * 2, REPORT), "one radiograph: got 2"),
        (lambda model, picture: model.explain([], REPORT), "one radiograph: got 0"),
        (lambda model, picture: model.explain(np.zeros((9, 9, 3)), REPORT), r"got the shape \["),
        (lambda model, picture: model.explain(np.zeros((0, 9)), REPORT), "cannot be embedded"),
        (lambda model, picture: model.explain(5, REPORT), "got a int"),
        (lambda model, picture: model.explain(picture, REPORT, "saliency"), "not 'saliency'"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(build, picture, call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call(build(), picture)
    assert "\n" not in str(raised.value)


def test_an_explanation_needs_no_gradient_and_leaves_evaluation_mode(build, picture):
    model = build().train()
    explained = model.explain(picture, REPORT)
    assert not explained.patches.requires_grad and not model.training


def test_half_a_surrogate_pair_is_a_question_mark(build, picture):
    model = build()
    assert model.explain(picture, "effusion \ud800").words[-1].text == "?"
    assert torch.equal(model.embed_reports("a \ud800"), model.embed_reports(["a ?"]))
