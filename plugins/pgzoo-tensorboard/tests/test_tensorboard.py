"""Event files of real runs, read back by TensorBoard itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pgzoo_tensorboard.listener import EventFile, number, plain
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from pgzoo.registry import discover
from pgzoo.tracking import records

RUN = ("run", "reinforce", "--env", "CartPole-v1", "--eval-episodes", "10", "--no-progress", "--json")


def start(folder: Path, *args: str, logs: str = "logs") -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "pgzoo", *args],
        env={**env, "PGZOO_TENSORBOARD": logs},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pgzoo(folder: Path, *args: str, logs: str = "logs") -> dict[str, Any]:
    child = start(folder, *args, logs=logs)
    out, err = child.communicate(timeout=600)
    assert child.returncode == 0, err
    assert "tensorboard" not in err.lower(), err
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer


def read(folder: Path) -> EventAccumulator:
    """Read a run as TensorBoard does, but keep every point."""
    keep_all = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
    return EventAccumulator(str(folder), size_guidance=keep_all).Reload()


def curves(events: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def told(journal: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the points of a journal, which MLflow gets, too; values are compared with the precision of float32."""
    points: dict[str, list[tuple[int, float]]] = {}
    for record, _ in records(journal):
        for step in record.get("steps", [record.get("step")]) if record and "m" in record else ():
            for name, value in record["m"].items():
                points.setdefault(name, []).append((step, pytest.approx(value, rel=1e-6)))
    return points


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("trained")
    answer = pgzoo(folder, *RUN, "--seeds", "3,7", "--total-steps", "3000", "--eval-every", "1000")
    return folder, [seed["run_key"] for seed in answer["seeds"]]


def test_the_listener_is_found_by_its_entry_point() -> None:
    entry = discover(inline=False).get("listener", "tensorboard")
    assert (entry.plugin.name, entry.plugin.distribution) == ("tensorboard", "pgzoo-tensorboard")


def test_the_curves_are_those_that_mlflow_gets(trained: tuple[Path, list[str]]) -> None:
    folder, keys = trained
    for key in keys:
        seen = curves(read(folder / "logs" / "CartPole-v1" / "reinforce" / key))
        assert seen == told(folder / ".pgzoo" / "runs" / key)
        assert [step for step, _ in seen["train/return_mean"]][:3] == [1000, 2000, 3000]
        assert [step for step, _ in seen["eval/return_mean"]] == [1000, 2000, 3000]
        assert {"loss/policy", "summary/return_final", "time/steps_per_second"} <= set(seen)


def test_event_files_contain_histograms_a_figure_and_text(trained: tuple[Path, list[str]]) -> None:
    folder, keys = trained
    events = read(folder / "logs" / "CartPole-v1" / "reinforce" / keys[0])
    evaluations = [r for r, _ in records(folder / ".pgzoo" / "runs" / keys[0]) if r and r["t"] == "evaluation"]
    last = next(e for e in reversed(evaluations) if e["mode"] == "sampled")
    found = events.Histograms("eval/returns")[-1]
    assert (found.step, found.histogram_value.num) == (3000, 10)
    assert found.histogram_value.sum == pytest.approx(sum(last["returns"]))
    assert (found.histogram_value.min, found.histogram_value.max) == (min(last["returns"]), max(last["returns"]))
    assert events.Tags()["histograms"] == ["eval/returns", "eval/greedy_returns"]
    (image,) = events.Images("learning_curve")
    assert image.encoded_image_string.startswith(b"\x89PNG") and (image.width, image.height) == (1056, 594)
    (text,) = events.Tensors("description/text_summary")
    assert b"pgzoo run reinforce --env CartPole-v1" in text.tensor_proto.string_val[0]


def test_tensorboard_shows_settings_and_final_metrics_and_the_seeds_of_a_run_form_a_group(
    trained: tuple[Path, list[str]],
) -> None:
    folder, keys = trained
    logs = str(folder / "logs")
    runs = EventMultiplexer().AddRunsFromDirectory(logs).Reload()
    context = backend_context.Context(TBContext(data_provider=MultiplexerDataProvider(runs, logs)))
    request = api_pb2.ListSessionGroupsRequest(allowed_statuses=[api_pb2.STATUS_SUCCESS], slice_size=10)
    [group] = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    assert group.name == keys[0].rpartition("-s")[0]
    assert group.hparams["algorithm"].string_value == "reinforce"
    assert group.hparams["total_steps"].number_value == 3000
    assert "seed" not in group.hparams  # sessions of a group have equal hyperparameters
    assert [session.name for session in group.sessions] == [f"CartPole-v1/reinforce/{key}" for key in keys]
    for key, session in zip(keys, group.sessions, strict=True):
        shown = {metric.name.tag: (metric.training_step, metric.value) for metric in session.metric_values}
        assert shown == {name: points[-1] for name, points in told(folder / ".pgzoo" / "runs" / key).items()}
        assert "summary/return_final" in shown


def test_without_a_log_folder_no_event_file_is_written(trained: tuple[Path, list[str]]) -> None:
    folder, _ = trained
    before = set(folder.rglob("events.out.*"))
    pgzoo(folder, *RUN, "--total-steps", "500", logs="")
    assert set(folder.rglob("events.out.*")) == before


@pytest.mark.slow
def test_a_killed_run_keeps_its_points_and_resuming_repeats_none(tmp_path: Path) -> None:
    options = ("--total-steps", "400000", "--checkpoint-every", "5000", "--eval-every", "20000")
    child = start(tmp_path, *RUN, *options)
    try:
        deadline = time.monotonic() + 600
        while not (files := list(tmp_path.rglob("events.out.*"))) or len(points(files[0].parent)) < 12:
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    folder = files[0].parent
    kept = points(folder)
    journal = tmp_path / ".pgzoo" / "runs" / folder.name
    assert kept == told(journal)["train/return_mean"][: len(kept)]
    more = str(kept[-1][0] + 20_000)
    pgzoo(tmp_path, "resume", folder.name, "--total-steps", more, "--no-progress", "--json")
    seen = curves(read(folder))
    assert seen == told(journal)
    steps = [step for step, _ in seen["train/return_mean"]]
    assert steps == sorted(set(steps)) and steps[-1] >= int(more)
    assert points(folder)[: len(kept)] == kept
    assert len(list(folder.iterdir())) == 1


def points(folder: Path) -> list[tuple[int, float]]:
    return curves(read(folder)).get("train/return_mean", [])


def test_a_growing_journal_is_followed_and_an_incomplete_line_is_read_later(tmp_path: Path) -> None:
    head = {"t": "start", "ts": 1000, "key": "k", "name": "x s0", "group": "g", "params": {}, "tags": {}}
    update = {"t": "update", "ts": 2000, "steps": [1000, 2000], "m": {"a": 0.5}}
    whole, torn = json.dumps(update) + "\n", json.dumps({**update, "ts": 3500, "steps": [3000]})
    (tmp_path / "journal.jsonl").write_text(json.dumps(head) + "\n" + whole + torn[:20])
    file = EventFile(tmp_path, tmp_path / "events")
    assert curves(read(tmp_path / "events")) == {"a": [(1000, 0.5), (2000, 0.5)]}
    with (tmp_path / "journal.jsonl").open("a") as journal:
        journal.write(torn[20:] + "\n" + json.dumps({**head, "ts": 9000}) + "\n")
    file.follow()
    file.end("failed")
    events = read(tmp_path / "events")
    assert [(e.wall_time, e.step) for e in events.Scalars("a")] == [(2.0, 1000), (2.0, 2000), (3.5, 3000)]


def test_folder_names_are_made_valid_and_numeric_settings_become_numbers() -> None:
    assert [plain(name) for name in ("ALE/Pong-v5", "mine:Env-v0", "../..", "")] == [
        "ALE-Pong-v5",
        "mine-Env-v0",
        "run",
        "run",
    ]
    assert [number(v) for v in ("0.5", "3", "True", "64,64")] == [0.5, 3.0, True, "64,64"]
