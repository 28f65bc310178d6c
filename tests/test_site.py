"""The documentation site: every page is in the navigation, links lead to files, and named settings exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SOURCE = "https://github.com/pgzoo/pgzoo/blob/main/"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")}


def pages(nav: list[dict[str, Any]]) -> Iterator[str]:
    for entry in nav:
        for target in entry.values():
            if isinstance(target, str):
                yield target
            else:
                yield from pages(target)


def test_every_page_is_in_the_navigation_once() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    assert sorted(pages(nav)) == sorted(PAGES)


def test_code_that_writes_pages_is_not_published() -> None:
    excluded = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["exclude_docs"]
    code = list(DOCS.rglob("*.py"))
    assert code and all(any(path.match(pattern) for pattern in excluded.split()) for path in code)


def test_percent_signs_follow_numbers_without_a_space() -> None:
    spaced = {name: re.findall(r"\d(?:\s|&nbsp;)%(?! ?\w)", text) for name, text in PAGES.items()}
    assert {name for name, found in spaced.items() if found} == set()


def test_links_to_the_code_lead_to_files() -> None:
    links = {link for text in PAGES.values() for link in re.findall(rf"\({re.escape(SOURCE)}([^)#]+)", text)}
    assert links
    assert {link for link in links if not (ROOT / link).exists()} == set()


def test_links_within_the_docs_lead_to_files() -> None:
    for name, text in PAGES.items():
        for link in re.findall(r"\]\(((?!http)[^)#]+)", text):
            assert ((DOCS / name).parent / link).resolve().is_relative_to(DOCS), f"{name}: {link}"
            assert ((DOCS / name).parent / link).exists(), f"{name}: {link}"


def test_the_first_page_links_to_every_page_but_decisions() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", PAGES["index.md"]))
    assert {name for name in PAGES if not name.startswith("decisions/")} - {"index.md"} == linked & set(PAGES)


def test_anchors_of_links_within_the_docs_exist() -> None:
    for name, text in PAGES.items():
        for link, anchor in re.findall(r"\]\(((?!http)[^)#]*)#([^)]+)\)", text):
            page = ((DOCS / name).parent / link).resolve().relative_to(DOCS).as_posix() if link else name
            assert anchor in anchors(PAGES[page]), f"{name}: {link}#{anchor}"


def anchors(page: str) -> set[str]:
    """Return the anchors that the site makes of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_prose_links_to_pages_instead_of_naming_their_paths() -> None:
    """On the site, no page is called docs/hooks.md: such a path means nothing to its readers."""
    for name, text in PAGES.items():
        prose = re.sub(r"```.*?```|\]\([^)]*\)", "", text, flags=re.DOTALL)
        assert not re.findall(r"docs/[\w/-]+\.md", prose), name


def test_the_pgzoo_settings_in_coming_from_md_exist() -> None:
    rows = re.findall(r"^\| [^|]* \| ([^|]*) \|", PAGES["coming-from.md"], re.MULTILINE)
    options = {option for row in rows for option in re.findall(r"--([a-z][a-z.-]*)", row)}
    known = set(re.findall(r"--([a-z][a-z.-]*)", PAGES["cli.md"] + PAGES["algorithms.md"]))
    for kind, page in (("policy", "policies.md"), ("estimator", "estimators.md")):
        known |= {f"{kind}.{name.replace('_', '-')}" for name in re.findall(r"`(\w+)`", PAGES[page])}
    assert len(options) > 20
    assert options - known == set()
