"""A thread of the server that lives while there is something to do."""

from __future__ import annotations

import threading


class OneThread:
    """Starts a thread that runs `_run`; `_run` sets `_thread` to None, under the caller's lock, before it ends."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def _start(self, name: str) -> None:
        """Start the thread if it does not run; called under the lock."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()

    def settle(self) -> None:
        """Wait until nothing is left to do."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        raise NotImplementedError
