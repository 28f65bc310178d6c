"""The files that describe a release agree: version, Python versions, constraints, and permissions of workflows."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_cited_and_the_installed_version_match_pyproject() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"] == metadata.version("pgzoo")


def test_ci_runs_the_python_versions_that_the_classifiers_name() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    named = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", name)]
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    assert workflow["permissions"] == {"contents": "read"}


def test_constraints_pin_every_dependency() -> None:
    pinned = {
        line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    }
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + extras["dev"] + extras["docs"]
    names = {re.split(r"[\[><=~ ;]", requirement)[0].lower() for requirement in wanted}
    assert names - {"pgzoo"} <= pinned


def test_only_the_publish_job_has_extra_permissions_and_make_targets_exist() -> None:
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    assert release["permissions"] == {"contents": "read"}
    assert [name for name, job in release["jobs"].items() if "permissions" in job] == ["publish"]
    steps = release["jobs"]["build"]["steps"] + release["jobs"]["publish"]["steps"]
    assert "secrets." not in str(release), "publishing needs no stored password"
    targets = {
        target for step in steps for target in step.get("run", "").split() if step.get("run", "").startswith("make ")
    }
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets >= {"make", "audit", "wheels", "sbom"}
    assert all(f"\n{target}:" in makefile for target in targets - {"make"})
