"""Notebook 09 in JupyterLab and Chromium: the explorer as a reader uses it.

Skipped without Chromium, unless MCR_NEED_BROWSER is set, as in `.ci/run`: there it fails.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from exploring import home_with_models
from launching import free_port
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from mcrlib import config
from mcrlib.companion import explorer

pytestmark = pytest.mark.whole  # JupyterLab, its kernel and a browser start

ROOT = Path(__file__).parents[1]
TOKEN = "of-this-test"
PATIENCE = 240_000  # milliseconds; a busy machine is slow
TOP = 5  # hits
CONTROLS = [  # in the order of the Tab key, from the top of the explorer
    "run",
    "split",
    "model",
    "second-model",
    "top",
    "finding",
    "side",
    "view",
    "text",
    "search",
    "upload",
    "path",
    "open-path",
    "order",
    "half",
    "pair",
    "ask-pair",
]
ENTRIES = ["top", "text", "path", "map-left", "map-right", "map-bottom", "map-top"]


@pytest.fixture(scope="module")
def chromium():
    """Where Chromium is."""
    path = shutil.which("chromium")
    if path is None:
        reason = "There is no chromium: `apt-get install chromium` installs it."
        if os.environ.get("MCR_NEED_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory, dataset, smoke, tokenizer, chromium):
    with home_with_models(tmp_path_factory.mktemp("browsed"), dataset, smoke, tokenizer) as root:
        yield root


@pytest.fixture(scope="module")
def lab(place, tmp_path_factory):
    """The address of notebook 09, for the smoke run, in a JupyterLab as `make lab` starts it."""
    folder = tmp_path_factory.mktemp("lab")
    source = (ROOT / "notebooks" / "09_explore.ipynb").read_text()
    notebook = folder / "09_explore.ipynb"
    notebook.write_text(source.replace('run = \\"demo\\"', 'run = \\"smoke\\"'))
    port = free_port()
    environment = os.environ | {
        "MCR_HOME": str(place),
        "JUPYTER_TOKEN": TOKEN,
        "JUPYTER_CONFIG_DIR": str(settings_folder(tmp_path_factory.mktemp("settings"))),
    }
    environment.pop(config.PLAIN, None)
    log = folder / "lab.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            lab_command(folder, port), env=environment, stdout=output, stderr=output
        )
        try:
            wait_for(server, port, log)
            yield f"http://127.0.0.1:{port}/lab/tree/{notebook.name}?token={TOKEN}"
        finally:
            server.terminate()
            server.wait(timeout=60)


def settings_folder(folder):
    """A user's settings that ask for no news, so that no question lies over the page."""
    settings = folder / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps({"fetchNews": "false"}))
    return folder


def lab_command(folder, port):
    """What `make lab` runs, in another folder, at a port, and without opening a browser."""
    makefile = (ROOT / "Makefile").read_text()
    (limit,) = re.findall(r"^LARGEST_MESSAGE := (\d+)$", makefile, re.MULTILINE)
    return [
        *(sys.executable, "-m", "jupyterlab", f"--notebook-dir={folder}"),
        f"--ServerApp.tornado_settings={{'websocket_max_message_size': {limit}}}",
        *("--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"),
        "--ServerApp.port_retries=0",
    ]


def wait_for(server, port, log):
    """Wait until a JupyterLab answers."""
    end = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"JupyterLab does not answer: {log.read_text()}")


@pytest.fixture(scope="module")
def page(lab, chromium):
    """The notebook after all of its cells have run."""
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.goto(lab)
        expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle")
        choose(page, "Run", "Run All Cells")
        expect(page.locator(".jp-Notebook")).to_contain_text("Saved in results/smoke/tfidf-seed0")
        yield page
        browser.close()
    expect.set_options(timeout=5000)


def choose(page, *names):
    """Choose from JupyterLab's menus."""
    first, *others = names
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{first}$")).click()
    for name in others:
        page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{name}$")).click()


@pytest.fixture
def shown(page):
    """The explorer with the controls as they were at first."""
    found = page.locator(".mcr-explorer")
    expect(found).to_have_count(1)
    found.scroll_into_view_if_needed()
    select(found, "model", "mcr-seed0")
    select(found, "second-model", "none")
    return found


def select(shown, control, value):
    shown.locator(f".mcr-{control} select").select_option(value)


def search(shown, sentence):
    """Search radiographs with a sentence and wait for them."""
    shown.locator(".mcr-text textarea").fill(sentence)
    shown.locator(".mcr-search").click()
    expect(shown.locator(".mcr-asked")).to_contain_text(sentence)


def expect_hits(shown, name, answer):
    """Wait until the hits of one model are those of an answer computed here."""
    expect(shown.locator(".mcr-hits")).to_have_count(1)
    expect(shown.locator(".mcr-hits")).to_contain_text(f"{name}, test split")
    cards = shown.locator(".mcr-hit")
    expect(cards).to_have_count(TOP)
    for card, hit in zip(cards.all(), answer.hits, strict=True):
        expect(card).to_contain_text(f"#{hit['rank']} ")
        expect(card).to_contain_text(hit["pair_id"])
        expect(card).to_contain_text(hit["report"].split(".")[0])


def are_drawn(pictures):
    """Whether pictures are there, and all have been decoded."""
    widths = [picture.evaluate("one => one.naturalWidth") for picture in pictures.all()]
    return len(widths) > 0 and all(widths)


def test_a_sentence_finds_the_radiographs_that_the_library_finds(shown):
    sentence = "Small left pleural effusion."
    search(shown, sentence)
    expect_hits(shown, "mcr-seed0", explorer.search(sentence, TOP, "smoke", "mcr"))
    expect(shown.locator(".mcr-status")).to_contain_text(f"{TOP} images of")
    assert shown.locator(".mcr-hit img").count() == TOP
    assert are_drawn(shown.locator(".mcr-hit img"))


def test_a_picture_of_20_MB_finds_reports(page, shown, tmp_path):
    path = tmp_path / "large.png"
    noise = np.random.default_rng(0).integers(0, 256, (4450, 4480), dtype=np.uint8)
    Image.fromarray(noise).save(path, compress_level=0)
    size = path.stat().st_size
    assert 0.99 * explorer.LARGEST_UPLOAD < size <= explorer.LARGEST_UPLOAD
    with page.expect_file_chooser() as chooser:
        shown.locator(".mcr-upload").click()
    chooser.value.set_files(path)
    expect(shown.locator(".mcr-status")).to_contain_text(f"{TOP} reports of")
    expect_hits(shown, "mcr-seed0", explorer.search(path, TOP, "smoke", "mcr"))
    assert are_drawn(shown.locator(".mcr-asked img"))
    assert shown.locator(".mcr-hit img").count() == 0


def test_a_picture_that_is_too_large_is_a_sentence(page, shown, tmp_path):
    path = tmp_path / "larger.png"
    path.write_bytes(bytes(explorer.LARGEST_UPLOAD + 1_000_000))
    with page.expect_file_chooser() as chooser:
        shown.locator(".mcr-upload").click()
    chooser.value.set_files(path)
    expect(shown.locator(".mcr-status")).to_contain_text("The file has 21 MB; 20 MB can be")


def test_another_variant_is_asked_the_same(shown):
    sentence = "Fracture of a right rib."
    search(shown, sentence)
    select(shown, "model", "dual-seed0")
    expect_hits(shown, "dual-seed0", explorer.search(sentence, TOP, "smoke", "dual"))
    select(shown, "second-model", "mcr-seed0")
    expect(shown.locator(".mcr-hits")).to_have_count(2)
    expect(shown.locator(".mcr-hit")).to_have_count(2 * TOP)


def test_a_question_typed_during_a_search_is_asked(shown):
    for number in range(1, 4):
        select(shown, "model", "dual-seed0")
        select(shown, "second-model", "mcr-seed0")
        select(shown, "model", "mcr-seed0")
        select(shown, "second-model", "none")
        search(shown, f"Fracture of rib {number}.")


def test_a_word_and_a_patch_answer_to_a_click(shown):
    search(shown, "Large right pleural effusion.")
    shown.locator(".mcr-hit-look").first.click()
    title = shown.locator(".mcr-look-title")
    heat = shown.locator(".mcr-heat")
    expect(title).to_contain_text("hit 1, ")
    expect(title).to_contain_text("score")
    maps = {heat.get_attribute("src")}
    for word in ("pleural", "Large"):
        shown.locator(".mcr-word", has_text=word).click()
        expect(title).to_contain_text(f"patches that answer to “{word}”")
        expect(heat).to_have_attribute("alt", re.compile(f"answer to {word}"))
        maps.add(heat.get_attribute("src"))
    assert len(maps) == 3 and are_drawn(heat)
    before = colours(shown)
    shown.locator(".mcr-patch").nth(8).click()
    expect(title).to_contain_text("words that answer to the patch in row")
    assert colours(shown) != before


def colours(shown):
    words = shown.locator(".mcr-word").all()
    return [word.evaluate("one => getComputedStyle(one).backgroundColor") for word in words]


@pytest.mark.parametrize(("theme", "width"), [("Light", 1280), ("Dark", 1920)])
def test_what_is_shown_can_be_read_by_everyone_and_fits_the_page(page, shown, theme, width):
    page.set_viewport_size({"width": width, "height": 900})
    choose(page, "Settings", "Theme", f"JupyterLab {theme}")
    is_light = str(theme == "Light").lower()
    expect(page.locator(f"body[data-jp-theme-light={is_light}]")).to_have_count(1)
    show_everything(shown)
    result = Axe().run(page, context=".mcr-explorer")
    found = result.response["violations"]
    assert result.response["passes"]
    bad = [one for one in found if one["impact"] in ("serious", "critical")]
    assert not bad, json.dumps(bad, indent=1)
    assert shown.evaluate("one => one.scrollWidth <= one.clientWidth")


def show_everything(shown):
    """Hits of two models, a heat map, and the map of the split."""
    select(shown, "second-model", "dual-seed0")
    search(shown, "Large right pleural effusion.")
    expect(shown.locator(".mcr-hit")).to_have_count(2 * TOP)
    shown.locator(".mcr-hit-look").first.click()
    expect(shown.locator(".mcr-heat")).to_be_visible()
    shown.locator(".mcr-map-draw").click()
    expect(shown.locator(".mcr-table")).to_be_visible()


def test_the_tab_key_reaches_all_controls_in_the_order_of_the_page(page, shown):
    show_everything(shown)
    reached = reached_by_tab(page, shown)
    assert reached[: len(CONTROLS)] == [f"mcr-{name}" for name in CONTROLS]
    named = [f"mcr-{name}" for name in ENTRIES]
    assert [one for one in reached if one in named] == named


def reached_by_tab(page, shown):
    """Classes of what Tab reaches, from the first control to the last one of the map."""
    shown.locator(".mcr-run select").focus()
    reached = []
    while len(reached) < 500:
        own = page.evaluate(
            "[...document.activeElement.closest('[class*=mcr-]').classList]"
            ".find(name => name.startsWith('mcr-'))"
        )
        reached.append(own)
        if own == "mcr-map-ask":
            break
        page.keyboard.press("Tab")
    return reached


def test_letters_are_typed_and_are_no_commands_of_the_notebook(page, shown):
    cells = page.locator(".jp-Notebook > .jp-Cell, .jp-WindowedPanel-viewport > .jp-Cell")
    before = cells.count()
    assert before > 0
    for name in ("text textarea", "path input"):
        field = shown.locator(f".mcr-{name}")
        field.fill("")
        field.press_sequentially("dd xa b")  # in JupyterLab: delete, cut, insert a cell
        expect(field).to_have_value("dd xa b")
        field.fill("")
    assert cells.count() == before
