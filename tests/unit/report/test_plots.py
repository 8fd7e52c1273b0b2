import io

import pytest

from mistudio.report.plots import ce_figure, density_figure, training_figure

pytest.importorskip("matplotlib")


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


def test_figures_stay_out_of_pyplot():
    assert density_figure([0.1]).canvas.manager is None
