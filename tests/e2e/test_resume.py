"""`pgzoo resume` and `pgzoo repro` from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from program import Folder

OPTIONS = ("--env", "CartPole-v1", "--backend", "sync", "--num-envs", "2", "--log-every", "100", "--eval-episodes", "2")


def test_a_run_is_resumed_for_more_steps_and_reproduced(shared: Folder) -> None:
    answer = shared.run("a2c", *OPTIONS, "--total-steps", "600", "--experiment", "longer")
    key, run_id = answer["seeds"][0]["run_key"], answer["seeds"][0]["run_id"]
    longer = shared.parse(shared.pgzoo("resume", run_id, "--total-steps", "1200", "--json")[0])
    assert (longer["status"], longer["seeds"][0]["run_key"]) == ("finished", key)
    shared.sync()

    (run,) = shared.ask("[look(r, 'loss/value') for r in runs('longer')]")
    assert (run["id"], run["status"], run["params"]["total_steps"]) == (run_id, "FINISHED", "600")
    assert run["tags"]["pgzoo.total_steps"] == "1200"  # a param can't be changed, so a tag has the new value
    assert [step for step, _ in run["curves"]["loss/value"]] == list(range(100, 1201, 100))

    out, err = shared.pgzoo("repro", key, "--no-progress")
    assert out.startswith(f"{key}: all ") and out.endswith(" values are equal, bit for bit.\n") and not err
    journal = shared.path / ".pgzoo" / "runs" / key / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    record = next(line for line in lines if line.get("steps") == [900])
    record["m"]["loss/value"] += 1.0
    lines[0]["tags"]["torch.version"] = "1.0"
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out, err = shared.pgzoo("repro", key, "--no-progress", code=1)
    assert f"{key}: the first difference is at step 900, loss/value: " in out
    assert err.startswith("torch was 1.0 and is ") and err.endswith(": the numbers may differ in the last bits.\n")
    (told,) = json.loads(shared.pgzoo("repro", key, "--json", code=1)[0])
    assert (told["equal"], told["first"]["step"], told["until"]) == (False, 900, None)
    assert told["first"]["then"] - told["first"]["now"] == pytest.approx(1.0) and told["unlike"]

    _, err = shared.pgzoo("resume", key, "--gamma", "0.5", code=2)
    assert "--gamma can't be changed" in err and "--workers and --rollout-workers may change." in err
