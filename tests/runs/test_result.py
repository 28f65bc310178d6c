"""What a result offers in Python and in a notebook."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from matplotlib.figure import Figure

import pgzoo
from pgzoo.errors import ConfigError, EnvError, UsageError
from pgzoo.runs.result import Result
from pgzoo.tracking import plots, records
from pgzoo.tracking.points import steps_of
from pgzoo.tracking.report import write_plots
from pgzoo.training.seeding import EVALUATION_ROOT, reset_seeds


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PGZOO_HOME", str(folder))
        patch.setattr("pgzoo.tracking.session.ensure_uploader", lambda home: None)
        patch.setattr("pgzoo.runs.result.EXIT_WAIT", 0.0)
        yield folder


@pytest.fixture(scope="module")
def many(home: Path) -> Result:
    return pgzoo.run("reinforce", env="CartPole-v1", seeds=20, total_steps=3000, eval_episodes=8)


@pytest.fixture(scope="module")
def one(home: Path) -> Result:
    return pgzoo.run("random", env="CartPole-v1", seed=3, total_steps=1500, eval_episodes=8, name="chance")


def test_the_repr_fits_a_screen(many: Result, one: Result) -> None:
    for text in (repr(many), repr(one)):
        assert len(text.splitlines()) <= 24 and max(map(len, text.splitlines())) <= 130
    assert "reinforce on CartPole-v1: finished" in repr(many)
    assert "and 8 more" in repr(many)
    assert "seed 3: finished" in repr(one) and f"{one.runs[0].returns.mean():.1f}" in repr(one)


def test_a_notebook_shows_a_table(many: Result) -> None:
    page = many._repr_html_()
    assert page.count("<tr>") == 21
    assert f"{many.runs[5].returns.mean():,.1f}" in page


def test_scores_and_history_have_the_numbers_of_the_journals(home: Path, many: Result) -> None:
    frame = many.history
    assert set(frame.seed) == set(range(20))
    assert {"env_step", "train/return_mean", "loss/policy", "eval/return_mean"} <= set(frame.columns)
    for row in (0, 5, 19):
        kept = [record for record, _ in records(home / "runs" / many.runs[row].run_key) if record]
        (final,) = (r["returns"] for r in kept if r["t"] == "evaluation" and r["final"] and r["mode"] == "sampled")
        assert many.scores[row] == np.mean(final)
        lines = frame[frame.seed == many.runs[row].seed].drop(columns="seed").set_index("env_step").to_dict("index")
        curves = {(step, name): x for step, line in lines.items() for name, x in line.items() if not np.isnan(x)}
        values = {(step, name): x for r in kept for step in steps_of(r) for name, x in r.get("m", {}).items()}
        assert curves == {key: x for key, x in values.items() if not key[1].startswith("summary/")}


def test_plots_are_figures_that_a_notebook_displays(many: Result, one: Result) -> None:
    for result, lines in ((many, 21), (one, 1)):
        figure = result.plot()
        assert isinstance(figure, Figure)
        assert len([line for line in figure.axes[0].lines if len(np.asarray(line.get_xdata())) > 2]) == lines
        assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_policy_needs_a_seed_only_if_there_are_several(many: Result, one: Result) -> None:
    assert one.policy().act([0.0, 0.0, 0.0, 0.0]) in (0, 1)
    with pytest.raises(ConfigError, match=r"There are 20 policies; give a seed\. Seeds: 0, 1"):
        many.policy()
    with pytest.raises(ConfigError, match="no policy of seed 99 in this run"):
        many.policy(99)


def test_evaluating_again_plays_the_episodes_of_the_final_evaluation(many: Result, one: Result) -> None:
    frame = many.evaluate(episodes=8)
    assert frame.seed.tolist() == [run.seed for run in many.runs]
    assert frame.return_mean.tolist() == many.scores.tolist()
    episodes = one.evaluate(episodes=8, per_episode=True)
    assert episodes["return"].tolist() == one.runs[0].returns.tolist()
    greedy = one.evaluate(episodes=8, deterministic=True)
    assert greedy.algorithm[0] == "random"
    assert greedy.return_mean[0] == one.runs[0].greedy_returns.mean()


def test_evaluate_finds_runs_and_folders(one: Result, tmp_path: Path) -> None:
    frame = pgzoo.evaluate("chance", episodes=8)
    assert frame[["name", "algorithm", "env", "seed"]].values.tolist() == [["chance s3", "random", "CartPole-v1", 3]]
    assert frame.return_mean[0] == one.scores[0]
    folder = one.policy().save(tmp_path / "policy")
    assert pgzoo.evaluate(folder, episodes=8, seed=3).return_mean[0] == one.scores[0]


def test_evaluation_episodes_are_in_the_order_of_their_starting_states(one: Result, home: Path) -> None:
    result = pgzoo.run("reinforce", env="CartPole-v1", total_steps=500, eval_episodes=6, backend="sync", num_envs=2)
    policy, env, played = result.policy(), gym.make("CartPole-v1"), []
    for seed in reset_seeds(EVALUATION_ROOT, "evaluate", 6):
        obs, _ = env.reset(seed=int(seed))
        length, ended = 0, False
        while not ended:
            obs, _, terminated, truncated, _ = env.step(policy.act(obs, deterministic=True))
            length, ended = length + 1, terminated or truncated
        played.append(length)
    assert played != sorted(played)
    assert result.runs[0].greedy_returns.tolist() == played


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes": 0}, "episodes: expected a whole number from 1, not 0"),
        ({"episodes": 2.5}, "episodes: expected a whole number from 1, not 2.5"),
        ({"max_steps": 0}, "max_steps: expected a whole number from 1, not 0"),
        ({"max_steps": -3}, "max_steps: expected a whole number from 1, not -3"),
        ({"seed": -1}, "seed: expected 0 or a larger whole number, not -1"),
    ],
)
def test_evaluate_refuses_numbers_that_make_no_sense(one: Result, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pgzoo.evaluate("chance", **settings)


def test_a_video_needs_an_episode_and_a_name_that_ends_in_mp4(one: Result, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    with pytest.raises(ConfigError, match="episodes: expected a whole number from 1, not 0"):
        one.video(tmp_path / "a.mp4", episodes=0)
    with pytest.raises(UsageError, match=r"a\.gif: give a name that ends in \.mp4"):
        one.video(tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


class Draws(gym.Env[Any, Any]):
    """Its frames are `frames`, one after the other."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"]}
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, *frames: Any, render_mode: str | None = None) -> None:
        self.frames = frames

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.zeros(1, np.float32), 1.0, self.t == 2, False, {}

    def render(self) -> Any:
        return self.frames[self.t]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Draws(),
            r"takes no argument render_mode\. Give one that passes it on, such as lambda \*\*kwargs: MyEnv",
        ),
        (lambda **kwargs: Draws(None, **kwargs), "returned NoneType from render; expected an image"),
        (
            lambda **kwargs: Draws(np.ones((64, 64, 3), np.uint8), [[[]]], **kwargs),
            r"an array of shape \(1, 1, 0\) from render",
        ),
    ],
)
def test_a_video_that_cannot_be_recorded_leaves_no_file(home: Path, tmp_path: Path, make: Any, message: str) -> None:
    pytest.importorskip("imageio_ffmpeg")
    result = pgzoo.run("reinforce", env=make, total_steps=10, eval_episodes=1)
    (tmp_path / "a.mp4").write_text("an earlier video")
    with pytest.raises(EnvError, match=message):
        result.video(tmp_path / "a.mp4")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an earlier video"]


def test_a_video_is_shown_inline(one: Result, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    before = dict(os.environ)
    video = one.video(tmp_path / "a.mp4")
    assert dict(os.environ) == before  # SDL's drivers are set only while frames are drawn
    assert video.path.stat().st_size > 1000
    assert len(video.returns) == 1
    assert video._repr_html_().startswith('<video controls src="data:video/mp4;base64,')


def test_the_evaluation_histogram_states_the_env_steps_of_the_result(
    home: Path, many: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    subtitles: list[str] = []

    def spy(*args: Any, subtitle: str, **kwargs: Any) -> Figure:
        subtitles.append(subtitle)
        return Figure()

    monkeypatch.setattr(plots, "evaluation_histogram", spy)
    write_plots(home / "runs" / many.runs[5].run_key)
    assert subtitles == [f"seed 5 · evaluation after {many.runs[5].env_steps:,} environment steps"]
