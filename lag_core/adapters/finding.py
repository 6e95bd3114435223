"""Finds the adapter with a name. A name alone never runs code: only installed or allowed adapters are imported.

A name is that of an entry point of the group `lag.adapters` in an installed package, or `module:Class`. The second is
imported only if the option --adapter or the environment's LAG_ADAPTERS (names with commas between) allows it, and then
the working folder counts as a place for modules, too.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from importlib.metadata import entry_points
from typing import Any

from lag_core.adapters.adapter import Adapter, AdapterError, check

GROUP = "lag.adapters"
VARIABLE = "LAG_ADAPTERS"
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

_allowed: set[str] = set()


def allow(name: str) -> str:
    """Allow the import of `module:Class` in this process: the user has asked for it. Returns the name."""
    _allowed.add(name)
    return name


def allowed() -> frozenset[str]:
    """Every `module:Class` that may be imported."""
    given = os.environ.get(VARIABLE, "")
    return frozenset(_allowed | {name.strip() for name in given.split(",") if name.strip()})


def find_adapter(name: str) -> Adapter:
    """The adapter with that name. AdapterError if it is not installed, not allowed, or not an adapter."""
    installed = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name in installed:
        found = _imported(name, installed[name].load)
    elif not _PATH.fullmatch(name):
        known = ", ".join(sorted(installed)) or "none"
        raise AdapterError(f"there is no adapter {name[:80]!r}: expected module:Class, or one installed ({known})")
    elif name not in allowed():
        raise AdapterError(
            f"the adapter {name!r} is code and was not allowed here: pass --adapter {name}, set {VARIABLE}={name}, "
            "or install a package that contains it"
        )
    else:
        found = _imported(name, lambda: _attribute(name))
    return _adapter(name, found)


def _attribute(name: str) -> Any:
    """The object that `module:Class` names; the working folder is searched last."""
    module, _, attribute = name.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    return getattr(importlib.import_module(module), attribute)


def _imported(name: str, load: Any) -> Any:
    try:
        return load()
    except Exception as error:  # an import runs the module, which may raise anything
        raise AdapterError(f"the adapter {name!r} cannot be imported: {error}") from error


def _adapter(name: str, found: Any) -> Adapter:
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise AdapterError(f"{name!r} is no adapter: expected a subclass of lag_core.adapters.Adapter")
    adapter = found()
    check(adapter)
    return adapter
