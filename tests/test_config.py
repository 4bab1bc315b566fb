"""Settings: known ones are typed and checked, unknown ones are refused with a hint."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcrlib import config


def test_the_paper_s_numbers_are_the_mimic_default():
    c = config.load("mimic")
    assert (c.vrc_weight, c.mim_weight, c.mrm_weight) == (0.1, 1.0, 1.0)
    assert (c.image_mask, c.report_mask) == (0.5, 0.25)
    assert c.text == "emilyalsentzer/Bio_ClinicalBERT"
    assert (c.vision, c.image_size) == ("vit_base_patch16_224.mae", 224)


@pytest.mark.parametrize("variant", config.VARIANTS)
@pytest.mark.parametrize("run", config.RUNS)
def test_every_variant_differs_from_mcr_in_its_own_settings_only(run, variant):
    c, base = config.load(run, variant), config.load(run)
    changed = {name for name in type(c).model_fields if getattr(c, name) != getattr(base, name)} - {
        "variant"
    }
    if variant.startswith("vrc-weight-"):  # a run has one of these weights itself
        assert changed <= set(config.VARIANTS[variant])
        return
    assert changed == set(config.VARIANTS[variant])


@pytest.mark.parametrize("run", config.RUNS)
def test_each_run_has_one_of_the_three_weights_of_the_contrast(run):
    names = ("vrc-weight-0.1", "vrc-weight-1", "vrc-weight-10")
    weights = [config.load(run, name).vrc_weight for name in names]
    assert weights == [0.1, 1.0, 10.0]
    assert config.load(run).vrc_weight in weights


def test_the_caller_s_settings_override_all_others():
    c = config.load("demo", "abm", seed=3, epochs=1, lr=1, sizes=[10, 5, 5])
    assert (c.epochs, c.lr, c.sizes, c.seed, c.alignment) == (1, 1.0, (10, 5, 5), 3, "abm")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"run": "demmo"}, "did you mean 'demo'"),
        ({"variant": "mba"}, "no variant 'mba'"),
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"epochs": "3"}, "'epochs' must be a whole number such as 50, not '3'"),
        ({"epochs": 0}, "at least 1"),
        ({"image_mask": 1.0}, "between 0 and 1"),
        ({"image_mask": -0.1}, "'image_mask' must be at least 0, not -0.1"),
        ({"image_mask": 0}, "nothing to reconstruct: set 'mim_weight' to 0, too"),
        ({"report_mask": 0.0}, "nothing to reconstruct: set 'mrm_weight' to 0, too"),
        ({"mapping": "mlp2"}, "'mapping' must be 'mlp' or 'linear'"),
        ({"policy": "all"}, "'findings', 'impression', 'both' or 'longest'"),
        ({"image_size": 100}, "multiple of 'patch_size'"),
        ({"sizes": [1, 2]}, "'sizes' must be a list such as"),
        ({"seed": True}, "'seed' must be a whole number"),
        ({"seed": -1}, "'seed' must be at least 0, not -1"),
        ({"seed": 2**32}, "'seed' must be at most 4294967295"),
        ({"lr": None}, "'lr' has no value: give it a number such as 0.00015"),
        ({"epochs": ""}, "'epochs' has no value"),
        ({"lr": float("nan")}, "'lr' must be a number such as"),
        ({"lr": -1e-3}, "'lr' must be above 0"),
        ({"dropout": 1.5}, "'dropout' must be below 1"),
        ({"patch_size": 0}, "'patch_size' must be at least 1"),
        ({"text_heads": 5}, r"'text_width' \(96\) must be a multiple of 'text_heads' \(5\)"),
        ({"run": ["demo"]}, "no run"),
    ],
)
def test_a_wrong_setting_is_refused_with_a_clear_message(settings, message):
    with pytest.raises(ValueError, match=message):
        config.load(**{"run": "demo", **settings})


def test_the_digest_depends_only_on_settings_that_affect_results():
    c = config.load("demo")
    assert c.digest() == config.load("demo", data="/elsewhere", workers=3).digest()
    assert c.digest() != config.load("demo", lr=2e-3).digest()
    assert c.digest() != config.load("demo", seed=1).digest()


def test_a_setting_added_later_is_part_of_the_digest_only_if_it_is_not_at_its_default():
    """Models that were trained before `mapping` existed stay what is asked for."""
    assert "mapping" not in config.load("demo").deciding()
    assert config.load("demo", "linear-map").deciding()["mapping"] == "linear"
    assert config.load("demo").digest() != config.load("demo", mapping="linear").digest()


def test_project_paths_are_the_same_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    inside = tmp_path / "project" / "results" / "demo"
    assert config.project_path("results/demo") == inside
    assert config.project_path(inside) == inside
    assert str(config.project_path("mine/results")) == "mine/results"
    assert str(config.project_path("hub-name/model")) == "hub-name/model"


def test_settings_saved_by_version_0_1_get_their_current_names():
    saved = config.load("demo").model_dump() | {"pairs": "image"}
    del saved["images_per_study"]
    assert config.load(**config.current_names(saved)).images_per_study == "all"
    assert config.load(**config.current_names(saved | {"pairs": "study"})).images_per_study == "one"
    today = config.load("demo").model_dump()
    assert config.current_names(today) == today


def test_prepared_data_depends_on_the_data_settings_only():
    c = config.load("demo")
    assert c.data_settings() == config.load("demo", "abm", seed=3, epochs=1).data_settings()
    for name, value in {"policy": "findings", "data": "elsewhere", "cache_size": 64}.items():
        assert c.data_settings() != config.load("demo", **{name: value}).data_settings()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("5E-4", 5e-4), ("-2e3", -2000.0), ("1.e+2", 100.0), (".5e1", 5.0),
        ("1.0e-3", 1e-3), ("3", 3), ("0.5", 0.5), ("'1e-3'", "1e-3"), ("1e-3x", "1e-3x"),
        ("e5", "e5"), ("", ""), ("[1e-3, 2]", [1e-3, 2]), ("{lr: 1e-3}", {"lr": 1e-3}),
    ],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(text, value):
    (read,) = config.parse([f"a={text}"]).values()
    assert read == value
    assert type(read) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_python_writes_is_read_back(number):
    assert config.parse([f"lr={number!r}"]) == {"lr": number}


def test_the_word_no_is_a_precision():
    assert config.load("demo", **config.parse(["precision=no"])).precision == "no"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lr=1", "lr=2"], "'lr' is given twice: 1 and '2'"),
        (["overrides={lr: 1, lr: 2}"], "'lr' is given twice"),
        (["overrides={columns: {report: a, report: b}}"], "'report' is given twice"),
        (["lr"], "write NAME=VALUE"),
        (["=3"], "write NAME=VALUE"),
        (["lr=[1"], "cannot be read"),
        (["lr={[1]: 2}"], "cannot be read"),
        (["a=" + "[" * 5000], "cannot be read"),
    ],
)
def test_words_that_cannot_be_read_are_one_sentence(words, message):
    with pytest.raises(ValueError, match=message) as error:
        config.parse(words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "mcr abm dual", "0 1", "epochs: 3, lr: 1e-3"),
        ("table", ["mcr"], [0, "7"], {"columns": {"report": "text"}}),
        ("smoke", "mcr", "4294967295", ""),
        ("demo", "mcr", "0", "precision: no, sizes: [10, 5, 5]", "2"),
    ],
)
def test_right_names_are_accepted(arguments):
    config.check_names(*arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "demmo"}, "no run 'demmo'; did you mean 'demo'"),
        ({"run": "../demo"}, r"no run '\.\./demo'"),
        ({"run": "/etc"}, "no run '/etc'"),
        ({"run": ""}, "no run ''; choose from"),
        ({"variants": "mcr dul"}, "no variant 'dul'; did you mean 'dual'"),
        ({"variants": "mcr,abm"}, "no variant 'mcr,abm'"),
        ({"variants": " "}, "names no variant"),
        ({"seeds": ""}, "names no seed"),
        ({"seeds": "0 -1"}, "no seed '-1'"),
        ({"seeds": "1.5"}, "no seed '1.5'"),
        ({"seeds": "0-2"}, "no seed '0-2'"),
        ({"seeds": "01"}, "without a sign or leading zeros"),
        ({"seeds": "\u0661"}, "no seed"),
        ({"seeds": "4294967296"}, "no seed '4294967296'"),
        ({"seeds": [True]}, "no seed 'True'"),
        ({"settings": "epoch: 3"}, "did you mean 'epochs'"),
        ({"settings": "epochs: 3, epochs: 4"}, "'epochs' is given twice"),
        ({"settings": "lr: "}, "'lr' has no value"),
        ({"settings": "lr: fast"}, "'lr' must be a number such as .* not 'fast'"),
        ({"settings": "epochs:3"}, "'epochs:3' without a value; write a colon and a space"),
        ({"settings": "lr=1e-3"}, "'lr=1e-3' without a value"),
        ({"settings": "epochs: 3}"}, "SET cannot be read"),
        ({"settings": "{epochs: 3}"}, "SET cannot be read"),
        ({"settings": "seed: 3"}, "cannot change 'seed': use SEEDS="),
        ({"settings": "data: x.csv"}, "use DATA="),
        ({"settings": {3: 4}}, "no setting 3"),
        ({"processes": "x"}, "PROCESSES must be a whole number of at least 1, not 'x'"),
        ({"processes": "0"}, "PROCESSES must be a whole number"),
        ({"processes": "-2"}, "PROCESSES must be a whole number"),
        ({"processes": ""}, "PROCESSES must be a whole number"),
        ({"processes": "7"}, "cannot be shared equally by PROCESSES=7"),
    ],
)
def test_wrong_names_are_refused_in_one_sentence(change, message):
    arguments = {"run": "demo", "variants": "mcr", "seeds": "0", "settings": ""} | change
    with pytest.raises(ValueError, match=message) as error:
        config.check_names(**arguments)
    assert "\n" not in str(error.value)


def test_names_are_checked_from_the_command_line():
    def check(*arguments):
        command = [sys.executable, "-m", "mcrlib.config", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    assert check("demo", "mcr", "0", "lr: 1e-3").returncode == 0
    wrong = check("demo", "mcr dul", "0", "")
    assert wrong.returncode == 1
    assert wrong.stderr == "There is no variant 'dul'; did you mean 'dual'?\n"
    assert "Usage" in check("demo").stderr


@pytest.mark.parametrize(
    ("variants", "seeds", "settings", "message"),
    [
        (None, "0", "", "VARIANTS must be a list"),
        ("mcr", 3, "", "SEEDS must be a list"),
        ("mcr", "0", None, "SET must be text or a mapping"),
        ("mcr", "0", ["epochs"], "SET must be text or a mapping"),
    ],
)
def test_what_is_no_list_of_names_is_one_sentence(variants, seeds, settings, message):
    with pytest.raises(ValueError, match=message):
        config.check_names("smoke", variants, seeds, settings)
