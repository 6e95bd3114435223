"""Results that take seconds, worked out in the background while the page that asked for them already stands.

One thread of the server takes the jobs, the newest wish first, piece by piece: it changes to another one when somebody
asks for it. What a job finds it puts on the shelf (`memory_cache`); a page looks there first, and asks only for what
is not there.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

from dashboard.cache.one_thread import OneThread

NAME = "results-in-background"

JOBS = 4
"""Jobs that are worked on at most; what was wished for before is dropped."""

Pieces = Iterator[float]
"""Work in pieces of some tenths of a second; after each, the share that is done."""


@dataclass
class Job:
    """Work that somebody asked for."""

    pieces: Pieces
    done: float = 0.0
    """Share of the work."""
    over: bool = False
    failure: Exception | None = None


class Background(OneThread):
    """Jobs by key, the newest wish last."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs: OrderedDict[Hashable, Job] = OrderedDict()
        self._lock = threading.Lock()

    def wish(self, key: Hashable, begin: Callable[[], Pieces]) -> Job:
        """The job under `key`, before all others; begun if nobody has asked for it. What failed is raised once."""
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
