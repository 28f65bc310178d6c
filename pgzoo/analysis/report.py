"""A comparison as a file: a self-contained HTML page, a figure, tables (CSV, LaTeX, Markdown) or JSON."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from pgzoo.analysis import tables
from pgzoo.analysis.blocks import Block, Pair, ScoreSummary
from pgzoo.analysis.comparison import ComparisonData
from pgzoo.analysis.statistics import BOOTSTRAP_SEEDS, MIN_SEEDS, Estimate
from pgzoo.analysis.wording import (
    center,
    interval,
    metric_in_words,
    number,
    percent,
    percent_interval,
    plural,
    signed,
)
from pgzoo.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ENDINGS", "image_bytes", "notebook_view", "render", "save"]

ENDINGS = (".html", ".png", ".pdf", ".svg", ".csv", ".tex", ".md", ".json")
FOLDED = 12
"""A table with more settings than this is collapsed."""


def save(comparison: ComparisonData, path: str | Path) -> Path:
    """Write the comparison to `path`, in the format of its extension (see `ENDINGS`), and return the path.

    Raises UsageError for another extension, or if the file can't be written.
    """
    path = Path(path)
    try:
        path.write_bytes(render(comparison, path.suffix))
    except OSError as error:
        raise UsageError(f"Can't write {path}: {error.strerror}.") from error
    return path


def render(comparison: ComparisonData, ending: str) -> bytes:
    """Return the content of a file with this extension. Raises UsageError for one that is not in `ENDINGS`."""
    match ending.lower():
        case ".html":
            return page(comparison).encode()
        case ".png" | ".pdf" | ".svg":
            from pgzoo.analysis.figures import curves_and_scores

            return image_bytes(curves_and_scores(comparison), ending.lower()[1:])
        case ".csv":
            return tables.comma_separated(comparison).encode()
        case ".tex":
            return tables.latex(comparison).encode()
        case ".md":
            return tables.markdown(comparison).encode()
        case ".json":
            return (json.dumps(comparison.to_dict(), indent=1, allow_nan=False) + "\n").encode()
    raise UsageError(f'A comparison can be written as {", ".join(ENDINGS)}, not as "{ending or "no extension"}".')


def image_bytes(figure: Figure, form: str) -> bytes:
    """Return the figure as png, pdf or svg. The same figure gives the same bytes: no date and no random ids."""
    import matplotlib as mpl

    data = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
    with mpl.rc_context({"svg.hashsalt": "pgzoo", "pdf.fonttype": 42}):  # 42: text in a PDF stays text
        figure.savefig(data, format=form, metadata=metadata)
    return data.getvalue()


def page(comparison: ComparisonData) -> str:
    """Return the HTML report. Its images are embedded, and its content security policy allows no requests."""
    runs = sum(len(side.runs) for side in comparison.sides)
    newest = max(run.started for side in comparison.sides for run in side.runs)
    day = datetime.fromtimestamp(newest / 1000, UTC).strftime("%d %B %Y").lstrip("0")
    curve, score = metric_in_words(comparison.metric), metric_in_words(comparison.score)
    facts = f"{plural(runs, 'run')}, the newest of {day} · curves: {curve} · final scores: {score}"
    parts = [f"<header><h1>{heading(comparison)}</h1><p>{escape(facts)}</p></header>"]
    if comparison.warnings:
        items = "".join(f"<li>{escape(warning)}</li>" for warning in comparison.warnings)
        parts.append(f'<aside><h2>Warnings</h2><ul class="plain">{items}</ul></aside>')
    if comparison.overall:
        parts.append(section(comparison, comparison.overall))
    parts += [section(comparison, block) for block in comparison.blocks]
    parts += [settings(comparison), runs_table(comparison), METHOD]
    data = json.dumps(comparison.to_dict(), allow_nan=False).replace("<", "\\u003c")
    return PAGE.format(title=escape(comparison.title), style=STYLE, body="\n".join(parts), data=data)


def notebook_view(comparison: ComparisonData) -> str:
    """Return HTML to show below a notebook cell: warnings, and for each environment the figure and the scores."""
    shown = "".join(f"<li>{escape(warning)}</li>" for warning in comparison.warnings)
    parts = [f"<h3>{heading(comparison)}</h3>", f"<ul>{shown}</ul>" if shown else ""]
    for block in comparison.all_blocks:
        verdicts = "".join(f"<li>{escape(f'{p.a} vs {p.b}: {p.verdict}')}</li>" for p in block.pairs)
        name = escape(block.env) if block.env else f"Over {len(comparison.envs)} environments"
        parts.append(f"<h4>{name}</h4>{picture(comparison, block)}<ul>{verdicts}</ul>{scores_table(comparison, block)}")
    return "".join(parts)


def heading(comparison: ComparisonData) -> str:
    sides = ' <span class="vs">vs</span> '.join(side_label(comparison, label) for label in comparison.labels)
    return f'{sides} <span class="vs">on</span> {escape(", ".join(comparison.envs))}'


def side_label(comparison: ComparisonData, label: str) -> str:
    """Return a side's label with a dot of its color."""
    from pgzoo.analysis.figures import colors

    color = colors(len(comparison.labels))[comparison.labels.index(label)]
    dot = "display:inline-block;width:0.62em;height:0.62em;border-radius:50%;margin-right:0.4em"
    return f'<span class="side"><i style="{dot};background:{color}"></i>{escape(label)}</span>'


def picture(comparison: ComparisonData, block: Block) -> str:
    """Return the figure of one block as an HTML image with embedded data."""
    from pgzoo.analysis.figures import curves_and_scores

    image = base64.b64encode(image_bytes(curves_and_scores(comparison, block), "svg")).decode()
    what = "Learning curves and final scores" if block.env else "Performance profiles and final scores"
    return f'<img alt="{what} of {escape(", ".join(comparison.labels))}" src="data:image/svg+xml;base64,{image}">'


def section(comparison: ComparisonData, block: Block) -> str:
    name = escape(block.env) if block.env else f"Over {len(comparison.envs)} environments"
    note = ""
    if not block.env:
        note = (
            '<p class="note">Scores are normalized per environment: 0 is the start of training (the mean of the first '
            "points of all curves), 1 is the best run in this comparison.</p>"
        )
    cards = "".join(card(comparison, pair) for pair in block.pairs)
    return (
        f"<section><h2>{name}</h2>{note}<figure>{picture(comparison, block)}</figure>"
        f'<h3>Differences</h3><div class="cards">{cards}</div>'
        f"<h3>Scores</h3>{scores_table(comparison, block)}</section>"
    )


def card(comparison: ComparisonData, pair: Pair) -> str:
    state = "settled" if pair.settled else "open"
    rows = [
        (
            f"P({escape(pair.a)} &gt; {escape(pair.b)})",
            f"<b>{percent(pair.improvement.value)}</b> {percent_interval(pair.improvement)}",
        ),
        ("difference of means", f"<b>{signed(pair.difference)}</b> <span>{interval(pair.difference)}</span>"),
    ]
    if pair.paired:
        wins = number(pair.paired.value * pair.matched, 1000).removesuffix(".0")
        rows.insert(
            1, ("higher with the same seed", f"<b>{wins} of {pair.matched}</b> {percent_interval(pair.paired)}")
        )
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return (
        f'<article class="{state}"><p class="pair">{side_label(comparison, pair.a)} <span class="vs">vs</span> '
        f'{side_label(comparison, pair.b)}</p><p class="verdict">{escape(sentence(pair.verdict))}</p>'
        f"{probability_bar(pair.improvement)}<dl>{facts}</dl></article>"
    )


def sentence(text: str) -> str:
    return text if text.endswith("is higher") else text[:1].upper() + text[1:]


def probability_bar(estimate: Estimate) -> str:
    """Draw a probability with its interval on a line from 0 to 1, with a mark at 0.5."""
    band = ""
    if estimate.low is not None and estimate.high is not None:
        left, width = 100 * estimate.low, 100 * (estimate.high - estimate.low)
        band = f'<span class="band" style="left:{left:.1f}%;width:{width:.1f}%"></span>'
    return f'<div class="bar"><span class="half"></span>{band}<b style="left:{100 * estimate.value:.1f}%"></b></div>'


def scores_table(comparison: ComparisonData, block: Block) -> str:
    head = ["", "seeds", "IQM", "mean", "median"]
    head += ["area: IQM", "area: mean", "area: median"] if block.area else []
    rows = []
    for place, label in enumerate(comparison.labels):
        cells = [side_label(comparison, label), str(block.final[place].seeds), *estimates(block.final[place])]
        rows.append([*cells, *(estimates(block.area[place]) if block.area else ())])
    reasons = sorted({summary.iqm.reason for summary in block.final if summary.iqm.reason})
    return table(head, rows) + "".join(f'<p class="note">{escape(r[:1].upper() + r[1:])}.</p>' for r in reasons)


def estimates(summary: ScoreSummary) -> list[str]:
    found = (summary.iqm, summary.mean, summary.median)
    return [f"<b>{center(e)}</b><small>{interval(e) or 'no interval'}</small>" for e in found]


def settings(comparison: ComparisonData) -> str:
    if not comparison.differences:
        return ""
    rows = [[f"<code>{escape(key)}</code>", *map(escape, values)] for key, values in comparison.differences.items()]
    body = table(["", *(side_label(comparison, label) for label in comparison.labels)], rows)
    opened = " open" if len(rows) <= FOLDED else ""
    return f"<section><details{opened}><summary>Settings that differ</summary>{body}</details></section>"


def runs_table(comparison: ComparisonData) -> str:
    head = ["", "environment", "seed", "score", "status", "last step", "run", "MLflow run id"]
    rows = []
    for side in comparison.sides:
        for run in side.runs:
            row = comparison.run_row(run)
            score, step = row["score"], row["last_step"]
            rows.append(
                [
                    side_label(comparison, side.label),
                    escape(run.env),
                    "" if row["seed"] is None else str(row["seed"]),
                    "–" if score is None else number(score),
                    escape(run.status),
                    "–" if step is None else f"{step:,}",
                    escape(run.name),
                    f"<code>{escape(run.run_id or 'not yet in MLflow')}</code>",
                ]
            )
    return f"<section><details><summary>{plural(len(rows), 'run')}</summary>{table(head, rows)}</details></section>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


METHOD = f"""<section class="method"><h2>How to read this</h2>
<p>One seed is one observation, however many episodes its score averages. The <b>final score</b> of a return is the
mean of the evaluation after training, with sampled actions and the last parameters. The <b>area</b> under the curve is
the mean height of the curve over the steps that all sides reached. The <b>IQM</b> (interquartile mean) is the mean
without the lowest and highest quarter of the seeds.</p>
<p>All intervals are 95% intervals. Below {MIN_SEEDS} seeds there is none, from {MIN_SEEDS} to
{BOOTSTRAP_SEEDS - 1} seeds it is Student's t, from {BOOTSTRAP_SEEDS} seeds on the stratified bootstrap.
<b>P(a &gt; b)</b> is the probability that a seed of a scores higher than a seed of b; ties count half, and 50%
means no difference. A side is called higher if the interval of the difference of means excludes zero; if all seeds
match, the differences are paired by seed. The number of additional seeds is a power calculation (80%) from the
difference and the standard deviation observed so far. Intervals are not corrected for multiple comparisons: of twenty
pairs without a difference, about one is expected to exclude zero by chance.</p></section>"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="comparison">{data}</script>
</body>
</html>
"""

STYLE = """
:root { --ink: #1f2933; --muted: #5f6c7b; --line: #e4e8ee; --soft: #f6f8fa; --good: #1f7a5c; --open: #8a94a1; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--soft); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
header h1 { margin: 0; font-size: 30px; line-height: 1.25; letter-spacing: -0.01em; overflow-wrap: anywhere; }
header p { margin: 6px 0 28px; color: var(--muted); }
.vs { color: var(--muted); font-weight: 400; }
.side { white-space: nowrap; font-weight: 600; }
section, aside { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 22px 26px; margin: 0 0 20px; }
section h2 { margin: 0 0 6px; font-size: 21px; }
section h3 { margin: 22px 0 10px; font-size: 12.5px; font-weight: 600; letter-spacing: 0.06em;
  text-transform: uppercase; color: var(--muted); }
aside { background: #fffaf0; border-color: #f0dfb8; }
aside h2 { margin: 0 0 6px; font-size: 15px; }
ul.plain { margin: 0; padding-left: 18px; }
.note { color: var(--muted); margin: 6px 0; font-size: 13.5px; }
figure { margin: 8px 0 0; overflow-x: auto; }
figure img { display: block; width: 100%; min-width: 640px; height: auto; }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr)); }
article { border: 1px solid var(--line); border-left: 4px solid var(--open); border-radius: 8px; padding: 14px 18px; }
article.settled { border-left-color: var(--good); }
.pair, .verdict { margin: 0; }
.pair { font-size: 13.5px; }
.verdict { font-size: 17px; font-weight: 600; margin-top: 2px; overflow-wrap: anywhere; }
article.settled .verdict { color: var(--good); }
.bar { position: relative; height: 10px; margin: 12px 0; border-radius: 5px; background: #eef1f5; }
.bar .half { position: absolute; left: 50%; top: -3px; bottom: -3px; width: 1px; background: #b6c0cc; }
.bar .band { position: absolute; top: 2px; bottom: 2px; border-radius: 3px; background: #9db4ce; }
.bar b { position: absolute; top: -1px; width: 12px; height: 12px; margin-left: -6px; border-radius: 50%;
  background: #0072b2; border: 2px solid #fff; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 14px; margin: 0; font-size: 13.5px; }
dt { color: var(--muted); overflow-wrap: anywhere; } dd { margin: 0; text-align: right; color: var(--muted); }
dd, td { font-variant-numeric: tabular-nums; }
dd b { color: var(--ink); } dd span { white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; font-weight: 600; color: var(--muted); font-size: 12.5px; }
th, td { padding: 7px 16px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child td { border-bottom: 0; }
td b { font-weight: 600; } td small { display: block; color: var(--muted); font-size: 12px; white-space: nowrap; }
code { font: 12.5px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
details summary { cursor: pointer; font-size: 16px; font-weight: 600; }
details[open] summary { margin-bottom: 8px; }
.method { color: #3a4653; font-size: 14px; } .method p { margin: 8px 0 0; max-width: 86ch; }
@media (max-width: 600px) { main { padding: 24px 12px 40px; } header h1 { font-size: 24px; }
  section, aside { padding: 16px; } }
@media print { body { background: #fff; } section, aside { border: 0; padding: 0; break-inside: avoid-page; } }
"""
