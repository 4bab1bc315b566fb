"""Settings: known ones are typed and checked, unknown ones are refused with a hint."""

import pytest

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
    assert changed == set(config.VARIANTS[variant])


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
        ({"policy": "all"}, "'findings', 'impression', 'both' or 'longest'"),
        ({"image_size": 100}, "multiple of 'patch_size'"),
        ({"sizes": [1, 2]}, "'sizes' must be a list such as"),
        ({"seed": True}, "'seed' must be a whole number"),
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
