"""Runs rows of docs/results.md that have a published result, keeps their outcomes, and renders tables and plots."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from published import ROWS, SOURCES, Row, command, given

from pgzoo.analysis.statistics import estimate
from pgzoo.config import Layer, RunConfig
from pgzoo.config.rl_zoo import translate
from pgzoo.registry import PluginCatalog, discover
from pgzoo.runs.resolve import compose, resolve

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "results"
KEPT = FOLDER / "rows.json"
SHOWN_APART = ("total_steps", "eval_episodes", "policy.name")
"""Settings that the page states elsewhere, or that follow from others."""

HEAD = (
    "| algorithm | greedy: median | greedy: IQM | sampled: IQM | steps per seed | seconds, all seeds | published | at "
    "| required | |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---|"
)


@dataclass(frozen=True)
class Outcome:
    """A finished row: the final evaluation of each seed, and the settings of the preset that it was run with."""

    greedy: list[float]
    sampled: list[float]
    env_steps: list[int]
    seconds: float
    settings: dict[str, Any]
    made: str

    @classmethod
    def of(cls, result: Mapping[str, Any], settings: dict[str, Any], made: str) -> Outcome:
        """Return the outcome of a run from what `pgzoo run --json` prints."""
        seeds = result["seeds"]
        return cls(
            greedy=[round(seed["greedy_return_mean"], 4) for seed in seeds],
            sampled=[round(seed["return_mean"], 4) for seed in seeds],
            env_steps=[seed["env_steps"] for seed in seeds],
            seconds=round(result["wall_seconds"], 1),
            settings=settings,
            made=made,
        )

    @property
    def median(self) -> float:
        return float(np.median(self.greedy))


def read_kept(path: Path | None = None) -> dict[str, Outcome]:
    """Return the finished rows in a file, by default `KEPT`, by name, `ALGORITHM/ENV`."""
    path = path or KEPT
    if not path.exists():
        return {}
    return {name: Outcome(**outcome) for name, outcome in json.loads(path.read_text(encoding="utf-8")).items()}


def keep(name: str, outcome: Outcome, path: Path | None = None) -> None:
    """Add or replace a finished row in a file, by default `KEPT`."""
    path = path or KEPT
    rows = {**read_kept(path), name: outcome}
    path.parent.mkdir(exist_ok=True)
    lines = (f"{json.dumps(name)}: {json.dumps(asdict(rows[name]))}" for name in sorted(rows))
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def run_rows(
    only: str,
    run: Callable[[str], dict[str, Any] | None],
    made: Callable[[], str],
    rows: Sequence[Row] = ROWS,
    path: Path | None = None,
) -> None:
    """Run the rows that aren't kept yet, or those whose name contains `only`; `run` returns None if one can't run.

    The return of random actions is measured once per environment. Finished rows are kept in the file `path`, by default
    `KEPT`.
    """
    for row in rows:
        for name, settings in ((f"random/{row.env}", given("random", row.env)), (row.name, row.given)):
            again = bool(only) and name == row.name
            if only not in row.name or (name in read_kept(path) and not again):
                continue
            if result := run(f"{command(settings)} --json"):
                keep(name, Outcome.of(result, preset_of(*name.split("/", 1)), made()), path)
                print(f"{name}: {result['wall_seconds']:.0f} s", file=sys.stderr, flush=True)


@cache
def catalog() -> PluginCatalog:
    return discover()


def preset_of(algorithm: str, env: str) -> dict[str, Any]:
    """Return the settings of the preset that applies by default, if there is one."""
    entry = catalog().auto_preset(algorithm, env)
    return dict(entry.target.settings) if entry else {}


def config_of(row: Row) -> RunConfig:
    """Return all settings of a row."""
    return compose(Layer(row.given, ".".join), catalog())


def render() -> str:
    """Return the section: how to read it, a table per environment, and the rows that weren't run."""
    kept = read_kept()
    done = [row for row in ROWS if row.name in kept]
    passed = [row for row in done if passes(row, kept)]
    short = [row.name for row in done if row not in passed]
    parts = [
        INTRODUCTION.format(sources="\n".join(f"- {about}." for about in SOURCES.values())),
        f"**{len(done)} rows in {len({row.env for row in done})} environments were run: {len(passed)} pass, "
        f"{len(short)} fall short{': ' * bool(short)}{', '.join(f'`{name}`' for name in short)}.**",
    ]
    for env, rows in groupby(ROWS, key=lambda row: row.env):
        parts.append(environment(env, list(rows), kept))
    return "\n\n".join(parts)


INTRODUCTION = """Five seeds per row, trained together by `pgzoo run ALGORITHM --env ENV --seeds 5`: the settings are
the preset's if there is one (`pgzoo presets ALGORITHM ENV`), and the defaults otherwise; where a preset trains longer
than the row needs, the row's command has `--total-steps`. Each seed counts with its mean return of 100 evaluation
episodes, or of 20 (`--eval-episodes 20`) where they have 1000 steps or more. IQM is the
interquartile mean over seeds, with a 95% interval (Student's t).

A row passes if the median over seeds, with greedy actions, is at least *required*: the published mean minus 10% of its
distance from the return of random actions, or minus the published standard deviation if that is more. The sources
measure differently, and environments have newer versions today, so this is no proof of equality:

{sources}

`make results ROW=ppo/Pendulum-v1` runs a row again, `make results` those that were not run."""


def passes(row: Row, kept: Mapping[str, Outcome]) -> bool:
    return kept[row.name].median >= row.bar(random_of(row.env, kept))


def random_of(env: str, kept: Mapping[str, Outcome]) -> float:
    return float(np.mean(kept[f"random/{env}"].sampled))


def plain_tables(rows: Sequence[Row], path: Path) -> str:
    """Return a table per environment of the finished rows in the file `path`, and the names of those not run."""
    kept, parts = read_kept(path), []
    for env, group in groupby(rows, key=lambda row: row.env):
        done = [row for row in group if row.name in kept]
        if done:
            notes = [f"`{row.algorithm}`: {row.remark}." for row in done if row.remark]
            table = "\n".join([HEAD, *(line(row, kept) for row in done)])
            parts += [f"### {env}", table, " ".join([f"Random actions: {random_of(env, kept):.1f}.", *notes])]
    if missing := [f"`{row.name}` ({published(row)})" for row in rows if row.name not in kept]:
        parts.append(f"Not run: {', '.join(missing)}.")
    return "\n\n".join(parts)


def environment(env: str, rows: Sequence[Row], kept: Mapping[str, Outcome]) -> str:
    """Return the table of an environment, its plot, and how its settings differ from the sources'."""
    done = [row for row in rows if row.name in kept]
    missing = [row for row in rows if row not in done]
    parts = [f"### {env}"]
    if done:
        plot(env, done, kept)
        lines = [HEAD, *(line(row, kept) for row in done)]
        parts += [f"![Returns in {env}](results/{env}.png)", "\n".join(lines)]
        parts += [f"Random actions: {random_of(env, kept):.1f}."]
        parts += ["\n".join(f"- `{row.algorithm}`: {differences(row)}" for row in done)]
    if missing:
        listed = "; ".join(f"`{row.algorithm}` ({published(row)}, {row.source})" for row in missing)
        parts.append(f"Not run: {listed}.")
    return "\n\n".join(parts)


def line(row: Row, kept: Mapping[str, Outcome]) -> str:
    outcome, bar = kept[row.name], row.bar(random_of(row.env, kept))
    verdict = "pass" if outcome.median >= bar else "**falls short**"
    if outcome.settings != preset_of(row.algorithm, row.env):
        verdict += ", with earlier settings"
    cells = (
        f"`{row.algorithm}`",
        f"{outcome.median:.1f}",
        interval(outcome.greedy),
        interval(outcome.sampled),
        f"{np.mean(outcome.env_steps):,.0f}",
        f"{outcome.seconds:.{0 if outcome.seconds >= 10 else 1}f}",
        f"{published(row)}, {row.source}",
        f"{row.steps:,.0f}",
        f"{bar:.1f}",
        verdict,
    )
    return f"| {' | '.join(cells)} |"


def published(row: Row) -> str:
    return f"{row.mean:.1f} ± {row.std:.1f}"


def interval(scores: Sequence[float]) -> str:
    """Return the interquartile mean over seeds, with its interval."""
    found = estimate([np.array(scores)])
    if found.low is None or found.high is None:
        return f"{found.value:.1f}"
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"


def differences(row: Row) -> str:
    """Return how pgzoo's settings differ from those of the source, and the row's remark."""
    remark = f" Note: {row.remark}." if row.remark else ""
    if not row.theirs:
        return f"pgzoo's own settings; see the scripts of {row.source} for its settings.{remark}"
    ours = config_of(row)
    file = Layer({row.env: {"n_timesteps": row.steps, **row.theirs}}, lambda path: f"{row.name}: {'.'.join(path)}")
    layer, translation = translate(row.name, file, row.algorithm, row.env)
    theirs = resolve([Layer({"algorithm": row.algorithm, "env": row.env}, ".".join), layer], catalog()).flat()
    found = [
        f"{key} {value} ({theirs[key]})"
        for key, value in ours.flat().items()
        if key not in SHOWN_APART and key in theirs and not same(theirs[key], value)
    ]
    parts = []
    if found:
        parts.append(f"the source's value, where it differs, in parentheses: {', '.join(found)}")
    if translation.unused:
        parts.append(f"not available in pgzoo: {', '.join(translation.unused)}")
    return f"{'; '.join(parts) or 'same settings'}.{remark}"


def same(a: str, b: str) -> bool:
    try:
        return float(a) == float(b)
    except ValueError:
        return a == b


def plot(env: str, rows: Sequence[Row], kept: Mapping[str, Outcome]) -> None:
    """Draw the greedy return of each seed, the published means with their standard deviations, and random actions."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 0.45 * len(rows) + 1.2), dpi=100, layout="constrained")
    for index, row in enumerate(rows):
        outcome = kept[row.name]
        axes.errorbar(
            row.mean, index + 0.18, xerr=row.std, fmt="D", color="gray", markersize=5, capsize=3,
            label="published, ± standard deviation" if index == 0 else None,
        )  # fmt: skip
        axes.plot(outcome.greedy, [index - 0.12] * len(outcome.greedy), "o", color="C0", markersize=5, alpha=0.6,
                  label="pgzoo, each seed, greedy" if index == 0 else None)  # fmt: skip
        axes.plot(outcome.median, index - 0.12, "|", color="C0", markersize=14,
                  label="pgzoo, median" if index == 0 else None)  # fmt: skip
    axes.axvline(random_of(env, kept), color="C3", linestyle=":", label="random actions")
    axes.set(yticks=range(len(rows)), yticklabels=[row.algorithm for row in rows], title=env, xlabel="mean return")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / f"{env.replace('/', '-')}.png", metadata={"Software": None})
    plt.close(figure)


__all__ = ["Outcome", "keep", "plain_tables", "read_kept", "render", "run_rows"]
