"""A comparison as tables: Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
import re

from pgzoo.analysis.blocks import Block
from pgzoo.analysis.comparison import ComparisonData
from pgzoo.analysis.statistics import Estimate
from pgzoo.analysis.wording import (
    center,
    differing_settings,
    interval,
    metric_in_words,
    percent,
    percent_interval,
    signed,
)

__all__ = ["comma_separated", "latex", "markdown"]

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", ">": r"$>$", "<": r"$<$", "|": r"$|$",
}  # fmt: skip


def comma_separated(comparison: ComparisonData) -> str:
    """Return one row per environment and side (see `ComparisonData.score_rows`), with a header."""
    text = io.StringIO()
    rows = comparison.score_rows()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(comparison: ComparisonData) -> str:
    """Return the scores and the pairs of each environment, and the warnings."""
    lines = [f"**{markdown_text(' vs '.join(comparison.labels))}** on {', '.join(comparison.envs)}", ""]
    for block in comparison.all_blocks:
        lines += [f"{caption(comparison, block)}:", ""]
        lines += ["| | seeds | IQM | mean | median |", "|---|---:|---|---|---|"]
        for label, final in zip(comparison.labels, block.final, strict=True):
            cells = [f"{center(e)} {interval(e)}".rstrip() for e in (final.iqm, final.mean, final.median)]
            lines.append(f"| {markdown_text(label)} | {final.seeds} | {' | '.join(cells)} |")
        lines.append("")
        for pair in block.pairs:
            chance = f"{percent(pair.improvement.value)} {percent_interval(pair.improvement)}".rstrip()
            gap = f"{signed(pair.difference)} {interval(pair.difference)}".rstrip()
            names = f"{markdown_text(pair.a)} > {markdown_text(pair.b)}"
            lines.append(f"- P({names}) = {chance}; difference of means {gap}: {markdown_text(pair.verdict)}")
        lines.append("")
    if differing := differing_settings(comparison.differences):
        lines += [markdown_text(differing), ""]
    if comparison.warnings:
        lines += ["Warnings:", "", *(f"- {markdown_text(warning)}" for warning in comparison.warnings), ""]
    return "\n".join([*lines, "Brackets are 95% intervals over seeds.", ""])


def latex(comparison: ComparisonData) -> str:
    r"""Return one `table` per environment, for a document that loads the package booktabs."""
    parts = ["% \\usepackage{booktabs}"]
    for block in comparison.all_blocks:
        rows = []
        for label, final in zip(comparison.labels, block.final, strict=True):
            cells = [latex_estimate(e) for e in (final.iqm, final.mean, final.median)]
            rows.append(f"{latex_text(label)} & {final.seeds} & {' & '.join(cells)} \\\\")
        parts += [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{latex_text(caption(comparison, block))}. Brackets are 95\\,\\% intervals over seeds.}}",
            "\\begin{tabular}{lrlll}",
            "\\toprule",
            " & seeds & IQM & mean & median \\\\",
            "\\midrule",
            *rows,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    return "\n".join([*parts, ""])


def caption(comparison: ComparisonData, block: Block) -> str:
    if block.env is None:
        return f"Normalized scores over {len(comparison.envs)} environments: 0 is the start of training, 1 the best run"
    what = metric_in_words(comparison.score)
    return f"{what[:1].upper()}{what[1:]} on {block.env}"


def markdown_text(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def latex_text(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def latex_estimate(estimate: Estimate) -> str:
    return f"{latex_numbers(center(estimate))} {latex_numbers(interval(estimate))}".rstrip()


def latex_numbers(text: str) -> str:
    """Put numbers into math mode, which gives them minus signs: `[−3.6, 10.7]` becomes `$[-3.6, 10.7]$`."""
    powers = re.sub(r"e([−+]?)0*(\d+)", lambda m: rf"\times 10^{{{m[1].replace('+', '')}{m[2]}}}", text)
    plain = re.sub(r"(\d),(\d)", r"\1{,}\2", powers).replace("−", "-")
    return f"${plain}$" if plain else ""
