"""Text that comes from a run, a data set or an upload, made safe for where it is shown.

Names of classes, runs and images are chosen by whoever wrote the files. Streamlit renders Markdown, Plotly
a subset of HTML, and spreadsheets evaluate cells: each gets the text with its own special characters
escaped.
"""

from __future__ import annotations

import html
import re

LONGEST_NAME = 200
"""Characters of a name that are shown; the rest is cut with an ellipsis."""

LONGEST_TEXT = 4000
"""Characters of a text that are shown; a longer one ends with a note that it was cut."""

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:^=&@])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069]+")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def plain(text: object, longest: int = LONGEST_NAME) -> str:
    """One line of `text`: control and direction characters become spaces, and it is cut after `longest`."""
    line = _CONTROL.sub(" ", str(text)).strip()
    return line if len(line) <= longest else line[: longest - 1] + "…"


def markdown(text: object) -> str:
    """A sentence as literal Markdown: no emphasis, link, image, colour, emoji or formula takes effect."""
    line = plain(text, LONGEST_TEXT)
    cut = " (cut here; the text is longer)" if len(line) == LONGEST_TEXT and line.endswith("…") else ""
    return _MARKDOWN.sub(r"\\\1", line) + cut


def name(text: object, longest: int = LONGEST_NAME) -> str:
    """A name as literal Markdown, cut after `longest` characters."""
    return _MARKDOWN.sub(r"\\\1", plain(text, longest))


def plotly(text: object) -> str:
    """`text` as a literal Plotly label (Plotly reads tags such as `<a>` and `<b>`)."""
    return html.escape(plain(text), quote=False)


def cell(value: object) -> object:
    """`value` for a CSV file: text that a spreadsheet would run as a formula gets an apostrophe in front."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return "'" + value
    return value
