"""Equations in the docs: LaTeX from the plain notation of docstrings, and MathML from the LaTeX of a page.

Docstrings have equations in Unicode ("θ ← θ + α Σₜ γᵗ rₜ"), and pages in LaTeX, which GitHub shows; `to_latex` converts
them for docs/generate.py. As a Markdown extension, this module writes the MathML of the site, so that a page loads no
script and no font. Zensical finds it with `PYTHONPATH=docs`.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import TYPE_CHECKING

from markdown.extensions import Extension
from markdown.postprocessors import Postprocessor

if TYPE_CHECKING:
    from markdown import Markdown

SYMBOLS = {
    **{letter: rf"\{unicodedata.name(letter).split()[-1].lower()} " for letter in "αβγδεηθλμνπρστφψ"},
    "ε": r"\varepsilon ",
    "λ": r"\lambda ",
    "∇": r"\nabla ",
    "Σ": r"\sum ",
    "½": r"\tfrac{1}{2} ",
    "←": r"\leftarrow ",
    "≠": r"\neq ",
    "~": r"\sim ",
    "·": r"\cdot ",
    "*": r"^{*}",
    "<=": r"\le ",
    ">=": r"\ge ",
    "||": r"\,\|\,",
}
SCRIPTS = {"^": ("⁰¹²³⁺⁻⁽⁾ᵀᵈᵏᵗⁿ", "0123+-()Tdktn"), "_": ("₀₁₂₃₊₋ₑᵢⱼₖₙₜ", "0123+-eijknt")}
ACCENTS = {"\u0304": "bar", "\u0303": "tilde"}
FUNCTIONS = {"argmin", "clip", "exp", "KL", "ln", "log", "max", "min", "sg", "sign", "tanh"}
TEX = {"exp", "ln", "log", "max", "min", "tanh"}
"""Functions that LaTeX has a command for."""

WORD = r"(?:λ-return|[A-Za-z](?:-?[A-Za-z])(?:-?[A-Za-z]|'s)*)"
NEXT = rf"(?:a(?=\ [a-z]{{2}})|(?!(?:{'|'.join(sorted(FUNCTIONS))})\b){WORD})"
TOKEN = re.compile(
    rf"""(?P<root>√(?:\((?P<inner>[^()]*)\)|(?P<radicand>\w)))
    | (?P<fraction>(?P<over>\d+)/(?P<under>\w+|\([^()]*\)))
    | (?P<accent>(?P<below>\w)(?P<mark>[\u0303\u0304]))
    | (?P<script>_(?:\{{(?P<group>[^}}]*)\}}|(?P<label>[A-Za-z]+|\w)))
    | (?P<word>{WORD}(?:\ {NEXT})*:?)
    | (?P<other>\|\||<=|>=|.)""",
    re.VERBOSE,
)


def to_latex(equation: str) -> str:
    """Return one equation in the notation of docstrings as LaTeX.

    Single letters are variables, longer words are functions (`log`) or text. `_old` and `_{j≠i}` are subscripts,
    `π(a|s)` is a conditional probability.
    """
    for mark, (characters, plain) in SCRIPTS.items():
        run = re.compile(f"[{characters}]+")
        table = str.maketrans(characters, plain)
        equation = run.sub(lambda found, m=mark, t=table: f"{m}{{{found[0].translate(t)}}}", equation)
    # braces of exponents are hidden from the tokens, which read only those of subscripts
    equation = re.sub(r"\^\{([^}]*)\}", "\x01\\1\x02", equation)
    text = "".join(_latex_of(token) for token in TOKEN.finditer(equation))
    text = text.replace("\x01", "^{").replace("\x02", "}")
    for pattern, latex in CONTEXT.items():
        text = re.sub(pattern, latex, text)
    return text.strip()


CONTEXT = {
    r"(\\pi (?:_\{\\text\{\w+\}\})?\([^|()]*)\|": r"\1\\mid ",  # π(a|s)
    r"\bE(?=\[| \[)": r"\\mathbb{E}",
    r"(?<=\\sim) +([NU])(?=\()": r" \\mathcal{\1}",
    r"(?<=[\w})]) +(?=\\mathrm)|(?<=\\mathrm\{argmin\}) +|(?<=\\mathrm\{sg\}) +(?=\\)": r"\\,",
    r" +(?=[ )^_,;])": "",
}
"""What depends on the neighbors, as pattern and replacement: conditions, expectations, distributions, spaces."""


def _latex_of(token: re.Match[str]) -> str:
    text, found = token[0], token.groupdict()
    if found["root"]:
        return rf"\sqrt{{{to_latex(found['inner'] or found['radicand'])}}}"
    if found["fraction"]:
        return rf"\tfrac{{{found['over']}}}{{{to_latex(found['under'].strip('()'))}}}"
    if found["accent"]:
        return rf"\{ACCENTS[found['mark']]}{{{SYMBOLS.get(found['below'], found['below']).strip()}}}"
    if found["script"]:
        if len(found["label"] or "") > 1:
            return rf"_{{\text{{{found['label']}}}}}"
        index = found["group"] or found["label"]
        return f"_{{{index if index.isascii() and index.isalpha() else to_latex(index)}}}"
    if found["word"]:
        first, space, rest = text.partition(" ")
        if first in FUNCTIONS:
            command = rf"\{first}" if first in TEX else rf"\mathrm{{{first}}}"
            return command + (_text(space + rest) if rest else " ")
        return _text(text)
    return SYMBOLS.get(text, text)


def _text(words: str) -> str:
    return rf"\text{{ {words.strip()} }}"


def display(equations: str) -> str:
    """Return the equations of a docstring, one or more a line, as LaTeX blocks of a Markdown page."""
    rows: list[str] = []
    for line in equations.splitlines():
        for position, piece in enumerate(re.split(r"\s{2,}", line.strip())):
            latex = to_latex(piece.rstrip(",;"))
            if rows and re.search(r"(:|subject to) }$", rows[-1]):
                rows[-1] += f" {latex}"
            elif position and not re.search(r"=|\\(leftarrow|sim)|subject to", latex):
                rows[-1] += rf", \quad {latex}"  # another case or an explanation of the equation before it
            else:
                rows.append(latex)
    return "\n\n".join(f"$$\n{latex}\n$$" for latex in rows)


NAME = r"<mi>[A-Za-z]{2,}</mi>"
SPACE = '<mspace width="0.17em" />'


def to_mathml(latex: str, *, block: bool) -> str:
    """Return LaTeX as MathML, with the spaces around functions and relations that TeX has."""
    from latex2mathml.converter import convert

    mathml = convert(latex, display="block" if block else "inline")
    letters = r'<mrow>((?:<mi mathvariant="normal">[A-Za-z]</mi>){2,})</mrow>'
    mathml = re.sub(letters, lambda name: f"<mi>{re.sub('<.*?>', '', name[1])}</mi>", mathml)
    mathml = re.sub(rf"(?<=</mi>|</mn>)(?={NAME}|<msub>{NAME})", SPACE, mathml)
    mathml = re.sub(rf"(?<!<msub>)({NAME})(?=<m(?:i|n|sub|sup|subsup)>)", rf"\1{SPACE}", mathml)
    mathml = mathml.replace("<mi>;</mi>", '<mo separator="true">;</mo>')
    return mathml.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")


class MathMLPostprocessor(Postprocessor):
    """Replace the LaTeX that pymdownx.arithmatex has found."""

    def run(self, text: str) -> str:
        """Return the HTML of a page with MathML."""
        return re.sub(
            r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>',
            lambda found: (
                f'<{found[1]} class="equation">{to_mathml(html.unescape(found[2]).strip(), block=found[1] == "div")}'
                f"</{found[1]}>"
            ),
            text,
            flags=re.DOTALL,
        )


class Equations(Extension):
    """Markdown extension: equations as MathML."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Parse equations by arithmatex, and convert them after all other processors."""
        md.registerExtension(self)
        md.postprocessors.register(MathMLPostprocessor(md), "mathml", -10)


def makeExtension(**settings: object) -> Equations:  # noqa: N802
    """Return the extension; Markdown calls this."""
    return Equations(**settings)
