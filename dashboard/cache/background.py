"""Results that take seconds, computed in the background while the page that asked for them is already drawn.

One thread of the server takes the jobs piece by piece, the newest request first, and switches when a page
requests another one. A job puts its result on the shelf (`memory_cache`). A page looks there first, and requests
only what is missing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

from dashboard.cache.one_thread import OneThread

NAME = "results-in-background"

JOBS = 4
"""At most this many jobs are worked on; older requests are dropped."""

Pieces = Iterator[float]
"""Work in pieces of some tenths of a second; after each, the share that is done."""


@dataclass
class Job:
    """Work that a page requested."""

    pieces: Pieces
    done: float = 0.0
    """Share of the work."""
    over: bool = False
    failure: Exception | None = None


class Background(OneThread):
    """Jobs by key, the newest request last."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs: OrderedDict[Hashable, Job] = OrderedDict()
        self._lock = threading.Lock()

    def wish(self, key: Hashable, begin: Callable[[], Pieces]) -> Job:
        """The job under `key`, before all others; started if it is new. An error is raised once."""
        with self._lock:
            job = self._jobs.pop(key, None) or Job(begin())
            if job.failure:
                raise job.failure
            self._jobs[key] = job
            while len(self._jobs) > JOBS:
                self._jobs.popitem(last=False)
            self._start(NAME)
            return job

    def _run(self) -> None:
        while True:
            with self._lock:
                job = next((one for one in reversed(self._jobs.values()) if not one.over), None)
                if job is None:
                    self._thread = None
                    return
            _go_on(job)
            with self._lock:
                for key in [key for key, one in self._jobs.items() if one.over and not one.failure]:
                    del self._jobs[key]


def _go_on(job: Job) -> None:
    """Do the next piece."""
    try:
        job.done = next(job.pieces)
    except StopIteration:
        job.over = True
    except Exception as error:  # told by the page that asked
        job.failure, job.over = error, True


BACKGROUND = Background()
"""That of the server."""
