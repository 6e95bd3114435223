"""Tables as text, Markdown, LaTeX and CSV. Pure: words in, words out."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Literal, get_args

Format = Literal["text", "markdown", "latex", "csv"]
FORMATS: tuple[str, ...] = get_args(Format)

_LATEX = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "±": r"$\pm$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
}  # fmt: skip


def tabulated(heading: Sequence[str], rows: Sequence[Sequence[str]], form: Format = "text") -> str:
    """A table with words in the first column and numbers in the others."""
    return {"text": _text, "markdown": _markdown, "latex": _latex, "csv": _csv}[form](heading, rows)


def _text(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heading))]
    return "\n".join(
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(pairs)).rstrip()
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )


def _markdown(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    return "\n".join([line(heading), "|---|" + "---:|" * (len(heading) - 1), *map(line, rows)])


def _latex(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(_escaped(cell) for cell in cells) + r" \\"

    columns = "l" + "r" * (len(heading) - 1)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\hline", line(heading), r"\hline", *map(line, rows), r"\hline"]
    return "\n".join([*body, r"\end{tabular}"])


def _escaped(cell: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in cell)


def _csv(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([heading, *rows])
    return buffer.getvalue().rstrip("\n")
