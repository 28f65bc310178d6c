"""Warnings of a comparison: runs left out, and reasons for which its numbers may mislead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations

from pgzoo.analysis.blocks import Side, final_score
from pgzoo.analysis.selection import FINAL, Run, SelectorKind
from pgzoo.analysis.statistics import MIN_SEEDS
from pgzoo.analysis.wording import plural, ranges
from pgzoo.errors import UsageError

__all__ = [
    "caveats",
    "check_distinct",
    "finished",
    "newest_setting",
    "one_per_seed",
    "pooled_algorithms",
    "repeated",
    "setting_differences",
    "without_evaluation",
]

PROTOCOL = (
    "total_steps",
    "total_episodes",
    "stop_at",
    "max_minutes",
    "max_episode_steps",
    "eval_episodes",
    "eval_max_steps",
    "gamma",
)
"""Parameters that should be equal in a comparison of algorithms."""
VERSIONS = ("pgzoo.version", "gymnasium.version", "torch.version")
SHOWN_ELSEWHERE = ("env", "seed")


def pooled_algorithms(sides: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return a warning for each side whose runs are of several algorithms."""
    warnings = []
    for label, runs in sides.items():
        algorithms = sorted({run.algorithm for run in runs})
        if len(algorithms) > 1:
            warnings.append(
                f"{label} POOLS RUNS OF {len(algorithms)} ALGORITHMS ({', '.join(algorithms)}): its scores mix them. "
                "To compare algorithms, name each of them as a selector."
            )
    return warnings


def newest_setting(label: str, kind: SelectorKind, runs: Sequence[Run], warnings: list[str]) -> list[Run]:
    """Return the runs of a selector, of a name or an algorithm only those of the newest setting in each environment.

    Appends to `warnings` what is left out, and which sides have runs with different settings.
    """
    kept: list[Run] = []
    for env in sorted({run.env for run in runs}):
        here = [run for run in runs if run.env == env]
        newest = max(here, key=lambda run: run.started).setting
        others = [run for run in here if run.setting != newest]
        if others and kind in ("name", "algorithm"):
            here = [run for run in here if run.setting == newest]
            older = plural(len({run.setting for run in others}), "older setting")
            warnings.append(
                f"{label} on {env}: {plural(len(others), 'run')} of {older} left out; select a group to compare those."
            )
        elif others:
            count = len({run.setting for run in here})
            warnings.append(f"{label} on {env}: its runs have {count} different settings.")
        kept += sorted(here, key=lambda run: (run.seed, run.started))
    return kept


def repeated(run: Run) -> Hashable:
    """Return a key that is equal for runs that repeat each other: the same seed with the same setting."""
    return (run.env, run.setting, run.seed) if run.seed >= 0 else run.run_key


def one_per_seed(
    label: str, runs: Sequence[Run], keys: Sequence[Hashable], score: str, warnings: list[str]
) -> list[Run]:
    """Return one run for each key, because a repetition of a run isn't a new observation.

    This is the newest run that finished, or the newest one if none did. Appends to `warnings` if a newer one that
    didn't finish is left out.
    """
    repetitions: dict[Hashable, list[Run]] = {}
    for key, run in zip(keys, runs, strict=True):
        repetitions.setdefault(key, []).append(run)
    kept, unfinished = [], 0
    for of in repetitions.values():
        *_, best = sorted(of, key=lambda run: (is_complete(run, score), run.started))
        unfinished += sum(run.started > best.started for run in of)
        kept.append(best)
    if unfinished:
        warnings.append(
            f"{label}: {plural(unfinished, 'run')} left out that didn't finish; an older run with the same setting and "
            "seed did."
        )
    return kept


def is_complete(run: Run, score: str) -> bool:
    return run.status in ("finished", "stopped") and final_score(run, score) is not None


def check_distinct(sides: Mapping[str, Sequence[Run]]) -> None:
    """Raise UsageError if two sides have a run in common."""
    for (a, some), (b, others) in combinations(sides.items(), 2):
        if shared := {run.run_key for run in some} & {run.run_key for run in others}:
            raise UsageError(f'"{a}" and "{b}" have {plural(len(shared), "run")} in common, such as {min(shared)}.')


def finished(label: str, runs: Sequence[Run], warnings: list[str]) -> tuple[Run, ...]:
    """Return the runs that have ended, and warn of the others. Raises UsageError if none has ended."""
    done = tuple(run for run in runs if run.status != "running")
    if len(done) < len(runs):
        warnings.append(f"{label}: {plural(len(runs) - len(done), 'run')} left out, still in training.")
    if not done:
        raise UsageError(f'Every run of "{label}" is still in training. Wait until they end, or compare other runs.')
    return done


def caveats(sides: Sequence[Side], env: str, score: str, metric: str) -> list[str]:
    """Return warnings for one environment: differences besides the algorithm, runs that failed, too few seeds."""
    found = []
    on = {side.label: side.on(env) for side in sides}
    kwargs = {key for runs in on.values() for run in runs for key in run.params if key.startswith("env_kwargs.")}
    for key in (*PROTOCOL, *sorted(kwargs)):
        found += differing(on, key, lambda run, key=key: run.params.get(key, "none"))  # type: ignore[misc]
    for key in VERSIONS:
        found += differing(on, key.replace(".", " "), lambda run, key=key: run.tags.get(key, "unknown"))  # type: ignore[misc]
    for label, runs in on.items():
        for status, count in sorted(Counter(run.status for run in runs).items()):
            if status not in ("finished", "stopped"):
                found.append(f"{label}: {plural(count, 'run')} {status}; compared up to the last step.")
        missing = sum(score not in run.metrics and final_score(run, score) is not None for run in runs)
        if missing:
            found.append(f"{label}: {plural(missing, 'run')} without {score}; the last {metric} is used instead.")
        found += without_evaluation(label, runs, score)
        if lost := sum(final_score(run, score) is None for run in runs):
            found.append(f"{label}: {plural(lost, 'run')} left out, no final score.")
        if len(runs) - lost < MIN_SEEDS:
            found.append(f"{label}: {plural(len(runs) - lost, 'seed')}; intervals need at least {MIN_SEEDS}.")
    seeds = {label: sorted(run.seed for run in runs) for label, runs in on.items()}
    if len({tuple(s) for s in seeds.values()}) > 1:
        listing = ", ".join(f"{label} {ranges(s)}" for label, s in seeds.items())
        found.append(f"seeds differ: {listing}; the difference of means is not paired by seed.")
    return found


def without_evaluation(label: str, runs: Sequence[Run], score: str) -> list[str]:
    """Return a warning if final returns are of training episodes, as of runs that failed before the evaluation."""
    count = sum(score == FINAL and not run.evaluated for run in runs)
    if not count:
        return []
    return [
        f"{label}: {plural(count, 'run')} without a final evaluation; the mean return of the last training episodes "
        "is used instead."
    ]


def differing(sides: Mapping[str, Sequence[Run]], what: str, value: Callable[[Run], str]) -> list[str]:
    values = {label: sorted({value(run) for run in runs}) for label, runs in sides.items()}
    if len({v for of in values.values() for v in of}) == 1:
        return []
    listing = ", ".join(f"{label} {' and '.join(of)}" for label, of in values.items())
    return [f"{what} differs: {listing}."]


def setting_differences(sides: Sequence[Side]) -> dict[str, tuple[str, ...]]:
    """Return the parameters in which the sides differ: the values of each side, by name of the parameter."""
    differences = {}
    for key in sorted({key for side in sides for run in side.runs for key in run.params} - set(SHOWN_ELSEWHERE)):
        values = tuple(" | ".join(sorted({r.params.get(key, "-") for r in side.runs})) for side in sides)
        if len(set(values)) > 1:
            differences[key] = values
    return differences
