"""Memory of a long-running server: less work for the garbage collector, less waste by the allocator.

Streamlit collects all garbage after each run of the script. With torch and Plotly loaded that visits half a
million objects, 0.2 s in which every session waits, and finds nothing: modules do not become garbage.
"""

from __future__ import annotations

import gc
import sys
import threading
import time

from lag_core import allocator

TRIM_SECONDS = 20.0
"""The heap is not searched for free pages more often."""

SPARE_SECONDS = 1.0
"""After a run of the script that imported modules: what it drew is on its way to the browser by then."""

_lock = threading.Lock()
_modules = 0
_pending: threading.Timer | None = None
_trimmed = 0.0


def tidy() -> None:
    """Call it at the end of a run."""
    _spare_modules_soon()
    _trim()


def _spare_modules_soon() -> None:
    """Call `spare_modules` when the answer has been sent: it takes 0.2 to 0.3 s."""
    global _pending
    with _lock:
        if len(sys.modules) == _modules or (_pending is not None and _pending.is_alive()):
            return
        _pending = threading.Timer(SPARE_SECONDS, spare_modules)
        _pending.daemon = True
        _pending.name = "spare-modules"
        _pending.start()


def spare_modules() -> None:
    """Exempt all current objects from collection, if modules were imported since the last call."""
    global _modules
    with _lock:
        if len(sys.modules) == _modules:
            return
        _modules = len(sys.modules)
        gc.collect()
        gc.freeze()


def _trim() -> None:
    """Return free pages inside the heap from time to time; by itself glibc returns only those at its end."""
    global _trimmed
    trim = allocator.function("malloc_trim")
    if trim is None or time.monotonic() - _trimmed < TRIM_SECONDS:
        return
    _trimmed = time.monotonic()
    threading.Thread(target=trim, args=(0,), name="malloc-trim", daemon=True).start()  # without the interpreter's lock


# Every run of the script is a thread. With an arena for each, and arrays among small objects, 1,000 interactions leave
# some 50 MB of holes. Two arenas are enough, since the threads take turns.
allocator.return_memory(piece=256 * 1024, arenas=2)
