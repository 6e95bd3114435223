"""Spares the garbage collector what stays for good.

Streamlit collects all garbage after each run of the script. With torch and Plotly loaded that visits half a
million objects, 0.2 s during which no session moves, and finds nothing: modules do not become garbage.
"""

from __future__ import annotations

import gc
import sys
import threading

_lock = threading.Lock()
_modules = 0


def spare_modules() -> None:
    """Set aside what lives now, if modules were imported since the last call. Call it at the end of a run."""
    global _modules
    with _lock:
        if len(sys.modules) == _modules:
            return
        _modules = len(sys.modules)
        gc.collect()
        gc.freeze()
