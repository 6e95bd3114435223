"""Ctrl-C and SIGTERM: one sentence and the shell's exit code, at any moment."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lag_core.sentences import say


class Terminated(KeyboardInterrupt):
    """SIGTERM as an exception, like Ctrl-C, so that the same code cleans up after both."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM raise Terminated inside; the previous handler is restored at the end."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def end(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def interrupted(ended: KeyboardInterrupt, *, trains: bool = False) -> int:
    """Say so in one sentence; returns the exit code."""
    rest = "; `lag train … --resume` continues from the last saved point" if trains else ""
    say(f"lag: {'terminated' if isinstance(ended, Terminated) else 'interrupted'}{rest}", sys.stderr)
    return 128 + (signal.SIGTERM if isinstance(ended, Terminated) else signal.SIGINT)
