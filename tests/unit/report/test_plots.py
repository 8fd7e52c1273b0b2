import io

import pytest

from mistudio.report.plots import (
    ce_figure,
    density_figure,
    dose_response_figure,
    probing_figure,
    push_figure,
    redundancy_figure,
    scores_figure,
    stability_figure,
    training_figure,
)

BarContainer = pytest.importorskip("matplotlib.container").BarContainer


def png_of(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_density_counts_every_feature_that_fires_and_names_the_dead():
    figure = density_figure([0.0, 0.0, 1e-4, 1e-3, 1e-3, 0.5])
    (axes,) = figure.axes
    assert sum(bar.get_height() for bar in axes.patches) == 4
    assert axes.get_title() == "6 features, 2 never fired"
    assert png_of(figure).startswith(b"\x89PNG")


def test_density_of_a_dead_dictionary_is_an_empty_plot():
    assert png_of(density_figure([0.0, 0.0])).startswith(b"\x89PNG")


def test_training_has_one_panel_a_metric():
    figure = training_figure(
        [0, 10, 20], {"loss": [3, 2, 1], "l0": [32, 32, 32], "dead_fraction": [0, 0, 0], "lr": [1, 1, 0]}
    )
    assert [axes.get_title() for axes in figure.axes] == ["loss", "l0", "dead fraction", "lr"]
    assert list(figure.axes[0].lines[0].get_ydata()) == [3, 2, 1]
    assert png_of(figure).startswith(b"\x89PNG")


def test_training_without_metrics_is_an_empty_plot():
    assert training_figure([], {}).axes == []


def test_cross_entropy_leaves_out_what_was_not_measured():
    figure = ce_figure({"ce_clean": 1.9, "ce_spliced": 2.0, "ce_zero": None, "ce_recovered": 0.98})
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [1.9, 2.0]
    assert axes.get_title() == "CE recovered 0.980"


def test_redundancy_counts_every_feature_from_minus_one_to_one():
    figure = redundancy_figure([-1.0, 0.0, 0.5, 1.0])
    (axes,) = figure.axes
    assert sum(bar.get_height() for bar in axes.patches) == 4
    assert axes.get_title() == "4 features, mean 0.125"
    assert png_of(figure).startswith(b"\x89PNG")


def test_stability_shows_autoencoders_beside_random_ones():
    figure = stability_figure([0.9, 0.8], [0.2, 0.3, 0.4])
    (axes,) = figure.axes
    assert sum(bar.get_height() for bar in axes.patches) == 5
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["autoencoders", "random"]


def average(representation, k, value, metric="auroc"):
    return {
        "representation": representation,
        "k": k,
        "metric": metric,
        "value": value,
        "low": value - 0.1,
        "high": value + 0.05,
    }


def test_probing_has_a_group_of_bars_for_each_k_and_a_line_for_the_dense_probe():
    entries = [average("dense", 0, 0.9), average("sae", 1, 0.8), average("sae", 16, 0.85)]
    entries += [average(name, k, value) for name, value in (("random", 0.6), ("shuffled", 0.5)) for k in (1, 16)]
    figure = probing_figure([*entries, average("sae", 1, 0.1, "accuracy")], "auroc")
    (axes,) = figure.axes
    bars = [container for container in axes.containers if isinstance(container, BarContainer)]
    assert [[bar.get_height() for bar in container] for container in bars] == [[0.8, 0.85], [0.6, 0.6], [0.5, 0.5]]
    (interval, _) = bars[0].errorbar.lines[2][0].get_segments()
    assert interval[:, 1].tolist() == pytest.approx([0.7, 0.85])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "16"]
    assert [line.get_ydata()[0] for line in axes.lines if line.get_label() == "dense probe"] == [0.9]
    assert png_of(figure).startswith(b"\x89PNG")


def test_figures_stay_out_of_pyplot():
    assert density_figure([0.1]).canvas.manager is None


def test_scores_say_how_many_are_not_defined_and_keep_those_below_zero():
    figure = scores_figure({"program": [0.2, 0.9, float("nan")], "program, shuffled": [-0.4, 0.0, 0.0]}, "correlation")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "program: 2, 1 without",
        "program, shuffled: 3",
    ]
    assert axes.dataLim.x0 == pytest.approx(-0.4)
    assert png_of(figure).startswith(b"\x89PNG")


def test_scores_that_are_nowhere_defined_are_an_empty_plot():
    assert png_of(scores_figure({"program": [float("nan")]}, "f1")).startswith(b"\x89PNG")


def tried(method, strength, kl, active, in_range=None, labelled=None):
    shares = {"active": active, "active_low": active / 2, "active_high": 1.0}
    shares |= {f"labelled{end}": labelled for end in ("", "_low", "_high")}
    return {
        "method": method,
        "strength": strength,
        "kl": kl,
        "perplexity_ratio": 1 + kl,
        "in_range": in_range,
        **shares,
    }


STEERED = [
    tried("feature", -1.0, 0.2, 0.1, in_range=False),
    tried("feature", 0.0, 0.0, 0.2, in_range=True),
    tried("feature", 2.0, 0.5, 0.9, in_range=True),
    tried("ablated", None, 0.1, 0.1),
    tried("random_direction", 3.0, 0.5, 0.3),
]


def test_strengths_are_drawn_in_order_with_those_for_use_shaded():
    figure = dose_response_figure(STEERED)
    above, below = figure.axes
    assert above.lines[0].get_xdata().tolist() == [-1.0, 0.0, 2.0]
    assert above.lines[0].get_ydata().tolist() == [0.1, 0.2, 0.9]
    shaded = above.patches[0].get_extents().transformed(above.transData.inverted())
    assert (round(shaded.x0, 6), round(shaded.x1, 6)) == (0.0, 2.0)
    assert below.get_yscale() == "log"
    assert png_of(figure).startswith(b"\x89PNG")


def test_labels_come_before_the_features_own_activation():
    figure = dose_response_figure(
        [{**row, "labelled": 0.5, "labelled_low": 0.4, "labelled_high": 0.6} for row in STEERED]
    )
    assert set(figure.axes[0].lines[0].get_ydata().tolist()) == {0.5}


def test_controls_stand_at_their_push_beside_the_strengths_that_are_not_negative():
    (axes,) = push_figure(STEERED).axes
    points = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines}
    assert points == {
        "feature": ([0.0, 0.5], [0.2, 0.9]),
        "ablated": ([0.1], [0.1]),
        "random direction": ([0.5], [0.3]),
    }
