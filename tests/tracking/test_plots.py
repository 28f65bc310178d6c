"""The plots and the description of a run, including corner cases."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pgzoo.tracking.plots import evaluation_histogram, learning_curve, moving_average
from pgzoo.tracking.report import History, describe_run, mean_returns


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes if (legend := axes.get_legend()) for text in legend.get_texts()]


def draw(figure: Figure) -> None:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    assert data.getvalue().startswith(b"\x89PNG")


def test_moving_average_equals_values_calculated_by_hand() -> None:
    assert moving_average([3.0, 5.0, 7.0, 1.0], 2).tolist() == [3.0, 4.0, 6.0, 4.0]
    assert moving_average([], 2).tolist() == []


def test_a_learning_curve_shows_episodes_their_mean_and_the_threshold() -> None:
    steps = list(range(10, 2010, 10))
    figure = learning_curve(steps, [s / 4 for s in steps], title="a on $b$_1", subtitle="seed 3", threshold=475.0)
    axes = figure.axes[0]
    assert labels(figure) == ["episode", "mean of the last 20 episodes", "threshold 475"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("environment steps", "return of training episodes")
    line = np.asarray(axes.lines[0].get_ydata())
    assert line[-1] == pytest.approx(np.mean([s / 4 for s in steps[-20:]]))
    draw(figure)


@pytest.mark.parametrize("returns", [[], [20.0], [5.0, 5.0], [-1e9, 1e9]])
def test_plots_of_few_or_no_episodes_are_drawn(returns: list[float]) -> None:
    draw(learning_curve(list(range(len(returns))), returns))
    draw(evaluation_histogram(returns))


def test_a_learning_curve_shows_at_most_5000_of_a_million_episodes() -> None:
    figure = learning_curve(np.arange(1_000_000), np.arange(1_000_000) / 3)
    assert len(np.asarray(figure.axes[0].collections[0].get_offsets())) <= 5000


def test_a_histogram_has_a_panel_for_sampled_and_one_for_greedy_actions() -> None:
    noise = random.Random(0)
    sampled = [noise.gauss(400, 40) for _ in range(100)]
    figure = evaluation_histogram(sampled, [500.0] * 20, title="a on b")
    assert len(figure.axes) == 2
    assert labels(figure)[1] == "greedy actions: mean 500.0, 20 episodes"
    heights = [sum(p.get_height() for p in axes.patches if isinstance(p, Rectangle)) for axes in figure.axes]
    assert heights == [100, 20]
    draw(figure)


def test_mean_returns_equal_values_calculated_by_hand() -> None:
    # Four intervals of 25 steps, of which the second is empty; the last episode belongs to the last interval.
    assert mean_returns([10, 20, 60, 80, 100], [1.0, 3.0, 7.0, 8.0, 10.0], 4) == [2.0, 7.0, 9.0]
    assert mean_returns([0], [-5.0], 4) == [-5.0]


def test_the_description_of_a_run_begins_with_its_learning_curve() -> None:
    history = History(steps=[10, 20, 30, 40], returns=[0.0, 3.5, 7.0, 7.0])
    first, _, rest = describe_run(history, "**a** on **b**", "#/runs/7").partition("\n\n")
    plot = "[plot](#/runs/7/artifacts/plots/learning_curve.png)"
    assert first == f"`▁▅██` mean return of training episodes: 0 → 7 ({plot})"
    assert rest == "**a** on **b**"
    assert describe_run(History(steps=[1, 2], returns=[-4.0, -4.0]), "", "").startswith("`▁▁` ")
