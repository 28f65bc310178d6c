"""Comparisons of runs whose journals these tests write: selectors, scores, warnings, files, and the command."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import pgzoo
from pgzoo.analysis.selection import from_store
from pgzoo.analysis.statistics import estimate
from pgzoo.analysis.sweeps import sensitivity
from pgzoo.analysis.wording import interval, percent
from pgzoo.cli.main import program
from pgzoo.errors import StoreError, UnknownName, UsageError
from pgzoo.tracking import Home, Session
from pgzoo.tracking.lookup import find

Train = Callable[..., None]
GRID = range(1000, 11_000, 1000)
UNDETECTABLE = "undecided: needs over 1,000 seeds per side"


@pytest.fixture
def train(home: Home) -> Train:
    """Return `train(group, scores)`, which writes a journal per seed: the return rises linearly from 0 to the score."""

    def written(
        group: str,
        scores: Sequence[float | None],
        *,
        name: str = "",
        algorithm: str = "reinforce",
        env: str = "CartPole-v1",
        experiment: str = "",
        seeds: Sequence[int] | None = None,
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
        status: str = "finished",
        last: int = 10,
    ) -> None:
        session = Session(home, group, home.default_uri)
        told = {"total_steps": "10000", "gamma": "0.99", "eval_episodes": "100", **(params or {})}
        setting = {"pgzoo.setting": repr(sorted(told.items())), "pgzoo.version": "1", "gymnasium.version": "1.4"}
        for seed, score in zip(seeds or range(len(scores)), scores, strict=True):
            journal = session.journal(
                f"{group}-s{seed}",
                name=f"{name or algorithm} s{seed}",
                experiment=experiment or f"pgzoo/{env}",
                seed=seed,
                algorithm=algorithm,
                env=env,
                params=told,
                tags={**setting, **(tags or {})},
            )
            for point, step in enumerate(GRID[:last]):
                journal.record([step], {"train/return_mean": (score or 0.0) * point / 9, "loss/policy": -1.0})
            if score is not None:
                journal.evaluation(10_000, "sampled", True, [score, score], [1, 1])
                journal.summary(10_000, {"summary/return_final": score})
            if status == "killed":
                journal.release()
            else:
                journal.tags({"pgzoo.status": status})
                journal.end("FINISHED")
        session.close(0)

    return written


def keys(*selectors: str, **options: Any) -> list[list[str]]:
    return [[run.run_key for run in side.runs] for side in pgzoo.compare(*selectors, **options).sides]


def test_a_percentage_has_no_space_before_the_sign() -> None:
    assert (percent(0.0), percent(0.827), percent(1.0)) == ("0%", "83%", "100%")


def test_runs_are_selected_by_key_group_name_tag_experiment_and_algorithm(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgzoo.analysis.selection.query_store", None)  # querying a store would fail
    train("g1", [1, 2, 3], name="mine", tags={"study": "x y"}, experiment="apart")
    train("g2", [1, 2, 3], algorithm="ppo", params={"gamma": "0.9"})
    train("g3", [4], algorithm="a2c")
    ours = ["g1-s0", "g1-s1", "g1-s2"]
    for selector in ("g1", "mine", "tag:study=x y", "apart", "reinforce"):
        assert keys(selector, "g3")[0] == ours, selector
    assert keys("g1-s1", "mine s2", "ppo") == [["g1-s1"], ["g1-s2"], ["g2-s0", "g2-s1", "g2-s2"]]
    assert pgzoo.compare("apart", "a2c").sides[0].kind == "experiment"


def test_an_object_with_a_group_can_be_a_selector(train: Train) -> None:
    class Trained:
        group = "g1"

    train("g1", [1, 2, 3])
    train("g2", [1, 2, 3])
    assert pgzoo.compare(Trained(), "g2").labels == ("g1", "g2")  # type: ignore[arg-type]


def test_an_algorithm_selects_its_newest_setting_and_a_tag_selects_all(train: Train) -> None:
    train("old", [1, 1], params={"gamma": "0.5"}, tags={"study": "a"})
    train("new1", [2, 2, 2], tags={"study": "a"})
    train("new2", [3], seeds=[3], tags={"study": "a"})
    train("other", [0, 0, 0], algorithm="ppo")
    found = pgzoo.compare("reinforce", "ppo")
    assert [run.run_key for run in found.sides[0].runs] == ["new1-s0", "new1-s1", "new1-s2", "new2-s3"]
    assert any("2 runs of 1 older setting left out" in warning for warning in found.warnings)
    found = pgzoo.compare("tag:study=a", "ppo")
    assert len(found.sides[0].runs) == 6
    assert any("2 different settings" in warning for warning in found.warnings)
    assert found.blocks[0].pairs[0].matched == 0  # no seeds are matched, because 0 and 1 have two runs each


def test_the_newest_run_replaces_others_with_the_same_setting_and_seed(train: Train) -> None:
    train("g1", [1, 2, 3], name="a")
    train("g2", [1, 2, 3], name="a")
    train("g3", [4, 5, 6], name="b")
    assert keys("a", "b")[0] == ["g2-s0", "g2-s1", "g2-s2"]


def test_a_newer_run_that_did_not_finish_does_not_replace_one_that_did(train: Train) -> None:
    train("g1", [1, 2, 3], name="a")
    train("g2", [9, 9], name="a", status="interrupted")
    train("g3", [4, 5, 6], name="b")
    found = pgzoo.compare("a", "b")
    assert [run.run_key for run in found.sides[0].runs] == ["g1-s0", "g1-s1", "g1-s2"]
    assert found.blocks[0].final[0].mean.value == 2.0
    said = "a: 2 runs left out that didn't finish; an older run with the same setting and seed did."
    assert said in found.warnings and not any("interrupted" in warning for warning in found.warnings)
    train("g4", [7, 8], name="b", status="failed", seeds=[7, 8])
    train("g5", [70, 80], name="b", status="interrupted", seeds=[7, 8])
    assert keys("a", "b")[1] == ["g3-s0", "g3-s1", "g3-s2", "g5-s7", "g5-s8"]


def test_scores_differences_and_curves_match_values_worked_out_by_hand(train: Train) -> None:
    train("a", [400, 500, 480, 490, 470])
    train("b", [100, 200, 300, 150, 250])
    found = pgzoo.compare("a", "b")
    (block,) = found.blocks
    assert found.title == "a vs b on CartPole-v1"
    assert [(s.seeds, s.iqm.value, s.mean.value, s.median.value) for s in block.final] == [
        (5, 480.0, 468.0, 480.0),
        (5, 200.0, 200.0, 200.0),
    ]
    assert block.area[0].mean.value == pytest.approx(468 / 2)  # the curve rises linearly from 0
    (pair,) = block.pairs
    assert (pair.improvement.value, pair.matched, pair.more_seeds, pair.settled) == (1.0, 5, 0, True)
    assert pair.paired is not None and pair.paired.value == 1.0
    gaps = np.array([300, 300, 180, 340, 220])
    assert pair.difference.value == 268.0
    assert pair.difference.low == pytest.approx(268 - 2.7764451 * gaps.std(ddof=1) / np.sqrt(5))
    assert pair.verdict == "a is higher"
    assert block.curves[1].band.value.tolist() == pytest.approx([200 * point / 9 for point in range(10)])
    assert found.warnings == ()


def test_unmatched_seeds_are_compared_unpaired(train: Train) -> None:
    train("a", [10, 20, 30], seeds=[0, 1, 2])
    train("b", [11, 21, 29, 40], seeds=[1, 2, 3, 4])
    found = pgzoo.compare("a", "b")
    (pair,) = found.blocks[0].pairs
    assert (pair.matched, pair.difference.value) == (2, pytest.approx(20 - 101 / 4))
    assert pair.more_seeds and pair.verdict == f"undecided: needs {pair.more_seeds} more seeds per side"
    assert "seeds differ: a 0-2, b 1-4; the difference of means is not paired by seed." in found.warnings


def test_the_verdict_states_equal_scores_and_undetectable_differences(train: Train) -> None:
    train("a", [500, 500, 500])
    train("b", [500, 500, 500])
    train("c", [0, 1000, 500.1])
    found = pgzoo.compare("a", "b", "c").blocks[0].pairs
    assert [pair.verdict for pair in found] == ["equal", UNDETECTABLE, UNDETECTABLE]


def test_warnings_name_other_differences_too_few_seeds_and_failed_runs(train: Train, tmp_path: Path) -> None:
    train("a", [1, 2, 3], params={"learning_rate": "0.1"})
    train("b", [1, 2], params={"total_steps": "5000", "gamma": "1.0", "env_kwargs.g": "9"}, tags={"pgzoo.version": "2"})
    train("c", [1, 2, 3], status="failed")
    train("d", [None, 5, 6], status="killed", last=5)
    found = pgzoo.compare("a", "b", "c", "d")
    for said in (
        "total_steps differs: a 10000, b 5000, c 10000, d 10000.",
        "gamma differs: a 0.99, b 1.0",
        "env_kwargs.g differs: a none, b 9",
        "pgzoo version differs: a 1, b 2",
        "b: 2 seeds; intervals need at least 3.",
        "c: 3 runs failed; compared up to the last step.",
        "d: 3 runs killed",
        "d: 1 run without summary/return_final; the last train/return_mean is used instead.",
        "seeds differ: a 0-2, b 0-1, c 0-2, d 0-2",
    ):
        assert any(said in warning for warning in found.warnings), said
    assert found.differences["learning_rate"] == ("0.1", "-", "-", "-")
    assert "Settings that differ: env_kwargs.g - | 9 | - | -; gamma 0.99 | 1.0 | 0.99 | 0.99" in compare(*"abcd").stdout
    found.save(tmp_path / "found.md")
    assert "(all: --out FILE.html)" in (tmp_path / "found.md").read_text()
    assert "eval_episodes" not in found.differences and "seed" not in found.differences
    assert found.blocks[0].final[1].iqm.low is None
    assert found.blocks[0].pairs[0].verdict == "undecided: needs 3 seeds per side"


def test_a_resumed_run_is_compared_with_the_settings_of_its_last_start(train: Train) -> None:
    for group in ("a", "b"):
        train(group, [1, 2, 3], params={"total_steps": "300"})
    train("c", [1, 2, 3], params={"total_steps": "3000"})
    train("a", [None, None, None], params={"total_steps": "3000"})  # continues the journals of a
    found = pgzoo.compare("a", "b")
    assert "total_steps differs: a 3000, b 300." in found.warnings
    assert found.differences == {"total_steps": ("3000", "300")}
    assert pgzoo.compare("a", "c").warnings == () and not pgzoo.compare("a", "c").differences
    train("b", [None], seeds=[1], params={"total_steps": "3000"})
    assert "total_steps differs: b 300 and 3000, c 3000." in pgzoo.compare("b", "c").warnings


def test_a_final_return_that_is_not_of_an_evaluation_gets_a_warning(train: Train, home: Home) -> None:
    train("a", [1, 2, 3])
    train("b", [1, 2])
    session = Session(home, "b", home.default_uri)
    told = {"total_steps": "10000", "gamma": "0.99", "eval_episodes": "100"}
    identity: dict[str, Any] = {"experiment": "e", "seed": 2, "algorithm": "reinforce", "env": "CartPole-v1"}
    failed = session.journal("b-s2", name="reinforce s2", params=told, **identity)
    failed.evaluation(500, "sampled", False, [8.0], [1])
    failed.summary(600, {"summary/return_final": 9.0})  # what the listener writes is the mean of training episodes
    failed.tags({"pgzoo.status": "failed"})
    failed.end("FAILED")
    session.close(0)
    found = pgzoo.compare("a", "b")
    (said,) = [warning for warning in found.warnings if "without a final evaluation" in warning]
    assert said == (
        "b: 1 run without a final evaluation; the mean return of the last training episodes is used instead."
    )
    assert found.blocks[0].final[1].mean.value == 4.0


def test_a_run_that_was_killed_after_it_was_resumed_has_no_final_return_of_its_first_end(
    train: Train, home: Home
) -> None:
    train("a", [1, 2, 3])
    train("b", [1, 2, 3])
    session = Session(home, "b", home.default_uri)
    identity: dict[str, Any] = {"experiment": "e", "seed": 2, "algorithm": "reinforce", "env": "CartPole-v1"}
    resumed = session.journal("b-s2", name="reinforce s2", **identity)
    resumed.record([11_000], {"train/return_mean": 50.0})
    session.close(0)
    found = pgzoo.compare("a", "b")
    assert "b: 1 run without summary/return_final; the last train/return_mean is used instead." in found.warnings
    assert found.blocks[0].final[1].mean.value == pytest.approx((1 + 2 + 50) / 3)


def test_a_run_that_ended_early_keeps_its_last_value(train: Train) -> None:
    train("a", [9, 9, 9])
    train("b", [9, 9, 9], last=4)
    found = pgzoo.compare("a", "b")
    assert found.blocks[0].curves[0].steps[-1] == 4000  # the last step that both sides reached
    train("b2", [9], seeds=[5], last=10, tags={"s": "b"})
    train("b3", [9], seeds=[6], last=4, tags={"s": "b"})
    curve = pgzoo.compare("a", "tag:s=b").blocks[0].curves[1]
    assert curve.steps[-1] == 10_000
    assert curve.seeds[:, -1].tolist() == [9.0, 3.0]


def test_other_metrics_are_compared_by_their_last_value(train: Train) -> None:
    train("a", [1, 2, 3])
    train("b", [4, 5, 6])
    found = pgzoo.compare("a", "b", metric="loss/policy")
    assert found.score == "loss/policy"
    assert [s.mean.value for s in found.blocks[0].final] == [-1.0, -1.0]
    found = pgzoo.compare("a", "b", metric="eval/return_mean")  # one point per run, so no curve
    assert (found.score, found.blocks[0].curves, found.blocks[0].area) == ("summary/return_final", (), ())
    assert found.save(Path(found.data.home.root) / "one.png").read_bytes().startswith(b"\x89PNG")


def test_several_environments_get_overall_normalized_scores_and_profiles(train: Train) -> None:
    for env, best in (("CartPole-v1", 500.0), ("Acrobot-v1", -100.0)):
        train(f"a-{env}", [best, best * 1.1, best * 1.2], name="a", env=env)
        train(f"b-{env}", [best, best * 1.1, best * 1.2], name="b", env=env, params={"gamma": "1.0"})
    found = pgzoo.compare("a", "b")
    assert found.envs == ("Acrobot-v1", "CartPole-v1")
    assert found.overall is not None and found.profile is not None
    (pair,) = found.overall.pairs
    assert (pair.matched, pair.improvement.value, pair.verdict) == (6, 0.5, "equal")
    # CartPole: 0 -> 0, 600 -> 1; on Acrobot no run rose above its start, 0, so the worst run, -120, becomes 0
    assert found.overall.scores[0][1].values.tolist() == pytest.approx([500 / 600, 550 / 600, 1])
    assert found.overall.scores[0][0].values.tolist() == pytest.approx([1, 0.5, 0])
    profile = found.profile.bands[0].value
    assert profile[0] == pytest.approx(5 / 6) and profile[-1] == 0
    assert pgzoo.compare("a", "b", env="Acrobot-v1").overall is None
    assert pgzoo.compare("a", "b", env=["CartPole-v1", "Acrobot-v1"]).envs == ("CartPole-v1", "Acrobot-v1")
    assert any(warning.startswith("CartPole-v1: gamma differs") for warning in found.warnings)
    assert found.save(found.data.home.root / "x.png").stat().st_size > 20_000
    assert "Over 2 environments" in found.save(found.data.home.root / "x.html").read_text()


def test_invalid_selectors_and_options_are_errors_with_a_clear_message(train: Train) -> None:
    with pytest.raises(UnknownName, match="No run matches"):
        pgzoo.compare("a", "b")
    train("first", [1, 2, 3], name="alpha")
    train("second", [1, 2, 3], name="beta")
    train("third", [1, 2, 3], name="gamma", env="Acrobot-v1")
    session = Session(Home.find(), "second", Home.find().default_uri)
    identity: dict[str, Any] = {"experiment": "e", "seed": 0, "algorithm": "reinforce", "env": "CartPole-v1"}
    session.journal("second-s0", name="beta s0", **identity).summary(10_000, {"policy/entropy": 1.0})
    session.journals["second-s0"].end("FINISHED")
    session.close(0)
    for selectors, options, error, message in (
        ((), {}, UsageError, "two or more selectors"),
        (("alpha",), {}, UsageError, "two or more selectors"),
        (("alpha", "alpha"), {}, UsageError, '"alpha" is given twice'),
        (("alpha", "first"), {}, UsageError, '"alpha" and "first" have 3 runs in common, such as first-s0'),
        (("alpha", "betta"), {}, UnknownName, 'Did you mean "beta"'),
        (("alpha", "tag:x"), {}, UsageError, "write tag:KEY=VALUE"),
        (("alpha", "tag:x=1"), {}, UnknownName, 'No run matches "tag:x=1"'),
        (("alpha", "gamma"), {}, UsageError, "alpha on CartPole-v1; gamma on Acrobot-v1. They have none in common"),
        (("alpha", "beta"), {"env": "CartPole-v0"}, UsageError, 'no run on CartPole-v0.*Did you mean "CartPole-v1"'),
        (("alpha", "beta"), {"metric": "train/return"}, UsageError, 'no.* Did you mean "train/return_mean"'),
        (
            ("alpha", "beta"),
            {"metric": "policy/entropy"},
            UsageError,
            "No run of .alpha.* policy/entropy. There are: eval",
        ),
        (("alpha", "beta"), {"metric": "zzz"}, UsageError, "There are: eval/length_mean"),
    ):
        with pytest.raises(error, match=f"(?is){message}"):
            pgzoo.compare(*selectors, **options)  # type: ignore[arg-type]
    train("fourth", [1, 2, 3], name="beta", env="Acrobot-v1")
    with pytest.raises(UsageError, match="Choose one with --env Acrobot-v1"):
        pgzoo.compare("beta", "gamma")


def test_an_unreachable_server_is_only_a_warning_if_the_journals_suffice(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Home, "default_uri", property(lambda home: "http://127.0.0.1:9"))
    train("a", [1, 2, 3])
    train("b", [1, 2, 3])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    def refuse(uri: str, question: object, what: str) -> None:
        raise StoreError(f"Couldn't get {what} from {uri}: refused")

    monkeypatch.setattr("pgzoo.analysis.selection.query_store", refuse)
    found = pgzoo.compare("a", "b")
    assert found.warnings[0].startswith("Only runs of this machine are compared. Couldn't get the runs of")
    with pytest.raises(StoreError, match="refused"):
        pgzoo.compare("a", "unknown")


def test_a_run_of_another_program_can_be_read_from_a_store() -> None:
    class Info:
        run_id, run_name, experiment_id, status, start_time = "f" * 32, None, "1", "FINISHED", None

    class Data:
        tags, params, metrics = {}, {}, {"reward": 3.0}  # type: ignore[var-annotated]

    class Foreign:
        info, data = Info, Data

    run = from_store(Foreign, {"1": "theirs"}, "http://there")
    assert (run.run_key, run.seed, run.env, run.status, run.algorithm) == ("f" * 32, -1, "theirs", "finished", "")


class Requests(HTMLParser):
    """Collects the tags of a page, the addresses that it would load, and the text of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["script"] and data.strip():
            self.scripts.append(data)


def test_the_html_report_loads_nothing_external_and_escapes_its_text(train: Train, tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script>$x_1$"
    train("a", [1, 2, 3], name=nasty, params={"note": "<img src=http://x/y>"})
    train("b", [4, 5, 7], name="b&b")
    found = pgzoo.compare(nasty, "b&b")
    text = found.save(tmp_path / "report.html").read_text()
    page = Requests()
    page.feed(text)
    assert page.tags.count("script") == 1
    assert page.loads and all(load.startswith("data:image/svg+xml;base64,") for load in page.loads)
    assert "default-src 'none'" in text and "url(" not in text and "@import" not in text
    (data,) = page.scripts
    assert json.loads(data) == json.loads(found.save(tmp_path / "report.json").read_text()) == found.to_dict()
    assert text == found.save(tmp_path / "again.html").read_text()
    assert "<title>&lt;/script&gt;" in text
    with pytest.raises(UsageError, match=r"written as \.html, \.png, \.pdf"):
        found.save(tmp_path / "report.gif")
    with pytest.raises(UsageError, match="Can't write"):
        found.save(tmp_path / "nowhere" / "report.png")


def test_a_data_frame_has_a_row_for_each_run(train: Train) -> None:
    train("a", [1, 2])
    train("b", [3])
    frame = pgzoo.compare("a", "b").to_frame()
    assert frame[["side", "seed", "score"]].values.tolist() == [["a", 0, 1.0], ["a", 1, 2.0], ["b", 0, 3.0]]


def test_ten_sides_are_compared_in_pairs_and_differ_in_color_or_line_style(train: Train) -> None:
    for place in range(10):
        train(f"side{place}", [place, place + 1.0, place + 2.0])
    found = pgzoo.compare(*[f"side{place}" for place in range(10)])
    assert len(found.blocks[0].pairs) == 45
    curves = found.figure().axes[0].get_legend_handles_labels()[0]
    assert len({(line.get_color(), line.get_linestyle()) for line in curves}) == len(curves) == 10


def test_frames_of_scores_and_pairs_have_the_aggregates(train: Train) -> None:
    train("a", [400, 500, 480, 490, 470])
    train("b", [100, 200, 300, 150, 250])
    found = pgzoo.compare("a", "b")
    scores = found.to_frame("scores")
    assert scores[["env", "side", "seeds", "iqm", "mean", "median"]].values.tolist() == [
        ["CartPole-v1", "a", 5, 480.0, 468.0, 480.0],
        ["CartPole-v1", "b", 5, 200.0, 200.0, 200.0],
    ]
    assert scores.iqm_low[0] == found.blocks[0].final[0].iqm.low
    assert scores.area_mean[0] == pytest.approx(234)
    (pair,) = found.to_frame("pairs").to_dict("records")
    assert (pair["a"], pair["b"], pair["improvement"], pair["difference"]) == ("a", "b", 1.0, 268.0)
    assert pair["verdict"] == "a is higher"
    with pytest.raises(UsageError, match='"runs", "scores" and "pairs", not "row"'):
        found.to_frame("row")  # type: ignore[arg-type]


def test_a_notebook_shows_figures_verdicts_and_warnings_with_escaped_names(train: Train) -> None:
    train("a", [400, 500, 480])
    train("b", [100, 200, 300], name="<b>", params={"gamma": "0.5"})
    found = pgzoo.compare("a", "<b>")
    page = found._repr_html_()
    assert "data:image/svg+xml;base64," in page and "a is higher" in page
    assert "<b><" not in page and "vs <b>" not in page and "&lt;b&gt;" in page
    assert "gamma differs: a 0.99, &lt;b&gt; 0.5" in page
    assert found.figure()._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert repr(found) == "<Comparison a vs <b> on CartPole-v1\n  CartPole-v1: a vs <b>: a is higher>"


def test_axes_are_labeled_in_words(train: Train) -> None:
    train("a", [400, 500, 480])
    train("b", [100, 200, 300])
    left, right = pgzoo.compare("a", "b").figure().axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("environment steps", "mean return of training episodes")
    assert right.get_xlabel() == "mean return of the final evaluation"
    figure = pgzoo.compare("a", "b", metric="loss/policy").figure()
    figure.draw_without_rendering()
    left, _ = figure.axes
    assert left.get_ylabel() == "policy loss"
    assert "−1" in [label.get_text() for label in left.get_yticklabels()]  # a minus sign, not a hyphen


def test_comparisons_are_saved_as_pdf_svg_csv_latex_and_markdown(train: Train, tmp_path: Path) -> None:
    train("a_1", [-400, -500, -480])
    train("b", [-1100, -1200, -1300], name="b|2")
    found = pgzoo.compare("a_1", "b|2")
    assert found.save(tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    assert found.save(tmp_path / "x.pdf").read_bytes() == found.save(tmp_path / "y.pdf").read_bytes()
    assert "<svg" in found.save(tmp_path / "x.svg").read_text()
    rows = list(csv.DictReader(found.save(tmp_path / "x.csv").read_text().splitlines()))
    assert [(row["side"], float(row["iqm"])) for row in rows] == [("a_1", -460.0), ("b|2", -1200.0)]
    latex = found.save(tmp_path / "x.tex").read_text()
    assert "a\\_1 & 3 & $-460.0$ $[-591.4, -328.6]$ &" in latex
    assert "b$|$2 & 3 & $-1{,}200.0$" in latex
    assert "\\caption{Mean return of the final evaluation on CartPole-v1." in latex
    markdown = found.save(tmp_path / "x.md").read_text()
    assert "| b\\|2 | 3 | −1,200.0 [" in markdown and "a_1 is higher" in markdown


def test_the_first_warning_names_a_selector_that_pools_algorithms(train: Train) -> None:
    gae = {"estimator.name": "gae", "normalize_advantages": "True"}
    train("one", [1, 2, 3], algorithm="ppo", params=gae)
    train("two", [4, 5, 6], algorithm="a2c", params=gae, seeds=[3, 4, 5])
    train("three", [7, 8, 9], algorithm="vpg")
    found = pgzoo.compare("param:estimator=gae", "vpg")
    assert len(found.sides[0].runs) == 6
    assert found.warnings[0].startswith("param:estimator=gae POOLS RUNS OF 2 ALGORITHMS (a2c, ppo)")
    assert len(pgzoo.compare("param:normalize-advantages=true", "vpg").sides[0].runs) == 6
    assert not [w for w in pgzoo.compare("ppo", "vpg").warnings if "POOLS" in w]


DEUTAN = np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]])
PROTAN = np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]])
"""How linear RGB looks to readers without green or without red cones (Machado et al. 2009, severity 1)."""
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


@pytest.mark.parametrize("vision", [np.eye(3), DEUTAN, PROTAN], ids=["full", "deuteranopia", "protanopia"])
def test_colors_differ_for_color_blind_readers(vision: np.ndarray[Any, Any]) -> None:
    from pgzoo.analysis.figures import colors  # imported here, because it imports matplotlib

    srgb = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in colors(7)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = (linear @ vision.T).clip(0, 1) @ XYZ.T / XYZ.sum(1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(7, 1)]
    assert distance.min() > 12  # 2.3 is the smallest difference that people notice


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(program, ["compare", *arguments], prog_name="pgzoo", catch_exceptions=False)


def test_a_comparison_cannot_be_logged_without_a_store(train: Train) -> None:
    train("a", [1, 2, 3])
    train("b", [1, 2, 3])
    with pytest.raises(StoreError, match="The tracking store is none, so nothing can be logged: name one with"):
        pgzoo.compare("a", "b", tracking_uri="none").log()


def test_the_command_prints_tables(train: Train, tmp_path: Path) -> None:
    train("a", [400, 500, 480, 490, 470])
    train("b", [100, 200, 300, 150, 250])
    done = compare("a", "b", "--no-progress", "--out", str(tmp_path / "r.html"), "--out", str(tmp_path / "r.PNG"))
    assert done.exit_code == 0, done.output
    iqm = estimate([np.array([400.0, 500, 480, 490, 470])])
    rows = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()]
    assert ["final score", "seeds", "IQM", "mean", "median"] in rows
    assert next(row[:3] for row in rows if row[0] == "a") == ["a", "5", f"480.0 {interval(iqm)}"]
    assert next(row for row in rows if row[0] == "a > b")[-1] == "a is higher"
    assert (tmp_path / "r.html").is_file() and (tmp_path / "r.PNG").is_file()
    assert done.stderr == ""


def test_the_command_prints_json_to_stdout_and_warnings_to_stderr(train: Train) -> None:
    train("a", [1, 2, 3])
    train("b", [1, 2])
    done = compare("a", "b", "--json", "--no-progress")
    answer = json.loads(done.stdout)
    assert list(answer["comparisons"][0]["final"]) == ["a", "b"]
    assert (answer["run_id"], answer["files"], answer["envs"]) == (None, [], ["CartPole-v1"])
    assert answer["comparisons"][0]["final"]["b"]["iqm"]["low"] is None
    assert "Warning: b: 2 seeds; intervals need at least 3." in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "two or more selectors"),
        (["a", "b"], "No run matches"),
        (["a", "b", "--out", "r.gif"], "the extension must be one of .html, .png, .pdf"),
        (["a", "b", "--out", "no/r.html"], "the folder no doesn't exist"),
    ],
)
def test_invalid_commands_get_an_error_message_and_create_no_files(
    home: Home, arguments: list[str], message: str
) -> None:
    done = compare(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.startswith("Error: ")
    assert list(home.root.iterdir()) == [home.uploader_lock]  # only the file of the fixture


def sweep(train: Train, env: str, scores: dict[str, Sequence[float]], **options: Any) -> None:
    """Write the runs of a sweep, given the scores of the seeds for each setting."""
    for setting, of in scores.items():
        pairs = dict(part.split("=") for part in setting.split())
        group = f"{env} {setting}".replace("=", "-").replace(" ", "-")
        told = {"params": pairs, "tags": {"pgzoo.config.sweep": setting, "of": options.get("algorithm", "ppo")}}
        train(group, of, env=env, **{"algorithm": "ppo", "name": f"ppo {setting}", **told, **options})


def test_a_setting_that_was_trained_again_is_scored_by_its_newest_finished_run(train: Train) -> None:
    sweep(train, "A-v1", {"rate=1.0": [1, 2, 3], "rate=2.0": [4, 5, 6]})
    told = {"params": {"rate": "1.0"}, "tags": {"pgzoo.config.sweep": "rate=1.0", "of": "ppo"}}
    train("again", [90, 90, 90], env="A-v1", algorithm="ppo", status="interrupted", **told)
    found = sensitivity("tag:of=ppo")
    assert found.grids[0].scores["A-v1"] == {(1.0,): 2.0, (2.0,): 5.0}
    assert any("3 runs left out that didn't finish" in warning for warning in found.warnings)
    train("finished", [7, 7, 7], env="A-v1", algorithm="ppo", **told)
    assert sensitivity("tag:of=ppo").grids[0].scores["A-v1"] == {(1.0,): 7.0, (2.0,): 5.0}


def test_the_command_reports_the_sensitivity_of_a_sweep(train: Train) -> None:
    """Scores are means over the seeds of a setting. The numbers are those of tests/analysis/test_sensitivity.py."""
    names = ["lam=0.0 rate=1.0", "lam=0.0 rate=2.0", "lam=1.0 rate=1.0", "lam=1.0 rate=2.0"]
    sweep(train, "A-v1", dict(zip(names, [[-1, 0, 1], [1, 1, 1], [0, 2, 4], [3, 3, 3]], strict=True)))
    sweep(train, "B-v1", dict(zip(names, [[30] * 3, [10] * 3, [20] * 3, [0] * 3], strict=True)))
    about = {"pgzoo.config.sweep": names[0], "of": "ppo", "pgzoo.seeds": "fresh"}  # of a search's best trials: left out
    train("fresh", [99] * 3, env="A-v1", algorithm="ppo", params={"lam": "0.0", "rate": "1.0"}, tags=about)
    done = compare("--sensitivity", "tag:of=ppo", "--json", "--no-progress")
    assert done.exit_code == 0, done.output
    (found,) = json.loads(done.stdout)["sensitivity"]
    assert found["sensitivity"] == pytest.approx(1 / 2.7)
    assert (found["effective_dimensionality"], found["hyperparameters"]) == (2, ["lam", "rate"])
    assert found["shared_setting"] == {"lam": 1, "rate": 1}
    assert done.stderr == ""
    rows = [re.split(r"\s{2,}", line.strip()) for line in compare("--sensitivity", "tag:of=ppo").stdout.splitlines()]
    assert ["ppo", "A-v1", "4", "0.00", "0.15", "1.50", "2.85", "3.00", "lam=1 rate=2"] in rows
    assert ["ppo", "2", "1.056", "0.685", "0.370", "2 of 2 (lam, rate)", "lam=1 rate=1"] in rows
    alone = compare("--sensitivity", "tag:of=ppo", "--env", "A-v1")
    assert "the sensitivity needs two environments" in alone.stdout


def test_the_figure_of_a_sensitivity_is_saved_and_logged(home: Home, train: Train, tmp_path: Path) -> None:
    for env, low in (("A-v1", 0), ("B-v1", 10)):
        sweep(train, env, {f"lam={x} rate={y}": [low + x + 2 * y] * 3 for x in (0.0, 1.0) for y in (1.0, 2.0)})
    sweep(train, "A-v1", {"lam=0.0": [1] * 3, "lam=1.0": [2] * 3}, algorithm="a2c", name="a2c")
    files = tmp_path / "s.png", tmp_path / "s.json"
    out = [part for file in files for part in ("--out", str(file))]
    done = compare("--sensitivity", "tag:of=ppo", "tag:of=a2c", *out, "--log", "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["files"] == [str(file) for file in files] and answer["run_id"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert json.loads(files[1].read_text())["sensitivity"] == answer["sensitivity"]
    figure = sensitivity("tag:of=ppo", "tag:of=a2c").figure()
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels[:4] == ["lam", "rate"] * 2
    ppo_best = next(line for line in figure.axes[1].get_lines() if line.get_label() == "ppo")
    assert list(ppo_best.get_ydata()) == [3, 5]
    refused = compare("--sensitivity", "tag:of=ppo", "--out", str(tmp_path / "s.csv"))
    assert refused.exit_code == 2 and "must be one of .png, .pdf, .svg, .json with --sensitivity" in refused.stderr


def test_the_name_of_a_sweep_selects_all_of_its_settings(train: Train) -> None:
    for group, rate in (("low", 1.0), ("high", 2.0)):
        params, tags = {"rate": str(rate)}, {"pgzoo.config.sweep": f"rate={rate}"}
        train(group, [rate, 2 * rate, 3 * rate], name=f"mine rate={rate}", params=params, tags=tags)
    train("other", [7, 8, 9], name="mine too")
    assert [side.label for side in pgzoo.compare("mine").sides] == ["mine rate=1.0", "mine rate=2.0"]
    assert keys("mine rate=1.0", "mine too") == [["low-s0", "low-s1", "low-s2"], ["other-s0", "other-s1", "other-s2"]]
    assert [run.run_key for run in find("mine", Home.find())] == ["high-s0", "high-s1", "high-s2"]
    assert "or the group or name of one sweep" in compare("mine too").output


def test_single_seeds_failed_runs_and_unsuitable_sweeps_are_reported(train: Train) -> None:
    sweep(train, "A-v1", {"rate=1.0": [1, 2, 3], "rate=2.0": [4]})
    sweep(train, "A-v1", {"rate=3.0": [1, 2, 3]}, status="failed")
    train("alone", [1, 2, 3])
    done = compare("--sensitivity", "ppo", "--json")
    assert "ppo on A-v1: 1 seed per setting" in done.stderr
    assert "ppo on A-v1: 3 runs failed; scored at the last step." in done.stderr
    assert "belongs to a sweep" in compare("--sensitivity", "alone").output
    sweep(train, "A-v1", {"lam=1.0": [1, 2, 3]})
    assert "some runs sweep" in compare("--sensitivity", "ppo").output
