"""Tables as text, Markdown, LaTeX and CSV. Pure: words in, words out."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence
from typing import Literal, get_args

Format = Literal["text", "markdown", "latex", "csv"]
FORMATS: tuple[str, ...] = get_args(Format)

_LATEX = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "±": r"$\pm$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
}  # fmt: skip


_MINUS = re.compile(r"(?<!\S)-(?=\d)")
"""In front of a number, not within a name."""


def tabulated(
    heading: Sequence[str],
    rows: Sequence[Sequence[str]],
    form: Format = "text",
    *,
    bold: Collection[tuple[int, int]] = (),
    notes: Sequence[str] = (),
) -> str:
    """A table with words in the first column and numbers in the others.

    bold: (row, column) of cells, and notes: sentences below the table; both only in Markdown and LaTeX.
    """
    if form in ("text", "csv"):
        return (_text if form == "text" else _csv)(heading, rows)
    return (_markdown if form == "markdown" else _latex)(heading, rows, bold, notes)


def _text(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heading))]
    return "\n".join(
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(pairs)).rstrip()
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )


def _markdown(
    heading: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]], notes: Sequence[str]
) -> str:
    def line(cells: Sequence[str], row: int = -1) -> str:
        shown = (cell.replace("|", r"\|") for cell in cells)
        return "| " + " | ".join(f"**{c}**" if (row, i) in bold else c for i, c in enumerate(shown)) + " |"

    body = [line(heading), "|---|" + "---:|" * (len(heading) - 1), *(line(cells, i) for i, cells in enumerate(rows))]
    return "\n".join([*body, *(part for note in notes for part in ("", note.replace("*", r"\*")))])


def _latex(
    heading: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]], notes: Sequence[str]
) -> str:
    def line(cells: Sequence[str], row: int = -1) -> str:
        shown = (_escaped(cell) for cell in cells)
        return " & ".join(rf"\textbf{{{c}}}" if (row, i) in bold else c for i, c in enumerate(shown)) + r" \\"

    columns = "l" + "r" * (len(heading) - 1)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\hline", line(heading), r"\hline"]
    body += [*(line(cells, i) for i, cells in enumerate(rows)), r"\hline"]
    return "\n".join([*body, r"\end{tabular}", *(rf"\par{{\footnotesize {_escaped(note)}\par}}" for note in notes)])


def _escaped(cell: str) -> str:
    return _MINUS.sub("$-$", "".join(_LATEX.get(letter, letter) for letter in cell))


def _csv(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([heading, *rows])
    return buffer.getvalue().rstrip("\n")
