"""Environments whose episodes may never end: evaluation cuts them, and collecting whole episodes is an error."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # makes `endless` importable

import endless

import pgzoo
from pgzoo.config import Layer
from pgzoo.envs.choice import inspect_environment
from pgzoo.errors import RunFailed, StoreError
from pgzoo.registry import PluginCatalog
from pgzoo.runs.result import Result
from pgzoo.runs.runner import compose, run_config
from pgzoo.tracking import Home
from pgzoo.training.events import Evaluated, Event
from pgzoo.types import EnvRequest

A2C = {"algorithm": "a2c", "env": "endless/Endless-v0", "num_envs": 2, "total_steps": 50, "backend": "sync"}


@pytest.fixture
def run(home: Home, catalog: PluginCatalog) -> Callable[..., Result]:
    """Return `run(**settings)`: a short run of a2c."""
    return lambda **settings: run_config(compose(Layer(A2C | settings, ".".join), catalog, preset="none"), catalog)


def test_cut_evaluation_episodes_have_the_return_and_length_up_to_the_limit(play: Callable[..., list[Event]]) -> None:
    settings = {k: v for k, v in A2C.items() if k not in ("algorithm", "env")}
    events = play("a2c", "endless/Endless-v0", **settings, seeds=[3, 5], eval_episodes=11, eval_max_steps=7)
    sampled, greedy = (event for event in events if isinstance(event, Evaluated))
    for event in (sampled, greedy):
        assert event.cut is not None and event.cut.tolist() == [11, 11]
        assert [returns.tolist() for returns in event.returns] == [[7.0] * 11] * 2
        assert [lengths.tolist() for lengths in event.lengths] == [[7] * 11] * 2


def test_only_episodes_that_have_not_ended_are_cut(play: Callable[..., list[Event]]) -> None:
    settings = {k: v for k, v in A2C.items() if k not in ("algorithm", "env")} | {"eval_episodes": 40}
    some = {"env_kwargs": {"some": True}}
    events = play("a2c", "endless/Endless-v0", **settings, **some, seeds=2, eval_max_steps=7)
    event = next(event for event in events if isinstance(event, Evaluated))
    assert event.cut is not None
    for returns, lengths, cut in zip(event.returns, event.lengths, event.cut, strict=True):
        assert returns.tolist() == lengths.tolist() and sorted(set(lengths.tolist())) == [3, 7]
        assert cut == np.count_nonzero(lengths == 7) and len(returns) == 40
    never = play("a2c", "endless/Loud-v0", **settings, eval_max_steps=5)  # its episodes end in their fifth step
    assert all(event.cut is None for event in never if isinstance(event, Evaluated))


def test_a_run_with_cut_episodes_finishes_and_warns_once(
    run: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    result = run(seeds=2, eval_episodes=3, eval_max_steps=7)
    assert result.status == "finished" and result.error is None
    assert [run.to_dict()["cut_episodes"] for run in result.runs] == [3, 3]
    assert [run.to_dict()["greedy_cut_episodes"] for run in result.runs] == [3, 3]
    assert [run.to_dict()["return_mean"] for run in result.runs] == [7.0, 7.0]
    said = [record.getMessage() for record in caplog.records if "cut there" in record.getMessage()]
    assert said == [
        "endless/Endless-v0: 6 of 6 evaluation episodes had not ended after 7 steps and were cut there (sampled "
        "actions). Their returns count up to there. To play longer: --eval-max-steps"
    ]
    (frame,) = result.evaluate(episodes=2)["return_mean"].unique()  # with the run's own limit
    assert frame == 7.0


def test_a_run_finishes_although_its_greedy_policy_never_ends_an_episode(run: Callable[..., Result]) -> None:
    result = run(env="CliffWalking-v1", total_steps=200, eval_episodes=2, eval_max_steps=300)
    (seed,) = result.runs
    assert seed.status == "finished" and result.error is None
    assert seed.greedy_cut_episodes == 2 and seed.greedy_returns.tolist() == [-300.0, -300.0]  # -1 per step


@pytest.mark.parametrize("algorithm", ["reinforce", "cem"])
def test_the_error_for_an_endless_episode_names_env_algorithm_and_setting(
    run: Callable[..., Result], algorithm: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pgzoo.training.rollout.EPISODE_LIMIT", 200)
    result = run(algorithm=algorithm)
    assert isinstance(result.error, RunFailed) and result.status == "failed"
    assert str(result.error) == (
        f'Environment "endless/Endless-v0": an episode has not ended after 200 steps, and algorithm "{algorithm}" '
        "collects whole episodes. Limit them with --max-episode-steps."
    )
    assert caplog.records[0].getMessage().startswith("endless/Endless-v0 declares no time limit, and algorithm")
    caplog.clear()
    assert run(algorithm=algorithm, max_episode_steps=20, eval_episodes=2).status == "finished"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "limit" in record.message]


def test_a_video_of_an_endless_episode_stops_at_max_steps(
    run: Callable[..., Result], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from pgzoo.play.video import record

    result = run(eval_episodes=1, eval_max_steps=5)
    seen: list[tuple[int, int]] = []

    def report(*counts: int) -> None:
        seen.append(counts)  # type: ignore[arg-type]

    rng, request = np.random.default_rng(0), result.plan.request(1)
    returns = record(result.policy(), request, tmp_path / "v.mp4", rng=rng, episodes=2, max_steps=4, report=report)
    assert returns == [4.0, 4.0]
    assert seen == [(episode, frames) for episode in (1, 2) for frames in (1, 2, 3, 4)]
    assert "episode 2 had not ended after 4 steps; the video stops there" in caplog.text
    with pytest.raises(StoreError, match=r"Can't write .*v\.mp4/w\.mp4: Not a directory"):
        record(result.policy(), request, tmp_path / "v.mp4" / "w.mp4", rng=rng, max_steps=4)


@pytest.mark.parametrize(("small", "shown"), [((210, 160), (420, 320)), ((5, 7), (215, 301)), ((400, 600), (400, 600))])
def test_small_frames_are_enlarged_for_a_video(small: tuple[int, int], shown: tuple[int, int]) -> None:
    from pgzoo.play.video import enlarge

    frame = np.arange(small[0] * small[1] * 3).astype(np.uint8).reshape(*small, 3)
    enlarged, times = enlarge(frame), shown[0] // small[0]
    assert enlarged.shape == (*shown, 3)
    assert (enlarged[::times, ::times] == frame).all() and (
        enlarged[times - 1 :: times, times - 1 :: times] == frame
    ).all()


def test_evaluating_a_saved_policy_cuts_episodes_at_max_steps(
    run: Callable[..., Result], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(eval_episodes=1, eval_max_steps=5).policy().save(tmp_path / "policy")
    caplog.clear()
    frame: Any = pgzoo.evaluate(tmp_path / "policy", episodes=3, max_steps=9)
    assert frame["return_mean"].tolist() == [9.0] and "3 of 3 evaluation episodes had not ended" in caplog.text


def test_a_time_limit_is_detected_even_if_the_gymnasium_spec_has_none() -> None:
    if "endless/Limited-v0" not in gym.registry:
        gym.register("endless/Limited-v0", entry_point=lambda: gym.wrappers.TimeLimit(endless.Endless(), 9))
    limited = {
        env: inspect_environment(EnvRequest(env, {}, None, 1)).time_limited
        for env in ("endless/Limited-v0", "endless/Endless-v0", "CartPole-v1")
    }
    assert limited == {"endless/Limited-v0": True, "endless/Endless-v0": False, "CartPole-v1": True}
