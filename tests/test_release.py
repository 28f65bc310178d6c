"""The files that describe a release agree: version, Python versions, constraints, and permissions of workflows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
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


@pytest.mark.parametrize("folder", sorted(ROOT.glob("plugins/*")), ids=lambda folder: folder.name)
def test_the_distributions_of_plugins_have_their_license_and_types(folder: Path) -> None:
    settings = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    assert settings["project"]["license-files"] == ["LICENSE"]
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    package = folder.name.replace("-", "_")
    assert (folder / "src" / package / "py.typed").is_file()
    assert "py.typed" in settings["tool"]["setuptools"]["package-data"][package]


@pytest.mark.parametrize(
    "folder", [ROOT, *sorted(ROOT.glob("plugins/*"))], ids=lambda folder: str(folder.relative_to(ROOT))
)
def test_a_source_distribution_has_the_license_and_no_part_of_the_tests(folder: Path, tmp_path: Path) -> None:
    """By default, setuptools would add those test files whose names start with test_, without what they import."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    package = tmp_path / ("." if folder == ROOT else "src") / project["name"].replace("-", "_")
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(folder / name, tmp_path)
    for file in (package / "__init__.py", tmp_path / "tests" / "test_one.py"):
        file.parent.mkdir(parents=True)
        file.touch()
    build = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, check=True)
    [made] = (tmp_path / "dist").iterdir()
    with tarfile.open(made) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert {"LICENSE", "PKG-INFO"} <= set(names)
    assert [name for name in names if name.startswith("tests")] == []


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
