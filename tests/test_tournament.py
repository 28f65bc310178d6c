"""The tournament: the choice of settings, pieces that can be interrupted and run again, and the page of results."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import tournament  # noqa: E402
from tournament import Contestant, Finished, Piece, pieces, play, write  # noqa: E402

PPO = Contestant("ppo", "learning_rate", 1e-3, tuple(tournament.ENVIRONMENTS))
RPO = Contestant("rpo", "learning_rate", 1e-3, ("Pendulum-v1",))


def trained(command: str) -> dict[str, Any]:
    """Return a result like that of `pgzoo run`: a trial scores 1e5 x learning rate x gamma, or fails for one seed."""
    axes = dict(re.findall(r"--sweep-axis ([\w-]+)=(\S+)", command))
    seeds = []
    if axes:
        for rate in map(float, axes["learning-rate"].split(",")):
            for gamma in map(float, axes["gamma"].split(",")):
                for seed in (100, 101, 102):
                    score = None if rate > 0.002 and seed == 101 else 1e5 * rate * gamma
                    seeds.append({"settings": {"learning_rate": rate, "gamma": gamma}, "return_mean": score})
    else:
        seeds = [{"settings": {}, "return_mean": 100.0 + seed} for seed in range(10)]
    return {"seeds": seeds, "env_steps": 10 * len(seeds)}


def test_the_trial_with_the_best_mean_is_trained_with_fresh_seeds() -> None:
    result = play(Piece(PPO, "CartPole-v1"), trained)
    assert len(result["trials"]) == 9
    assert result["chosen"] == {"learning_rate": 0.001, "gamma": 0.995}  # with 0.003, a seed failed
    assert result["tuning"] == (
        "pgzoo run ppo --env CartPole-v1 --preset none --total-steps 50000 --seeds 100,101,102 "
        "--sweep-axis learning-rate=0.0003,0.001,0.003 --sweep-axis gamma=0.95,0.98,0.995 --json"
    )
    assert result["final"].endswith("--seeds 10 --learning-rate 0.001 --gamma 0.995 --json")
    assert result["returns"] == [100.0 + seed for seed in range(10)]


def test_pieces_are_chosen_by_wildcards() -> None:
    names = [piece.name for piece in pieces([PPO, RPO], ["*/Pendulum-v1", "ppo/CartPole-v1"])]
    assert names == ["ppo/CartPole-v1", "ppo/Pendulum-v1", "rpo/Pendulum-v1"]


def test_finished_pieces_are_kept_and_a_piece_with_a_cut_off_line_is_run_again(tmp_path: Path) -> None:
    file, piece, other = tmp_path / "x" / "pieces.jsonl", Piece(PPO, "CartPole-v1"), Piece(RPO, "Pendulum-v1")
    Finished(file).add(play(piece, trained))
    with file.open("a", encoding="utf-8") as cut:
        cut.write('{"piece": "rpo/Pendulum-v1", "tuning": "pgzoo ru')
    again = Finished(file)
    assert again.has(piece) and not again.has(other)
    assert not again.has(Piece(PPO, "CartPole-v1", fraction=0.5))  # a different number of steps makes a different piece
    again.add(play(other, trained))
    assert Finished(file).has(piece) and Finished(file).has(other)


def test_a_piece_that_is_interrupted_or_fails_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, page = tmp_path / "pieces.jsonl", tmp_path / "page.md"

    def interrupted(command: str) -> dict[str, Any]:
        if "Acrobot" in command and "--seeds 10 " in command:
            raise KeyboardInterrupt
        return trained(command)

    monkeypatch.setattr(tournament, "contestants", lambda: [PPO])
    monkeypatch.setattr(tournament, "run", interrupted)
    words = ["ppo/CartPole-v1", "ppo/Acrobot-v1", "ppo/Pendulum-v1", "--keep", str(keep), "--out", str(page)]
    monkeypatch.setattr(sys, "argv", ["tournament.py", *words])
    with pytest.raises(SystemExit, match="ppo/Acrobot-v1 was interrupted"):
        tournament.main()
    assert list(Finished(keep).found) == ["ppo/CartPole-v1"]

    def failing(command: str) -> dict[str, Any]:
        if "Acrobot" in command:
            raise tournament.Failed("no such environment")
        return trained(command)

    monkeypatch.setattr(tournament, "run", failing)
    with pytest.raises(SystemExit, match="These pieces failed: ppo/Acrobot-v1"):
        tournament.main()
    assert list(Finished(keep).found) == ["ppo/CartPole-v1", "ppo/Pendulum-v1"]
    monkeypatch.setattr(tournament, "run", trained)
    tournament.main()
    assert sorted(Finished(keep).found) == ["ppo/Acrobot-v1", "ppo/CartPole-v1", "ppo/Pendulum-v1"]
    assert "3 of 6 pieces have been run" in page.read_text(encoding="utf-8")


def test_the_page_says_what_was_not_run(tmp_path: Path) -> None:
    finished, page = Finished(tmp_path / "pieces.jsonl"), tmp_path / "page.md"
    write(page, finished, [PPO, RPO])
    assert "| `rpo` | 0 |  |  |  |  | – | – | – | – | not run | – |" in page.read_text(encoding="utf-8")
    for env in ("CartPole-v1", "Acrobot-v1"):
        finished.add(play(Piece(PPO, env), trained))
    write(page, finished, [PPO, RPO])
    text = page.read_text(encoding="utf-8")
    (row,) = (line for line in text.splitlines() if line.startswith("| `ppo`"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "2" and cells[8] == "not run"
    assert cells[7].startswith("104.5 [") and cells[6] == "not run"
    # Of ten returns from 100 to 109, those nearest to the percentiles are 100 and 109. Their difference is divided by
    # the range of returns, 478 on CartPole and 429 on Acrobot.
    assert cells[3] == f"{100 * (9 / 478 + 9 / 429) / 2:.0f}%"
    assert (cells[4], cells[5]) == ("0.00", "0: none")  # the same setting is best in both
    assert "5 pieces: `ppo/FrozenLake-v1`" in text and "`rpo/Pendulum-v1`" in text.split("## Not run")[1]


@pytest.mark.slow
def test_contestants_take_gradient_steps_and_fit_their_environments() -> None:
    found = {contestant.name: contestant for contestant in tournament.contestants()}
    assert {"reinforce", "a2c", "ppo", "trpo"} <= set(found) and not {"random", "cem", "ars"} & set(found)
    assert found["rpo"].envs == ("MountainCarContinuous-v0", "Pendulum-v1")
    assert found["trpo"].step_size == "max_kl" and found["trpo"].values == (0.003, 0.01, 0.03)
