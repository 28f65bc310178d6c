"""Trains a few updates in every environment of two lists; writes docs/environments.md.

make environments               (or: python benchmarks/environments.py --only minigrid)

Results are kept in benchmarks/environments.json. Rows without a result are run; `--only WORD` runs the rows whose name
contains the word, also those with a result. Packages are installed into virtual environments of their own, on top of
the one that runs this script, and these are deleted at the end unless `--venvs FOLDER` says where to keep them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from environment_packages import PACKAGES, Package

ROOT = Path(__file__).resolve().parent.parent
PAGE, KEPT = ROOT / "docs" / "environments.md", ROOT / "benchmarks" / "environments.json"
BUDGET = (
    "--num-envs 2 --rollout-steps 64 --total-steps 384 --minibatches 2 --epochs 2 --eval-episodes 1 "
    "--eval-max-steps 50 --tracking-uri none --json"
)
"""Added to every command of the page: three updates of 128 steps, then a short evaluation."""

LISTED = 'pip install "pgzoo[atari,box2d,jax,mujoco]" ./plugins/pgzoo-envpool'
INSTALL_LIMIT, RUN_LIMIT = 1800, 300
"""Seconds after which an installation and a run are stopped."""

EXTRAS = {"MuJoCo": "mujoco", "Box2D": "box2d", "phys2d": "jax", "tabular": "jax", "Atari": "atari"}
"""The extra of pgzoo that a family needs, by the first word of the family's name."""


class Case(NamedTuple):
    """An id of the list, and the options with which it is tried."""

    id: str
    options: str
    family: str


class Attempt(NamedTuple):
    """What a command printed; `error` is empty if it trained."""

    printed: str
    error: str


def cases() -> list[Case]:
    """Read benchmarks/environment_ids.txt."""
    found, family = [], ""
    for line in (ROOT / "benchmarks" / "environment_ids.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            family = line.strip("[]")
        elif line and not line.startswith("#"):
            env_id, _, options = line.partition(" ")
            found.append(Case(env_id, options, family))
    return found


class Overlays:
    """Virtual environments in `folder`, one for each line that installs something, on top of this script's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def python(self, name: str, install: str) -> tuple[Path, str]:
        """Return the interpreter of the environment `name`, and the last lines of pip if it failed."""
        place = self.folder / re.sub(r"\W+", "-", name)  # some packages search their own folder with a glob
        python = place / "bin" / "python"
        if (place / "complete").exists():
            return python, ""
        venv.create(place, clear=True, with_pip=False)
        packages = next(place.glob("lib/python*/site-packages"))
        base = sysconfig.get_paths()["purelib"]
        (packages / "base.pth").write_text(f"import site; site.addsitedir({base!r})\n", encoding="utf-8")
        words = [re.sub(r"^(pgzoo(?=\[)|\.(?=/))", str(ROOT), word) for word in shlex.split(install)[2:]]
        words = [f"-e{word}" if word.startswith(str(ROOT)) else word for word in words]
        (place / "constraints.txt").write_text(constraints_without(words), encoding="utf-8")
        pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(place / "constraints.txt")]
        done = execute([*pip, *words], place, INSTALL_LIMIT)
        if done.error:
            return python, done.error
        (place / "complete").touch()
        return python, ""


def constraints_without(words: Iterable[str]) -> str:
    """Return constraints.txt without the packages that the words of a command name with a version."""
    named = {re.split("[<>=!]", word)[0].lower() for word in words if re.search("[<>=!]", word)}
    named |= {f"{name}-{part}" for name in named for part in ("core", "studio")}  # mujoco's own parts
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.partition("==")[0] not in named) + "\n"


def execute(words: list[str], folder: Path, limit: int, variables: Iterable[str] = ()) -> Attempt:
    """Run a command; its error is the message of pgzoo, or its last line."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PGZOO_"))}
    kept |= {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"} | dict(word.split("=", 1) for word in variables)
    try:
        done = subprocess.run(words, cwd=folder, env=kept, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return Attempt("", f"stopped after {limit} s")
    printed = done.stderr + done.stdout
    if not done.returncode:
        return Attempt(printed, "")
    lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
    errors = [line.partition(": ")[2] for line in lines if line.lower().startswith("error: ")]
    return Attempt(printed, errors[0] if errors else f"no message, only {lines[-1]}")


def train(python: Path, command: str, files: dict[str, str] | None = None) -> Attempt:
    """Run a line of the page with the budget, in an empty folder with these files."""
    print(f"{command} {BUDGET}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder = Path(place)
        for name, text in (files or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
        before, _, options = command.partition("pgzoo ")
        words = [str(python), "-m", "pgzoo", *shlex.split(options), *BUDGET.split()]
        done = execute(words, folder, RUN_LIMIT, before.split())
    print(f"  {done.error or 'trains'}", file=sys.stderr, flush=True)
    return done


def try_listed(case: Case, overlays: Overlays) -> dict[str, Any]:
    """Train in an environment of the list; if it is refused, in what the error message offers."""
    python, problem = overlays.python("listed", LISTED)
    if problem:
        sys.exit(f"{LISTED} failed: {problem}")
    options = f" {case.options}" if case.options else ""
    command = f"pgzoo run ppo --env {case.id}{options}"
    first = train(python, command)
    result: dict[str, Any] = {"command": command, "trains": not first.error, "error": first.error}
    if newer := re.search(r"has a newer version, (\S+)\.", first.printed):
        result["newer"] = newer[1]
    if successor := re.search(r'Use "([^"]+)"', first.error):
        result["successor"] = successor[1]
        second = train(python, f"pgzoo run ppo --env {successor[1]}{options}")
        result["successor_trains"] = not second.error
    if backend := re.search(r"--backend (\w+)", first.error):
        second = train(python, f"{command} --backend {backend[1]}")
        result["backend"], result["backend_trains"] = backend[1], not second.error
    return result


def try_package(package: Package, overlays: Overlays) -> dict[str, Any]:
    """Install a package and train in one of its environments."""
    print(package.install, file=sys.stderr, flush=True)
    python, problem = overlays.python(package.name, package.install)
    result: dict[str, Any] = {"install": package.install, "command": package.command}
    if problem:
        return result | {"trains": False, "error": f"pip fails: {problem}", "version": ""}
    ask = f"from importlib.metadata import version; print(version({package.name.partition('[')[0]!r}))"
    found = execute([str(python), "-c", ask], ROOT, RUN_LIMIT).printed.strip()
    done = train(python, package.command, package.files)
    return result | {"trains": not done.error, "error": done.error, "version": found}


def outcome_of(result: dict[str, Any]) -> str:
    """Return what happens with an id, in words that are the same for all ids of the same kind."""
    if result["trains"]:
        return "trains; a note names the newer version" if "newer" in result else "trains"
    parts = []
    if "successor" in result:
        trains = "which trains" if result["successor_trains"] else "which doesn't train either"
        parts.append(f"refused; the error message offers the newer version, {trains}")
    if "backend" in result:
        trains = "trains" if result["backend_trains"] else "doesn't train"
        parts.append(f"the old id {trains} with `--backend {result['backend']}`")
    return "; ".join(parts) or f"can't be trained in: {result['error']}"


def listed_table(results: dict[str, Any]) -> str:
    """Return the first table: ids of one family with equal outcomes share a line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for case in cases():
        result = results.get(case.id)
        shown = f"`{case.id}`"
        if result and (newer := result.get("successor") or result.get("newer")):
            shown += f" → `{newer}`"
        groups.setdefault((case.family, outcome_of(result) if result else "not run"), []).append(shown)
    lines = ["| family | needs | ids (→ newer version) | outcome |", "|---|---|---|---|"]
    for (family, outcome), ids in groups.items():
        extra = EXTRAS.get(family.split(" ")[0].rstrip(","))
        needs = f'`pip install "pgzoo[{extra}]"`' if extra else ""
        lines.append(f"| {family} | {needs} | {', '.join(ids)} | {cell(outcome)} |")
    return "\n".join(lines)


def package_table(results: dict[str, Any]) -> str:
    """Return the second table: a row for each package."""
    lines = ["| package | install and run | what it takes | outcome |", "|---|---|---|---|"]
    for package in PACKAGES:
        result = results.get(package.name)
        if result and result["command"] != package.command:
            result = None  # of an earlier version of the row
        outcome = "not run"
        if result:
            outcome = "trains" if result["trains"] else f"refused: {result['error']}"
        name = f"{package.name} {result['version']}" if result and result["version"] else package.name
        commands = f"`{package.install}`<br>`{package.command}`"
        lines.append(f"| {name} | {commands} | {cell(package.about)} | {cell(outcome)} |")
    return "\n".join(lines)


def cell(text: str) -> str:
    """Return a text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def file_texts() -> str:
    """Return the files that the rows need, each with its name."""
    files = {name: text for package in PACKAGES for name, text in package.files.items()}
    return "\n".join(f"`{name}`:\n\n```python\n{text.strip()}\n```\n" for name, text in files.items())


def page(kept: dict[str, Any]) -> str:
    """Return the page of these results."""
    listed, packages = kept["listed"], kept["packages"]
    dates = sorted({row["date"] for row in (*listed.values(), *packages.values())}) or ["never"]
    return TEMPLATE.format(
        dates=dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
        versions=kept.get("versions", ""),
        budget=BUDGET,
        listed=listed_table(listed),
        packages=package_table(packages),
        files=file_texts(),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--only", metavar="WORD", help="run the rows whose name contains this, also those with a result"
    )
    parser.add_argument("--venvs", metavar="FOLDER", type=Path, help="keep the virtual environments here")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page from the results")
    asked = parser.parse_args()
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {"listed": {}, "packages": {}}
    folder = Path(asked.venvs or tempfile.mkdtemp(prefix="pgzoo-environments-")).absolute()
    overlays = Overlays(folder)
    rows: list[tuple[str, str, Callable[[], dict[str, Any]]]] = []
    rows += [("listed", case.id, lambda case=case: try_listed(case, overlays)) for case in cases()]  # type: ignore[misc]
    rows += [("packages", one.name, lambda one=one: try_package(one, overlays)) for one in PACKAGES]  # type: ignore[misc]
    try:
        for table, name, attempt in rows if not asked.page else []:
            if asked.only in name if asked.only else name not in kept[table]:
                kept[table][name] = attempt() | {"date": time.strftime("%Y-%m-%d")}
                kept["versions"] = versions()
                KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")  # after each: they take long
    finally:
        if not asked.venvs:
            shutil.rmtree(folder, ignore_errors=True)
    PAGE.write_text(page(kept), encoding="utf-8")


def versions() -> str:
    found = ", ".join(f"{name} {version(name)}" for name in ("pgzoo", "gymnasium", "torch", "numpy"))
    return f"Python {platform.python_version()}, {found}"


TEMPLATE = """# Environments

Which environments pgzoo trains in, and what each of them needs. Made by `make environments`, which runs every command
below for three updates. Rows tried: {dates}; {versions}.

Every command was run with these options in addition, so that it takes seconds. To learn something, leave them out:

```sh
{budget}
```

`pgzoo envs ID` checks an environment on your machine: whether it can be made, and if not, what to install or which id
to use instead. `make environments` runs the rows that have no result yet; `make environments ROW=minigrid` runs the
rows whose name contains `minigrid` again.

## Ids that come with gymnasium

These are the ids from the registries of gym and gymnasium that a teaching notebook lists, and the current ids that it
doesn't list.
The command is `pgzoo run ppo --env ID`, with `--policy cnn` for CarRacing and, for Atari games, gymnasium's
preprocessing ([Atari](backends.md#wrappers-and-frame-stacking)). `--backend envpool` needs
`pip install ./plugins/pgzoo-envpool`.

{listed}

## Packages from PyPI

Packages were installed next to pgzoo into virtual environments, which some of them shared, with the versions of
constraints.txt. `module:EnvId` imports the module, which registers its ids. `--import MODULE` does the same for ids
that contain no module name, and for wrappers.

{packages}

The files that some rows name, in the working directory:

{files}
"""

if __name__ == "__main__":
    main()
