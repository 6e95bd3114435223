"""metrics.json, checked: the confusion matrices of every step, of the whole set and of each domain. Pure NumPy.

Source: docs/run-format.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

MOST = 2**46
"""Pixels of one cell: sums over 255 x 255 cells stay within int64."""
DOMAINS = 64
NAME = 200


def checked_matrices(content: Mapping[str, Any], steps: int, classes: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """({"": int64 [T, K, K], domain: the same}, faults in the domains, which are left out).

    ValueError, KeyError or TypeError if the whole set's matrices are invalid. A training that was stopped while it
    finished a step may have measured one step too many: it is cut off.
    """
    entries = content["steps"]
    if not isinstance(entries, list) or len(entries) < steps:
        raise ValueError(f"it measures {len(entries)} of {steps} steps")
    if steps == 0:
        return {"": np.zeros((0, classes, classes), np.int64)}, []
    measured = {"": _matrices([one["confusion"] for one in entries[:steps]], "confusion", classes)}
    faults = []
    named = entries[0].get("by_domain", {})
    if not isinstance(named, dict) or len(named) > DOMAINS:
        return measured, [f"steps[0].by_domain is not a table of at most {DOMAINS} domains; it is left out"]
    for name in named:
        try:
            if not 0 < len(name) <= NAME:
                raise ValueError(f"a domain has a name of 1 to {NAME} characters")
            measured[name] = _matrices([one["by_domain"][name] for one in entries[:steps]], "by_domain", classes)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            faults.append(f"by_domain of {name[:NAME]!r} is left out ({error})")
    return measured, faults


def _matrices(given: list[Any], key: str, classes: int) -> np.ndarray:
    found = np.asarray(given)
    if found.shape != (len(given), classes, classes):
        raise ValueError(f"{key} has the shape {found.shape}, expected {(len(given), classes, classes)}")
    if found.dtype.kind not in "iu" or found.min() < 0 or found.max() > MOST:
        raise ValueError(f"{key} does not hold whole numbers from 0 to {MOST}")
    return found.astype(np.int64)
