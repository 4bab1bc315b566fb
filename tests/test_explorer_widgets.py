"""The explorer's widgets, without a browser: controls are set and clicked in the kernel."""

import datetime
import html
import io
import re

import ipywidgets as widgets
import numpy as np
import pytest
from exploring import home_with_models
from ipywidgets.widgets.widget import _instances
from PIL import Image

from mcrlib import config
from mcrlib.companion import explorer, explorer_widgets, map_widgets
from mcrlib.companion.explorer_widgets import Explorer, explore

QUESTION = "Large right pleural effusion."


@pytest.fixture(scope="module")
def place(tmp_path_factory, dataset, smoke, tokenizer):
    with home_with_models(tmp_path_factory.mktemp("shown"), dataset, smoke, tokenizer) as root:
        yield root


@pytest.fixture
def shown(place, monkeypatch):
    monkeypatch.delenv(config.PLAIN, raising=False)
    page = explore("smoke", "mcr", 0, QUESTION)
    assert isinstance(page, Explorer)
    return page


def said(page):
    """The sentence in the status line."""
    return html.unescape(re.sub("<.*?>", "", page.status.value))


def upload(page, content, name="chest.png"):
    file = {"name": name, "type": "", "size": len(content), "content": memoryview(content)}
    page.upload.value = (file | {"last_modified": datetime.datetime(2020, 1, 1)},)


def png(picture):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png")
    return buffer.getvalue()


def hit_button(page, model=0, hit=0):
    return page.answers.children[model].cards.children[hit].children[1]


def test_a_sentence_finds_radiographs_and_a_pair_its_partner(shown):
    shown.search.click()
    (hits,) = shown.answers.children
    assert len(hits.cards.children) == 5 and said(shown).startswith("5 images of")
    assert QUESTION in shown.asked.value
    shown.pairs.value = shown.pairs.options[2][1]
    shown.top.value = explorer.MOST_TOP
    shown.ask_pair.click()
    cards = shown.answers.children[0].cards.children
    pool = shown.first_pool()
    assert len(cards) == min(explorer.MOST_TOP, len(pool))
    is_true = ["mcr-hit-true" in card._dom_classes for card in cards]
    if len(cards) == len(pool):
        assert sum(is_true) == 1


def test_two_models_stand_beside_each_other_and_are_asked_again(shown):
    shown.search.click()
    shown.second.value = "dual-seed0"
    titles = [column.children[0].value for column in shown.answers.children]
    assert "mcr-seed0" in titles[0] and "dual-seed0" in titles[1]
    shown.order.value = "disagreement"
    labels = [label for label, _ in shown.pairs.options]
    assert "mcr-seed0 rank" in labels[0] and "dual-seed0 rank" in labels[0]
    shown.order.value = "worst"
    ranks = [int(re.search(r"mcr-seed0 rank (\d+)", label)[1]) for label, _ in shown.pairs.options]
    assert ranks == sorted(ranks, reverse=True)


def test_filters_change_the_list_and_the_hits(shown):
    shown.search.click()
    everything = len(shown.pairs.options)
    shown.finding.value = "Pleural Effusion"
    assert 0 < len(shown.pairs.options) < everything
    pool = shown.first_pool()
    for _, pair_id in shown.pairs.options:
        labels = pool.frame["labels"][pool.number_of(pair_id)]
        assert any(label.startswith("Pleural Effusion") for label in labels)


def test_a_click_on_a_hit_shows_its_map_and_words_and_patches_answer(shown):
    shown.search.click()
    hit_button(shown).click()
    look = shown.look
    side = len(look.explanation.patches)
    assert len(look.patches.children) == side * side
    assert [word.description for word in look.words.children][:2] == ["Large", "right"]
    whole = look.heat.value
    assert 'alt="mcr, hit 1' in whole and "Strongest patches" in whole
    look.words.children[1].click()
    assert "patches that answer to “right”" in look.title.value and look.heat.value != whole
    look.whole.click()
    assert look.heat.value == whole
    before = [word.style.button_color for word in look.words.children]
    look.patches.children[side].click()
    assert "patch in row 2, column 1" in look.title.value
    assert [word.style.button_color for word in look.words.children] != before
    shares = float(look.title.value.partition("column 1, ")[2][:6])
    matrix = np.asarray(look.explanation.matrix)
    assert shares == pytest.approx(matrix[1 + side].sum(), abs=6e-4)


def test_a_radiograph_is_explained_with_the_hit_s_report(shown):
    shown.pairs.value = shown.pairs.options[0][1]
    shown.ask_pair.click()
    hit_button(shown).click()
    words = [word.description for word in shown.look.words.children]
    report = shown.first_pool().frame["report"][0]
    hits = explorer.ask(shown.first_pool(), explorer.Pair(shown.pairs.value), 1).hits
    assert words[0] == hits[0]["report"].split()[0] and report


def test_uploads_are_read_and_leave_nothing_behind(shown, place):
    marked = np.random.default_rng(7).integers(0, 255, (96, 96)).astype(np.uint8)
    content = png(marked)
    files = sorted(place.rglob("*"))
    upload(shown, content)
    assert "reports of" in said(shown) and shown.upload.value == ()
    notes = shown.answers.children[0].children[0].value
    assert "unlike the radiographs of the training set" in notes
    assert sorted(place.rglob("*")) == files
    assert repr(shown) == "Explorer()"


BAD_FILES = {
    "empty": (b"", "image file is empty"),
    "text": (b"some report", "not a JPEG, PNG or DICOM image"),
    "50 MB": (b"\0" * 50_000_000, "50 MB; 20 MB can be uploaded. Give its path"),
    "torn": (png(np.arange(4096, dtype=np.uint8).reshape(64, 64))[:90], "truncated or damaged"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_uploads_are_a_sentence(shown, kind):
    content, reason = BAD_FILES[kind]
    upload(shown, content)
    assert reason in said(shown) and shown.upload.value == ()
    upload(shown, png(shown.first_pool().picture(0)))
    assert "reports of" in said(shown)


STRANGE = {
    "": "is empty",
    "pneumo " * 5000: "images of",
    "правосторонний плеврит": "images of",
    "🎉🎉🎉": "images of",
    "<script>alert(1)</script>": "images of",
    "x" * 200_000: "may have 100,000",
    "\ud83d": "images of",  # half a character
}


@pytest.mark.parametrize("text", STRANGE)
def test_strange_texts_are_answered_or_a_sentence_and_always_escaped(shown, text):
    shown.text.value = text
    shown.search.click()
    assert STRANGE[text] in said(shown)
    if "images" in STRANGE[text]:
        hit_button(shown).click()
    for widget in _html_of(shown):
        assert "<script" not in widget.value


def _html_of(box):
    """All HTML widgets of a page."""
    found = []
    for child in box.children:
        if isinstance(child, widgets.HTML):
            found.append(child)
        elif isinstance(child, widgets.Box):
            found += _html_of(child)
    return found


def test_paths_are_given_in_place_of_uploads(shown, tmp_path):
    shown.open_path.click()
    assert "path is empty" in said(shown)
    shown.path.value = str(tmp_path / "nowhere.png")
    shown.open_path.click()
    assert "image file is missing" in said(shown)
    file = tmp_path / "chest.png"
    file.write_bytes(png(shown.first_pool().picture(1)))
    shown.path.value = f" {file} "
    shown.open_path.click()
    assert "reports of" in said(shown)


def test_an_unforeseen_error_is_a_sentence_too(shown, monkeypatch):
    monkeypatch.setattr(explorer, "ask", lambda *_: 1 / 0)
    shown.search.click()
    assert said(shown).startswith("This could not be done (ZeroDivisionError")


def test_a_method_without_a_model_answers_pairs_only(shown):
    shown.model.value = "theirs-seed0"
    shown.search.click()
    assert "only pairs of the split can be asked" in said(shown)
    shown.pairs.value = shown.pairs.options[0][1]
    shown.ask_pair.click()
    assert "reports of" in said(shown)
    hit_button(shown).click()
    assert "no trained model" in said(shown)


def test_the_map_fills_the_table_by_its_edges(shown, monkeypatch):
    monkeypatch.setattr(map_widgets, "HAS_LASSO", False)
    split = shown.map
    split.draw_button.click()
    pool = shown.first_pool()
    (drawn,) = split.picture.children
    assert drawn.value.count("mcr-point-image") == len(pool)
    assert drawn.value.count("<line") == len(pool)
    assert f"of {len(pool)} chosen pairs" in split.chosen.value
    split.edges["right"].value = 0.02
    chosen = int(re.search(r"of (\d+) chosen", split.chosen.value)[1])
    assert 0 < chosen < len(pool)
    split.lines.value = False
    assert "<line" not in split.picture.children[0].value
    split.ask_button.click()
    assert f"Question {split.pairs.value}" in shown.asked.value


def test_a_lasso_fills_the_table(shown, monkeypatch):
    pytest.importorskip("jscatter")
    monkeypatch.setattr(map_widgets, "HAS_LASSO", True)
    split = shown.map
    split.draw_button.click()
    (drawn,) = split.picture.children
    drawn.selection = np.array([0, 1, len(shown.first_pool())])
    assert "2 of 2 chosen pairs" in split.chosen.value  # two halves of one pair


def test_every_control_has_a_class_and_a_name(shown):
    shown.search.click()
    hit_button(shown).click()
    shown.map.draw_button.click()
    for control in _controls(shown):
        assert any(name.startswith("mcr-") for name in control._dom_classes), control
        name = control.description or control.tooltip
        assert name and name.strip(), control


def _controls(box):
    found = []
    for child in box.children:
        if isinstance(child, widgets.Box):
            found += _controls(child)
        elif not isinstance(child, widgets.HTML) and hasattr(child, "description"):
            found.append(child)
    return found


def test_old_answers_are_freed(shown):
    shown.search.click()
    hit_button(shown).click()
    alive = len(_instances)
    for _ in range(3):
        shown.search.click()
        hit_button(shown).click()
    assert len(_instances) <= alive + 20


def test_without_a_browser_a_small_picture_is_left(place, monkeypatch):
    monkeypatch.setenv(config.PLAIN, "1")
    page = explore("smoke", "mcr", 0, QUESTION).data
    assert page.count("<img") == 4 and "Strongest patches" in page
    assert len(page) < 150_000
    assert "make embed RUN=smoke VARIANTS=clip" in explore("smoke", "clip").data
    assert "The query" in explorer_widgets.explore("smoke", "theirs").data
