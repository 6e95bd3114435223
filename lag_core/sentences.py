"""Messages for a person: one line, of bounded length, without control characters for a terminal.

Names, paths and values come from files that strangers may have written. `Said` is the base of every exception whose
text is for a person; `say` is how commands print. Source: ours.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

LONGEST = 1500
"""Characters of a sentence; a longer one keeps both ends, as the end says what to do."""
_END = 400
OUTPUT = "standard output"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: object) -> str:
    """`text` on one line: control characters, those that turn the direction and halves of a character as escapes."""
    return _CONTROL.sub(_escaped, str(text))


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    return " " if character in "\n\r\t" else character.encode("unicode_escape", "surrogatepass").decode("ascii")


def counted(number: int, one: str, several: str = "") -> str:
    """A number with its noun: "1 image", "2 images", "1 class", "2 classes"."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def sentence(text: object, longest: int = LONGEST) -> str:
    """`plain`, and at most `longest` characters: a longer one loses its middle."""
    whole = str(text)
    if len(whole) > 4 * longest:  # the middle is not read
        whole = whole[: 2 * longest] + whole[-2 * longest :]
        cut = True
    else:
        cut = False
    line = plain(whole)
    if len(line) <= longest and not cut:
        return line
    end = min(_END, longest // 3)
    return f"{line[: longest - end - 3]} … {line[-end:]}"


class Said(Exception):
    """An exception whose text is a sentence for a person."""

    def __init__(self, *texts: object):
        super().__init__(*(sentence(text) for text in texts))


def say(text: object, file: TextIO | None = None, *, flush: bool = False) -> None:
    """Print lines; each is made `plain`, and what the terminal cannot show is escaped."""
    stream = sys.stdout if file is None else file
    lines = "\n".join(plain(line) for line in str(text).split("\n"))
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with naming_stream(stream):
        print(lines.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=flush)


@contextmanager
def naming_stream(stream: TextIO) -> Iterator[None]:
    """An OSError inside names the stream: a disk can be full where its output is redirected to."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, OUTPUT if stream is sys.stdout else "the terminal") from error
