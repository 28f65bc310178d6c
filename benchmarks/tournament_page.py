"""The page docs/tournament.md, from the finished pieces of benchmarks/tournament.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from page import table

from pgzoo.analysis.sensitivity import Grid, Sensitivity, analyze
from pgzoo.analysis.statistics import estimate, interpercentile_range, iqm
from pgzoo.analysis.wording import center, interval

Scales = Mapping[str, tuple[int, float, float]]
"""Steps per seed, the return that is 0 and the return that is 1 on the normalized scale, by environment."""

Result = Mapping[str, Any]

HEADER = """# The tournament

All built-in on-policy algorithms on six environments, each with the same number of tuning trials. Made by
`{made_by}`; {done} of {all} pieces have been run. `make tournament PIECE='ppo/*'` runs some of the pieces. Finished
pieces are kept in docs/tournament/pieces.jsonl, so the command can be stopped and started again.

## Protocol

1. **Tuning**: nine trials per algorithm and environment, every combination of 0.3, 1 and 3 times the algorithm's
   default step size (`learning_rate`; `max_kl` of `trpo` and `step_kl` of `npg`) with a discount of 0.95, 0.98 or
   0.995. Each trial has the seeds 100, 101 and 102. All other settings are the algorithm's defaults, without presets.
   The trial with the highest mean return of the final evaluation is chosen; a trial in which a seed failed is not.
2. **Final**: the chosen setting is trained with ten fresh seeds, 0 to 9. All numbers below are from these seeds, except
   for the sensitivity.
3. **Score**: mean return of 100 evaluation episodes with sampled actions and the last parameters.
"""

EXPLANATION = """
- **IQM**: interquartile mean, the mean without the lowest and highest quarter of the seeds. Brackets are 95% bootstrap
  intervals over seeds.
- **normalized**: IQM over all seeds in all environments that were run, on a scale where 0 is a random policy and 1 the
  return in the last column of the table of environments.
- **spread**: from run to run, the mean over environments of the min-max interpercentile range: the distance between the
  5th and 95th percentile of the seeds, in percent of the same scale (Tanaka & Mahmood 2026). With ten seeds, these are
  the lowest and the highest one. Lower is more reliable.
- **sensitivity**: what tuning for each environment gains over the best single setting, on scores normalized by
  percentiles over all trials (Adkins, Bowling & White 2024; [sweeps](sweeps.md)). **Must be tuned**: how many of the
  two hyperparameters have to be tuned for each environment to reach 95% of the tuned score. Both need two
  environments.
"""


def render(
    names: Sequence[str], scales: Scales, done: Mapping[str, Result], missing: Sequence[str], made_by: str
) -> str:
    """Return the page; `done` are the finished pieces by name, `missing` the names of the others."""
    sensitivities = {found.algorithm: found for found in analyze(grids(names, scales, done))}
    parts = [HEADER.format(made_by=made_by, done=len(done), all=len(done) + len(missing))]
    parts.append(table(
        ["environment", "steps per seed", "normalized 0", "normalized 1"],
        [[env, f"{steps:,}", f"{low:g}", f"{high:g}"] for env, (steps, low, high) in scales.items()],
    ) + "\n")  # fmt: skip
    head = ["algorithm", "environments", "normalized IQM", "spread", "sensitivity", "must be tuned", *scales]
    rows = [row(name, scales, done, missing, sensitivities.get(name)) for name in names]
    parts.append(f"## Results\n\n{table(head, rows)}\n{EXPLANATION}")
    if done:
        listing = [[name, chosen_text(one["chosen"]), str(one["seconds"]), one["date"]] for name, one in done.items()]
        parts.append(f"## Chosen settings\n\n{table(['piece', 'setting', 'seconds', 'date'], listing)}\n")
        commands = "\n".join(line for one in done.values() for line in (one["tuning"], one["final"]))
        parts.append(f"## Commands\n\n```sh\n{commands}\n```\n")
    if missing:
        parts.append(f"## Not run\n\n{len(missing)} pieces: {', '.join(f'`{name}`' for name in missing)}.\n")
    return "\n".join(parts)


def row(
    name: str, scales: Scales, done: Mapping[str, Result], missing: Sequence[str], found: Sensitivity | None
) -> list[str]:
    """Return the cells of one algorithm."""
    returns = {env: known(done[f"{name}/{env}"]["returns"]) for env in scales if f"{name}/{env}" in done}
    returns = {env: of for env, of in returns.items() if of.size}
    cells = [f"`{name}`", str(len(returns))]
    if returns:
        normalized = [(of - scales[env][1]) / (scales[env][2] - scales[env][1]) for env, of in returns.items()]
        spreads = [interpercentile_range(of, *scales[env][1:]) for env, of in returns.items()]
        cells += [text(normalized), f"{100 * np.mean(spreads):.0f}%"]
    else:
        cells += ["", ""]
    if found is None or found.sensitivity is None:
        cells += ["", ""]
    else:
        needed = "" if found.enough is None else f"{len(found.enough.axes)}: {', '.join(found.enough.axes) or 'none'}"
        cells += [f"{found.sensitivity:.2f}", needed]
    for env in scales:
        if env in returns:
            cells.append(text([returns[env]]))
        else:
            cells.append(
                "not run" if f"{name}/{env}" in missing else "all seeds failed" if f"{name}/{env}" in done else "–"
            )
    return cells


def known(returns: Sequence[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([x for x in returns if x is not None], np.float64)


def text(scores: Sequence[np.ndarray[Any, np.dtype[np.float64]]]) -> str:
    found = estimate(scores, iqm)
    return f"{center(found)} {interval(found)}".strip()


def grids(names: Sequence[str], scales: Scales, done: Mapping[str, Result]) -> list[Grid]:
    """Return the mean returns of the trials. The axes are the factor of the default step size, and gamma.

    A trial in which a seed failed has the return of a random policy.
    """
    found = []
    for name in names:
        scores = {}
        for env, (_, random, _) in scales.items():
            if (one := done.get(f"{name}/{env}")) is None:
                continue
            scores[env] = {
                tuple(trial["values"]): random if None in trial["returns"] else float(np.mean(trial["returns"]))
                for trial in one["trials"]
            }
        if scores:
            step_size = next(one["step_size"] for piece, one in done.items() if piece.startswith(f"{name}/"))
            found.append(Grid(name, (step_size, "gamma"), scores))
    return found


def chosen_text(setting: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in setting.items())
