"""A comparison in MLflow: a run of its own beside the runs that it compares, never taken for one of them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.analysis.report import ENDINGS, render
from pgzoo.analysis.selection import COMPARISON
from pgzoo.analysis.wording import center, interval, percent, percent_interval
from pgzoo.tracking.journal import MAX_PARAM, clean_items, clean_key
from pgzoo.tracking.lookup import ask

if TYPE_CHECKING:
    from pgzoo.analysis.blocks import Block
    from pgzoo.analysis.compare import Comparison

__all__ = ["log"]


def log(comparison: Comparison, command: str = "") -> str:
    """Write the comparison to its tracking store and return the id of the run. Raises StoreError."""
    experiment = place(comparison)
    start: dict[str, Any] = {"experiment": experiment}
    if comparison.tracking_uri == comparison.home.default_uri:
        start["artifacts"] = comparison.home.artifacts.as_uri()
    logged: list[str] = []

    def write(_: Any) -> None:
        from mlflow.entities import Metric, Param

        from pgzoo.tracking.store import Store

        store, now = Store(comparison.tracking_uri), int(time.time() * 1000)
        tags = {
            COMPARISON[0]: COMPARISON[1],
            "mlflow.source.name": command or "pgzoo.compare",
            "mlflow.source.type": "LOCAL",
            "mlflow.note.content": note(comparison),
        }
        name = " vs ".join(comparison.labels)
        run_id = store.client.create_run(store.experiment(start), now, tags, run_name=name).info.run_id
        metrics = {clean_key(key): value for key, value in numbers(comparison).items()}
        store.client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
            params=[Param(key, value) for key, value in parameters(comparison).items()],
        )
        with tempfile.TemporaryDirectory() as folder:
            for ending in ENDINGS:
                file = Path(folder) / f"report{ending}"
                file.write_bytes(render(comparison, ending))
                store.upload(run_id, file, file.name)
        store.close_run(run_id, "FINISHED", int(time.time() * 1000))
        logged.append(run_id)

    ask(comparison.tracking_uri, write, f'the comparison into "{experiment}"')
    return logged[0]


def place(comparison: Comparison) -> str:
    """Return the experiment of the runs if they share one, else one for comparisons."""
    experiments = {run.experiment for side in comparison.sides for run in side.runs}
    return experiments.pop() if len(experiments) == 1 else "pgzoo/comparisons"


def parameters(comparison: Comparison) -> dict[str, str]:
    told = {f"side.{place + 1}": label for place, label in enumerate(comparison.labels)}
    told |= {"env": ",".join(comparison.envs), "metric": comparison.metric, "score": comparison.score}
    return clean_items(told, MAX_PARAM)


def numbers(comparison: Comparison) -> dict[str, float]:
    """Return what is logged as metrics: `CartPole-v1/a/iqm`, `CartPole-v1/a vs b/improvement` ..."""
    found: dict[str, float | None] = {}
    for block in blocks(comparison):
        env = block.env or "all environments"
        for label, final in zip(comparison.labels, block.final, strict=True):
            for name in ("iqm", "mean", "median"):
                estimate = getattr(final, name)
                key = f"{env}/{label}/{name}"
                found |= {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
            found[f"{env}/{label}/seeds"] = final.seeds
        for label, area in zip(comparison.labels, block.area, strict=False):
            found[f"{env}/{label}/area_iqm"] = area.iqm.value
        for pair in block.pairs:
            key = f"{env}/{pair.a} vs {pair.b}"
            found |= {f"{key}/improvement": pair.improvement.value, f"{key}/difference": pair.difference.value}
            found[f"{key}/settled"] = float(pair.settled)
    return {key: value for key, value in found.items() if value is not None}


def blocks(comparison: Comparison) -> list[Block]:
    return [*comparison.blocks, *([comparison.overall] if comparison.overall else [])]


def note(comparison: Comparison) -> str:
    """Return the comparison as Markdown, which MLflow shows above the run."""
    lines = [f"**{' vs '.join(comparison.labels)}** on {', '.join(comparison.envs)}", ""]
    for block in blocks(comparison):
        lines += [f"| {block.env or 'all environments'} | seeds | IQM | 95 % |", "|---|---:|---:|---|"]
        for label, final in zip(comparison.labels, block.final, strict=True):
            shown = label.replace("|", "\\|")
            lines.append(f"| {shown} | {final.seeds} | {center(final.iqm)} | {interval(final.iqm) or '-'} |")
        lines.append("")
        for pair in block.pairs:
            chance = f"{percent(pair.improvement.value)} {percent_interval(pair.improvement)}".rstrip()
            lines.append(f"- P({pair.a} > {pair.b}) = {chance}: {pair.verdict}")
        lines.append("")
    lines += [f"- {warning}" for warning in comparison.warnings]
    return "\n".join(lines)[:8000]
