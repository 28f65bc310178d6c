"""Equations convert to LaTeX and MathML; each algorithm has an equation and a link to its source."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from pgzoo.registry import discover

DOCS = Path(__file__).resolve().parent.parent / "docs"
sys.path.append(str(DOCS))

from algorithm_page import docstring, estimator_equations  # noqa: E402
from equations import display, to_latex, to_mathml  # noqa: E402

ALGORITHMS = [e for e in discover(inline=False).entries("algorithm") if e.plugin.source == "built-in"]
BLOCK = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)


@pytest.mark.parametrize(
    ("equation", "latex"),
    [
        ("θ ← θ + α Σₜ γᵗ rₜ", r"\theta \leftarrow \theta + \alpha \sum_{t} \gamma^{t} r_{t}"),
        ("r = π(a|s; θ) / π_old(a|s)", r"r = \pi (a\mid s; \theta) / \pi_{\text{old}}(a\mid s)"),
        ("E[ KL(π_old || π) ] <= δ", r"\mathbb{E}[ \mathrm{KL} (\pi_{\text{old}} \,\|\, \pi) ] \le \delta"),
        ("½ G² - 1/(K-1) Σ_{j≠i} Rⱼ", r"\tfrac{1}{2} G^{2} - \tfrac{1}{K-1} \sum_{j\neq i} R_{j}"),
        ("√(2δ / gᵀF⁻¹g) ~ N(0, I)", r"\sqrt{2\delta / g^{T}F^{-1}g} \sim \mathcal{N}(0, I)"),
        ("min(ρ̄, π/μ)", r"\min (\bar{\rho}, \pi /\mu)"),
        ("A an n-step advantage", r"A \text{ an n-step advantage }"),
        ("v' + a'ₜ₊₁", r"v' + a'_{t+1}"),
    ],
)
def test_the_notation_of_docstrings_converts_to_latex(equation: str, latex: str) -> None:
    assert to_latex(equation) == latex


def test_each_equation_gets_its_own_line_together_with_its_explanation() -> None:
    shown = display("    x = a,  a the advantage,  y = b;  subject to  z <= 1\n    w = 1")
    assert [block.strip() for block in BLOCK.findall(shown)] == [
        r"x = a, \quad a \text{ the advantage }",
        "y = b",
        r"\text{ subject to } z \le 1",
        "w = 1",
    ]


@pytest.mark.parametrize("entry", ALGORITHMS, ids=lambda entry: entry.name)
def test_each_algorithm_has_an_equation_and_a_linked_source(entry: Any) -> None:
    page = docstring(entry.load())
    assert BLOCK.search(page)
    assert re.search(r"\*\*Source\*\*: .*\]\(http", page)
    assert not re.search(r"[^\x00-\x7f]", "".join(BLOCK.findall(page)).replace("λ-return", ""))


def test_each_estimator_has_an_equation() -> None:
    names = [e.name for e in discover(inline=False).entries("estimator") if e.plugin.source == "built-in"]
    sections = estimator_equations().split("`:")
    assert len(sections) == len(names) + 1
    assert all(BLOCK.search(section) for section in sections[1:])


def test_every_equation_in_the_docs_converts_to_mathml() -> None:
    pytest.importorskip("latex2mathml")
    blocks = [block for page in DOCS.rglob("*.md") for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    assert len(blocks) > 60
    for block in blocks:
        assert re.fullmatch(r"<math .*</math>", to_mathml(block.strip(), block=True), re.DOTALL)
        assert "<mi>\\" not in to_mathml(block.strip(), block=True), block


def test_function_names_are_separated_by_spaces() -> None:
    pytest.importorskip("latex2mathml")
    page = to_mathml(r"\beta \mathrm{KL} (p) + \log \pi", block=False)
    assert re.search(r"</mi><mspace[^>]*/><mi>KL</mi><mo", page)
    assert re.search(r"<mi>log</mi><mspace[^>]*/><mi>", page)
