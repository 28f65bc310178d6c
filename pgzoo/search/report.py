"""The tables and plots of a study, as files in its folder."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.files import write_file
from pgzoo.quiet import without_warnings
from pgzoo.search.result import SweepResult
from pgzoo.search.space import choice_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_report"]

_log = logging.getLogger("pgzoo")

PLOTS = {
    "history": "plot_optimization_history",
    "importances": "plot_param_importances",
    "slice": "plot_slice",
    "parallel_coordinates": "plot_parallel_coordinate",
}
"""Names of files, and the functions of Optuna's matplotlib backend that draw them."""

FEWEST = 4
"""Finished trials that a plot needs: with fewer, importances can't be estimated."""


def write_report(result: SweepResult, study: Any) -> Iterator[Path]:
    """Write `trials.csv`, `finalists.csv` and the plots of the study; yield the files."""
    yield _write(result.folder / "trials.csv", _trials(result))
    if result.finalists:
        yield _write(result.folder / "finalists.csv", _finalists(result))
    finished = [row for row in result.trials if row.score is not None]
    if len(finished) >= FEWEST and len({row.score for row in finished}) > 1:
        yield from _plots(result.folder, study)


def _write(path: Path, data: bytes) -> Path:
    write_file(path, data, durable=False)
    return path


def _trials(result: SweepResult) -> bytes:
    keys = list(dict.fromkeys(key for row in result.trials for key in row.settings))
    seeds = [f"seed {seed}" for seed in result.seeds]
    rows = [
        [
            row.number,
            row.status,
            row.score,
            *(choice_label(row.settings.get(key)) for key in keys),
            *(row.scores or [None] * len(seeds)),
            row.reason,
            " ".join(row.run_keys),
        ]
        for row in result.trials
    ]
    return _table(["trial", "status", "score", *keys, *seeds, "reason", "runs"], rows)


def _finalists(result: SweepResult) -> bytes:
    keys = list(dict.fromkeys(key for finalist in result.finalists for key in finalist.settings))
    rows = [
        [
            finalist.number,
            finalist.search_score,
            finalist.fresh_score,
            finalist.fresh.low,
            finalist.fresh.high,
            finalist.shrinkage,
            *(choice_label(finalist.settings.get(key)) for key in keys),
        ]
        for finalist in result.finalists
    ]
    return _table(["trial", "search_score", "fresh_score", "fresh_low", "fresh_high", "shrinkage", *keys], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return text.getvalue().encode()


def _plots(folder: Path, study: Any) -> Iterator[Path]:
    """Draw the plots that Optuna can draw of this study; one that it can't is left out with a warning."""
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as drawn

    for name, function in PLOTS.items():
        image = io.BytesIO()
        try:
            with without_warnings(), plt.rc_context({}):  # Optuna marks these functions as experimental
                axes = getattr(drawn, function)(study)
                figure = (axes.flat[0] if hasattr(axes, "flat") else axes).figure
                if name == "parallel_coordinates":
                    _move_color_bar(figure)
                figure.savefig(image, format="png", dpi=120, bbox_inches="tight")
                plt.close(figure)
        except Exception as error:
            _log.warning("The plot %s of the study can't be drawn: %s: %s", name, type(error).__name__, error)
            continue
        yield _write(folder / f"{name}.png", image.getvalue())


def _move_color_bar(figure: Figure) -> None:
    """Move the color bar to the right: the labels of the last axis are between the two, such as 6 x 10⁻³."""
    for axes in figure.axes:
        if axes.get_label() == "<colorbar>":
            place = axes.get_position()
            axes.set_position((place.x0 + 0.1, place.y0, place.width, place.height))
