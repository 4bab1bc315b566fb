"""Charts: the same bytes each time, values where they belong, text that stays text, no overlap."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import tueplots.bundles
from figure_checks import (
    COLUMN,
    FULL,
    REPORT,
    SIX,
    STRANGE,
    Drawing,
    assert_nothing_overlaps,
    assert_reproducible,
    assert_text_is_literal,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from mcrlib import plots, tables
from mcrlib.companion import ablations
from mcrlib.config import VARIANTS
from mcrlib.evaluation import corruptions

pytestmark = pytest.mark.filterwarnings("ignore:Glyph:UserWarning")  # DejaVu Sans has no emoji
RNG = np.random.default_rng(0)


def evaluated(pool: int = 500, shift: float = 0.0) -> dict:
    """A variant's recall as `seeds.over_seeds` gives it."""

    def cell(value: float) -> dict:
        return {"value": value, "low": value - 0.03, "high": value + 0.04}

    pair = {"median_rank": cell(18)}
    report = {"median_rank": cell(12)}
    chance = {}
    for k in (1, 5, 10):
        pair[f"R@{k}"] = cell(0.1 + 0.03 * k - shift)
        report[f"R@{k}"] = cell(0.2 + 0.03 * k - shift)
        chance[f"R@{k}"] = k / pool
    policies = {"pair": pair, "report": report}
    return {
        "seeds": 1,
        "pool": pool,
        "chance": chance,
        "image_to_report": policies,
        "report_to_image": policies,
    }


def records(variants: list[str]) -> list[dict]:
    """Points of Figure 3, as `text_metrics.curves` gives them."""
    points = []
    for i, variant in enumerate([*variants, "floor", "ceiling"]):
        for j, direction in enumerate(plots.LINES):
            for metric in plots.FIGURE3_METRICS:
                for k in range(1, 11):
                    point = {"variant": variant, "direction": direction, "metric": metric, "k": k}
                    point["mean"] = 0.3 + 0.01 * i - 0.01 * k + 0.05 * j
                    point["best"] = 0.3 + 0.01 * i + 0.02 * k
                    points.append(point)
    return points


def gap(n: int = 40) -> dict:
    """A model's modality gap: t-SNE of n pairs, and seven numbers."""
    numbers = {
        "distance_of_means": -1.25,
        "alignment": -0.75,
        "uniformity_image": -0.25,
        "uniformity_report": 0.25,
        "cosine_of_pairs": 0.75,
        "cosine_of_non_pairs": 1.25,
        "probe_accuracy": 1.75,
    }
    return {"tsne": RNG.normal(0, 20, (2 * n, 2)).tolist(), "numbers": numbers}


HISTORY = pd.DataFrame({"epoch": range(1, 13), "loss": 5.0, "vrc": 2.0, "mim": 1.0, "mrm": 2.0})
HISTORY["validate_recall@10"] = [np.nan if epoch % 2 else epoch / 20 for epoch in HISTORY["epoch"]]
FRAME = pd.DataFrame({"report": [REPORT, "Clear."] * 20, "view": ["PA", "PA", "PA", "AP"] * 10})
FRAME["split"] = ["train"] * 30 + ["validate"] * 6 + ["test"] * 4
GAPS = {name: gap() for name in SIX}
TWO_GAPS = {"abm": GAPS["abm"], "mcr": GAPS["mcr"]}
RECALL = {name: evaluated() for name in SIX}
RECALL_OF_THREE = {name: evaluated() for name in ("mcr", "abm", "dual")}


def agreement(models: list[str]) -> pd.DataFrame:
    """As `tables.agreement_table` makes it."""
    findings = ["micro", "macro", "Enlarged Cardiomediastinum", "Edema"]
    table = pd.DataFrame({"finding": findings, "support": ["", "", "7", "12"]})
    for place, model in enumerate(models):
        for direction in tables.DIRECTION_LABELS.values():
            table[f"{model} {direction}"] = [0.1 * place, 0.5, 1.0, np.nan]
    return table


def measured(models: list[str]) -> dict:
    """As `seeds.over_seeds` gives the measures of `relevance.evaluate`; chance has no curve."""
    block = {"value": 0.25, "low": 0.2, "high": 0.3, "left_out": 3}
    undefined = {"value": None, "low": None, "high": None, "left_out": 10}
    findings = ("Edema", "Enlarged Cardiomediastinum")
    error = block | {"by_finding": dict.fromkeys(findings, block)}
    one_way = dict.fromkeys(tables.FIRST_HIT, error)
    one_way["wrong_zone"] = undefined | {"by_finding": dict.fromkeys(findings, undefined)}
    one_way["AURC"] = block | {"coverage": [0.5, 1.0], "risk": [0.0, 0.25]}
    result = dict.fromkeys(tables.DIRECTION_LABELS, one_way) | {"seeds": 1}
    chance = {direction: {"AURC": block} for direction in tables.DIRECTION_LABELS}
    return dict.fromkeys(models, result) | {"chance": chance}


def probed(models: list[str]) -> dict:
    """As `seeds.over_seeds` gives what models say to probes; one kind is undefined."""
    block = {"value": 0.625, "low": 0.5, "high": 0.75, "left_out": 3}
    undefined = {"value": None, "low": None, "high": None, "left_out": 10}
    result = {"seeds": 1}
    for direction, names in tables.PROBES.items():
        result[direction] = dict.fromkeys(names, block)
    result["image_to_report"]["zone"] = undefined
    by_finding = {"Edema": block | {"positives": 4}, "Mass": block | {"positives": 5}}
    result["report_to_image"][tables.ZERO_SHOT] = block | {"by_finding": by_finding}
    return dict.fromkeys(models, result)


def errors_of(models: list[str]) -> pd.DataFrame:
    return tables.finding_errors(measured(models), pool=10)


def ablated(undefined: bool = False) -> dict:
    """As `companion.ablations.compare` gives it: mcr, all verdicts, and perhaps nDCG undefined."""
    compared = {"mcr": {measure: {"value": 0.5} for measure in tables.ABLATION_MEASURES}}
    verdicts = ("better", "worse", "open", "none: no pair differs")
    for place, variant in enumerate(ablations.variants("demo")[1:]):
        block = {"value": 0.4, "difference": -0.1, "low": -0.2, "high": 0.05}
        block |= {"verdict": verdicts[place % 4], "detectable": None if place % 4 == 3 else 0.15}
        compared[variant] = dict.fromkeys(tables.ABLATION_MEASURES, block)
    for record in compared.values():
        record |= {"seeds": 1, "epochs": 5}
        if undefined:
            record["nDCG@10_without_partner"] = None
    return compared


COSTS = []
for place, cost_of in enumerate(("mcr", "dual", "clip")):
    for times in (0.5, 1, 2):
        value = 2 + 0.3 * place + 0.4 * times
        point = {"variant": cost_of, "times": times, "value": value}
        point |= {"low": value - 0.2, "high": value + 0.1, "memory_gb": 1.2 + 0.5 * place}
        COSTS.append(point | {"flops": 5e13 * times})


def conditions() -> list[dict]:
    """As `companion.robustness` lists them."""
    listed = []
    for condition in corruptions.conditions():
        fields = {"corruption": condition.corruption, "label": condition.label}
        listed.append({"name": condition.name, **fields})
    return listed


def corrupted(models: list[str]) -> dict:
    """As `seeds.over_seeds` gives what corrupted input costs; a model may find nothing at all."""
    block = {"value": 0.9, "low": 0.8, "high": 1.1}
    undefined = {"value": None, "low": None, "high": None}
    result = {"seeds": 1}
    for place, condition in enumerate(conditions()):
        kept = undefined if place == 3 else block
        rsum = {"value": 4 - 0.15 * place, "low": 3 - 0.12 * place, "high": 4.5 - 0.15 * place}
        result[condition["name"]] = {"RSUM": rsum, "RSUM_kept": kept}
    return dict.fromkeys(models, result)


ABLATIONS = ablations.listed("demo")
SHARES = ablations.mask_shares("demo")

FIGURES = {
    "loss": Drawing(COLUMN, lambda: plots.loss_curves(HISTORY, 500)),
    "bars": Drawing(COLUMN, lambda: plots.recall_bars(RECALL_OF_THREE)),
    "bars of six": Drawing(COLUMN, lambda: plots.recall_bars(RECALL, "report")),
    "curves": Drawing(FULL, lambda: plots.curves(records(["mcr", "abm"]))),
    "curves of six": Drawing(FULL, lambda: plots.curves(records(SIX))),
    "gap": Drawing(COLUMN, lambda: plots.modality_gap(TWO_GAPS)),
    "gap of six": Drawing(FULL, lambda: plots.modality_gap(GAPS)),
    "lengths": Drawing(COLUMN, lambda: plots.lengths(FRAME)),
    "agreement": Drawing(FULL, lambda: plots.agreement(agreement(["floor", "mcr", "abm"]))),
    "agreement of six": Drawing(FULL, lambda: plots.agreement(agreement(SIX))),
    "errors": Drawing(FULL, lambda: plots.first_hit_errors(errors_of(["mcr", "abm"]))),
    "errors of six": Drawing(FULL, lambda: plots.first_hit_errors(errors_of(SIX))),
    "risk": Drawing(COLUMN, lambda: plots.risk_by_coverage(measured(["mcr", "abm"]))),
    "risk of six": Drawing(COLUMN, lambda: plots.risk_by_coverage(measured(SIX))),
    "probes": Drawing(COLUMN, lambda: plots.probe_accuracy(probed(["mcr", "abm"]))),
    "probes of six": Drawing(COLUMN, lambda: plots.probe_accuracy(probed(SIX))),
    "ablations": Drawing(FULL, lambda: plots.ablation_differences(ABLATIONS, ablated())),
    "ablations, undefined": Drawing(
        FULL, lambda: plots.ablation_differences(ABLATIONS, ablated(undefined=True))
    ),
    "cost": Drawing(FULL, lambda: plots.rsum_by_cost(COSTS)),
    "cost of one": Drawing(FULL, lambda: plots.rsum_by_cost(COSTS[:1])),
    "robustness": Drawing(
        FULL, lambda: plots.robustness(conditions(), corrupted(["mcr", "abm", "dual", "clip"]))
    ),
    "robustness of six": Drawing(FULL, lambda: plots.robustness(conditions()[:-1], corrupted(SIX))),
    "mask curves": Drawing(COLUMN, lambda: plots.ablation_curves(SHARES, ablated())),
    "mask curves, undefined": Drawing(
        COLUMN, lambda: plots.ablation_curves(SHARES, ablated(undefined=True))
    ),
}


@pytest.mark.parametrize("name", [name for name in FIGURES if "six" not in name])
def test_drawn_again_gives_the_same_bytes_and_undated_files_with_truetype_fonts(name, tmp_path):
    assert_reproducible(FIGURES[name], tmp_path)


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_overlaps_and_nothing_leaves_the_page(name):
    assert_nothing_overlaps(FIGURES[name])


VENUES = {"icml2024": (3.25, 6.75), "neurips2024": (5.5, 5.5)}  # inches, of their templates


@pytest.mark.parametrize("venue", VENUES)
def test_every_figure_can_be_drawn_in_the_style_of_a_venue(venue):
    """The style is chosen when the program starts, so another process draws."""
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import figure_checks, test_plots, test_sheets
        column, full = map(float, sys.argv[2:])
        for drawing in [*test_plots.FIGURES.values(), *test_sheets.FIGURES.values()]:
            figure_checks.assert_nothing_overlaps(drawing)
            figure = drawing.draw()
            width = column if drawing.width == figure_checks.COLUMN else full
            assert figure.get_figwidth() == width
            for text in figure_checks.shown_texts(figure):
                assert text.get_fontfamily()[0] in ("STIXGeneral", "DejaVu Sans Mono")
    """
    widths = [str(width) for width in VENUES[venue]]
    command = [sys.executable, "-c", textwrap.dedent(code), os.path.dirname(__file__), *widths]
    environment = os.environ | {"MCR_STYLE": venue}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_venue_s_fonts_are_those_of_tueplots_and_an_unknown_one_is_named():
    venue = plots.venue("icml2024")
    bundle = tueplots.bundles.icml2024(usetex=False)
    for key in ("font.size", "axes.labelsize", "legend.fontsize", "xtick.labelsize"):
        assert venue.text[key] == bundle[key]
    with pytest.raises(ValueError, match=r"MCR_STYLE=icml is no venue: .*cvpr2024"):
        plots.venue("icml")
    assert plots.venue("") == plots.OURS


def test_a_caption_is_saved_beside_its_figure_and_says_how_wide_to_print(tmp_path):
    figure = plots.recall_bars({"mcr": evaluated()})
    stem = tmp_path / "recall"
    assert plots.save(figure, stem, "Recall of 50 % – all.")[2] == tmp_path / "recall.txt"
    text = (tmp_path / "recall.txt").read_text(encoding="utf-8")
    assert text.startswith("Recall of 50 % – all. Made for one column, 8.5 cm")
    before = (tmp_path / "recall.txt").stat().st_mtime_ns
    plots.save(figure, stem, "Recall of 50 % – all.")
    assert (tmp_path / "recall.txt").stat().st_mtime_ns == before
    plots.save(plots.curves(records(["mcr"])), stem, "Curves.")
    text = (tmp_path / "recall.txt").read_text(encoding="utf-8")
    assert "the full width of the text, 17.0 cm" in text


def test_save_leaves_equal_files_alone_and_replaces_others(tmp_path):
    stem = tmp_path / "new" / "figure.v1"
    paths = plots.save(plots.recall_bars({"mcr": evaluated()}), stem)
    assert paths == [stem.with_name("figure.v1.png"), stem.with_name("figure.v1.pdf")]
    before = [path.stat().st_mtime_ns for path in paths]
    plots.save(plots.recall_bars({"mcr": evaluated()}), stem)
    assert [path.stat().st_mtime_ns for path in paths] == before
    plots.save(plots.recall_bars({"mcr": evaluated(shift=0.01)}), stem)
    for path, old_time in zip(paths, before, strict=True):
        assert path.stat().st_mtime_ns > old_time
    assert sorted(stem.parent.iterdir()) == sorted(paths)


names = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=30, unique=True)


@given(names)
@settings(deadline=None, max_examples=15)
def test_every_name_has_its_own_look_and_known_ones_always_the_same(others):
    look = plots.looks([*others, *VARIANTS, "floor", "ceiling"])
    assert len({to_hex(one["color"]) for one in look.values()}) == len(look)
    assert look == plots.looks(["ceiling", "floor", *VARIANTS, *reversed(others)])
    for name in [*VARIANTS, "floor", "ceiling"]:
        assert plots.looks([name])[name] == look[name]


def test_strange_names_stay_text(tmp_path):
    folder = STRANGE.replace("\ud800", "")  # which no table can hold
    variants = ["$a$", "_private", "a\nb", "\x00", folder]
    for figure in (
        plots.recall_bars({name: evaluated() for name in variants}),
        plots.curves(records(variants)),
        plots.modality_gap({name: gap() for name in variants}),
        plots.lengths(FRAME.assign(view=folder)),
    ):
        assert_text_is_literal(figure)
        plots.save(figure, tmp_path / "figure")
    labels = [text.get_text() for text in plots.curves(records(variants)).legends[0].get_texts()]
    assert labels[:4] == ["$a$", "_private", "a b", ""]


def test_recall_bars_stand_at_their_values_over_chance():
    figure = plots.recall_bars({"mcr": evaluated(), "x": evaluated(shift=0.05)}, "report")
    for axes in figure.axes:
        heights = [bar.get_height() for bar in axes.patches]
        assert heights == pytest.approx([23, 35, 50, 18, 30, 45])
        whiskers = axes.collections[0]
        chance = axes.collections[-1]
        assert whiskers.get_segments()[0][:, 1] == pytest.approx([20, 27])
        assert [line[0][1] for line in chance.get_segments()] == pytest.approx([0.2, 1, 2])
    label = figure.axes[-1].get_xlabel()
    assert "pool of 500" in label
    assert "deviation" not in label
    several = plots.recall_bars({"mcr": evaluated() | {"seeds": 3}}).axes[-1].get_xlabel()
    assert "± deviation over seeds" in several


@pytest.mark.parametrize("pool", [1, 3, 10, 15, 48, 500])
def test_chance_is_a_dashed_line_under_the_validation_curve(pool):
    figure = plots.loss_curves(HISTORY, pool)
    (line,) = [line for line in figure.axes[1].lines if line.get_label() == "chance"]
    assert line.is_dashed()
    assert line.get_ydata()[0] == pytest.approx(100 * min(1, 10 / pool))


def test_recall_bars_refuse_other_pools_and_a_missing_policy():
    with pytest.raises(ValueError, match=r"\[400, 500\]"):
        plots.recall_bars({"mcr": evaluated(), "abm": evaluated(pool=400)})
    bare = evaluated()
    bare["image_to_report"] = {"pair": bare["image_to_report"]["pair"]}
    with pytest.raises(ValueError, match="policy 'report'"):
        plots.recall_bars({"mcr": bare}, "report")


def test_curves_show_mean_above_best_and_the_paper_s_lines():
    table = pd.DataFrame(records(["mcr"]))
    shuffled = table.sample(frac=1, random_state=0).to_dict("records")
    figure = plots.curves(shuffled, ["CIDEr"])
    for axes, kind in zip(figure.axes, ("mean", "best"), strict=True):
        assert len(axes.lines) == 3 * 2
        for direction, dashed in (("image_to_report", True), ("report_to_image", False)):
            rows = table[(table["variant"] == "mcr") & (table["direction"] == direction)]
            rows = rows[rows["metric"] == "CIDEr"]
            lines = [line for line in axes.lines if line.is_dashed() == dashed]
            (line,) = [line for line in lines if line.get_color() == plots.PALETTE[0]]
            assert line.get_xdata().tolist() == list(range(1, 11))
            assert line.get_ydata().tolist() == rows[kind].tolist()
    with pytest.raises(ValueError, match="METEOR"):
        plots.curves([record for record in records(["mcr"]) if record["metric"] != "METEOR"])


def test_modality_gap_treats_all_panels_alike():
    wide = gap() | {"tsne": [[10.0 * x, y] for x, y in gap()["tsne"]]}
    same = gap() | {"tsne": [[1.0, 1.0]] * 80}
    figure = plots.modality_gap({"abm": wide, "mcr": same})
    assert [axes.get_title() for axes in figure.axes] == ["(a) AbM (abm)", "(b) MbA (mcr)"]
    for axes, points in zip(figure.axes, (wide["tsne"], same["tsne"]), strict=True):
        assert np.ptp(axes.get_xlim()) == pytest.approx(np.ptp(axes.get_ylim()))
        assert axes.bbox.width == pytest.approx(axes.bbox.height)
        assert len(axes.get_xticks()) == 0
        assert len(axes.get_yticks()) == 0
        image, report = (np.asarray(part.get_offsets()) for part in axes.collections)
        assert np.array_equal(np.concatenate([image, report]), points)
        assert "probe accuracy" in axes.get_xlabel()
        assert "1.750" in axes.get_xlabel()


def test_lengths_count_every_pair():
    figure = plots.lengths(FRAME)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == len(FRAME)
    ticks = []
    for axes in figure.axes[1:]:
        ticks += [text.get_text() for text in axes.get_yticklabels()]
    assert sorted(ticks) == ["AP  10", "PA  30", "test  4", "train  30", "validate  6"]


def test_agreement_is_a_cell_a_finding_and_model_in_both_directions():
    figure = plots.agreement(agreement(["floor", "mcr"]))
    assert [axes.get_title() for axes in figure.axes] == [
        "F1 of the first hit, image to report",
        "F1 of the first hit, report to image",
    ]
    for axes in figure.axes:
        assert [text.get_text() for text in axes.get_xticklabels()] == ["floor", "mcr"]
        cells = [text.get_text() for text in axes.texts]
        assert cells == ["0.00", "0.10", "0.50", "0.50", "1.00", "1.00"]  # none where undefined


def test_errors_are_a_panel_a_class_with_a_cell_a_finding_and_model():
    table = errors_of(["mcr", "abm"])
    assert table.index.tolist() == ["Edema (7)", "Enlarged Cardiomediastinum (7)"]
    figure = plots.first_hit_errors(table)
    assert [axes.get_title() for axes in figure.axes] == [*tables.FIRST_HIT.values()]
    for axes in figure.axes:
        cells = [text.get_text() for text in axes.texts]
        assert cells == ([] if axes.get_title() == "wrong zone" else ["25"] * 4)
    with pytest.raises(ValueError, match="No pair has a finding"):
        plots.first_hit_errors(table.iloc[:0])


def test_risk_is_drawn_over_coverage_in_percent_and_chance_has_no_curve():
    figure = plots.risk_by_coverage(measured(["mcr", "abm"]))
    assert [axes.get_title() for axes in figure.axes] == [*tables.DIRECTION_LABELS.values()]
    for axes in figure.axes:
        lines = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
        curve = [[50.0, 0.0], [100.0, 25.0]]
        assert lines == {"mcr": curve, "abm": curve}


def test_loss_curves_take_what_a_variant_has():
    figure = plots.loss_curves(HISTORY.drop(columns=["mim", "mrm"]))
    above, below = figure.axes
    assert [line.get_label() for line in above.lines] == ["loss", "vrc"]
    assert below.lines[0].get_xydata().tolist() == [[e, 5 * e] for e in (2, 4, 6, 8, 10, 12)]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.recall_bars({}),
        lambda: plots.curves([]),
        lambda: plots.modality_gap({}),
        lambda: plots.risk_by_coverage({}),
    ],
)
def test_nothing_to_draw_is_an_error(draw):
    with pytest.raises(ValueError, match="no variant"):
        draw()


def test_a_single_epoch_is_seen():
    first = HISTORY[HISTORY["epoch"] == 2]
    losses, recall = plots.loss_curves(first, 500).axes
    assert all(line.get_marker() == "o" for line in losses.lines)
    assert recall.get_xticks().tolist() == [2]


def test_ablations_lie_where_their_differences_are_and_in_the_colour_of_their_verdict():
    figure = plots.ablation_differences(ABLATIONS, ablated())
    rows = [row for row in ABLATIONS if row.variant != "mcr"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [label for label in labels if label not in dict.fromkeys(r.group for r in rows)] == [
        row.setting for row in rows
    ]
    for axes in figure.axes:
        dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
        assert len(dots) == len(rows)
        for dot in dots:
            assert dot.get_xdata() == pytest.approx([-10])
        bands = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
        assert set(bands) == {(-15.0, 30.0)}
        whiskers = [part for bars in axes.collections for part in bars.get_segments()]
        assert np.array(whiskers)[:, :, 0].tolist() == pytest.approx(
            np.array([[-20, 5]] * len(rows))
        )
    colours = [to_hex(line.get_color()) for line in figure.axes[0].get_lines()[: len(rows)]]
    assert colours[:2] == [plots.PALETTE[0].lower(), plots.PALETTE[13].lower()]
    with pytest.raises(ValueError, match="no ablation to draw"):
        plots.ablation_differences(ABLATIONS, {"mcr": ablated()["mcr"]})


def test_the_point_without_a_mask_is_apart_from_the_curve():
    figure = plots.ablation_curves(SHARES, ablated())
    for axes in figure.axes:
        curve, apart = [line for line in axes.get_lines() if line.get_marker() == "o"]
        assert apart.get_xdata().tolist() == [0]
        assert min(curve.get_xdata()) > 0 and len(curve.get_xdata()) == 4
        assert to_hex(apart.get_markerfacecolor()) == "#ffffff"
    some = {name: ablated()[name] for name in ("mcr", "image-mask-25")}
    left, right = plots.ablation_curves(SHARES, some).axes[:2]
    counts = [
        [len(line.get_xdata()) for line in axes.get_lines() if line.get_marker() == "o"]
        for axes in (left, right)
    ]
    assert counts == [[2, 0], [1, 0]]
    with pytest.raises(ValueError, match="no mcr to compare with"):
        plots.ablation_curves(SHARES, {"abm": ablated()["abm"]})


def test_rsum_lies_over_its_cost_and_more_compute_has_larger_markers():
    left, right = plots.rsum_by_cost(COSTS).axes
    for axes, cost in ((left, "flops"), (right, "memory_gb")):
        markers = [dots for dots in axes.collections if isinstance(dots, PathCollection)]
        drawn = np.concatenate([dots.get_offsets() for dots in markers])
        expected = [[point[cost], 100 * point["value"]] for point in COSTS]
        np.testing.assert_allclose(drawn, expected, rtol=plots.APART - 0.999)
        assert all((np.diff(dots.get_sizes()) > 0).all() for dots in markers)
    assert [label.get_text() for label in left.get_xticklabels()] == [
        "25 TFLOPs", "50 TFLOPs", "100 TFLOPs",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="no model whose compute was counted"):
        plots.rsum_by_cost([])
