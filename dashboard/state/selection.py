"""What is selected, typed: URL <-> session <-> widgets, each value checked again on the server.

The URL is read once when a session begins and again whenever the user changes it; afterwards the widgets
lead and the URL follows. A value that is unknown here (a run that was deleted, a step that does not exist,
a hostile string) falls back to its default, and the user is told. Nothing in here knows what a run is: the
caller says what is allowed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, NoReturn
from urllib.parse import urlencode

import streamlit as st

from dashboard.state.starting_over import start_over
from dashboard.ui import untrusted

LONGEST_VALUE = 300
"""Characters of a URL value that are read; anything longer is unknown."""

ECHO_SECONDS = 3.0
"""A browser that has not seen our newest URL yet sends the previous one: for this long it is an echo."""

_INCOMING, _WISHES, _PUBLISHED, _SUPERSEDED = "_incoming", "_wishes", "_published", "_superseded"
_USED, _NOTES = "_used", "_notes"
_CHOSEN, _DRAWN = "_chosen", "_drawn"


def one_of(raw: object, allowed: Sequence[str], default: str, what: str) -> tuple[str, str | None]:
    """`raw` if it is one of `allowed`, else `default` and a sentence that says so."""
    if isinstance(raw, str) and len(raw) <= LONGEST_VALUE and raw in allowed:
        return raw, None
    shown = untrusted.name(raw, 60)
    fallback = f"showing “{untrusted.name(default)}”" if default else "showing none"
    return default, f"The link names the {what} “{shown}”, which is not here; {fallback} instead."


def number(raw: object, low: float, high: float, default: float, what: str) -> tuple[float, str | None]:
    """`raw` as a finite number within `low`..`high`, else `default` and a sentence that says so."""
    try:
        value = float(raw) if isinstance(raw, int | float) or len(str(raw)) <= 40 else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if math.isfinite(value) and low <= value <= high:
        return value, None
    shown = untrusted.name(raw, 60)
    return (
        default,
        f"The link asks for {what} “{shown}”; {low:g} to {high:g} is possible, showing {default:g}.",
    )


def whole(raw: object, low: int, high: int, default: int, what: str) -> tuple[int, str | None]:
    """`raw` as an integer within `low`..`high`, else `default` and a sentence that says so."""
    value, message = number(raw, low, high, default, what)
    if message is None and value != int(value):
        return default, f"The link asks for {what} {value:g}, which is not a whole number; showing {default}."
    return int(value), message


def begin() -> None:
    """Start of a rerun: find out whether the URL is new. Call before anything else in this module."""
    session = st.session_state
    current = {key: st.query_params[key] for key in st.query_params}
    session[_USED] = {}
    session.setdefault(_NOTES, [])
    session[_INCOMING] = (current if _is_news(session, current) else {}) | session.pop(_WISHES, {})


def _is_news(session: MutableMapping[Any, Any], current: dict[str, str]) -> bool:
    if _PUBLISHED not in session:
        return True
    if not current or current == session[_PUBLISHED]:  # a change of page clears the URL: the session leads
        return False
    written = session.get(_SUPERSEDED, {}).get(urlencode(current))
    return written is None or time.monotonic() - written > ECHO_SECONDS


def go(**wishes: object) -> NoReturn:
    """Run the app again with these values, checked as if a link had brought them (`cls` is `class`)."""
    wish({"class" if key == "cls" else key: str(value) for key, value in wishes.items()})
    start_over()


def wish(values: Mapping[str, str]) -> None:
    """Let the next run of the app take these values, checked as if a link had brought them."""
    st.session_state[_WISHES] = dict(values)


def fresh(key: str, value: object) -> bool:
    """Whether `value` differs from the last call with this key: a click that stays selected counts once."""
    kept = f"_fresh:{key}"
    before = st.session_state.get(kept)
    st.session_state[kept] = value
    return value != before


def note(message: str | None) -> None:
    """Keep a sentence for the user; `take_notes` hands all of them out once."""
    if message and message not in st.session_state.setdefault(_NOTES, []):
        st.session_state[_NOTES].append(message)


def take_notes() -> list[str]:
    """The sentences kept since the last call."""
    notes = st.session_state.get(_NOTES, [])
    st.session_state[_NOTES] = []
    return notes


def choose(key: str, allowed: Sequence[str], default: str, what: str) -> str:
    """The valid text under `key`: from a new URL, else the session, else `default`; kept in the session.

    Call it before the widget of the same key is drawn; the widget then shows this value.
    """
    raw = st.session_state[_INCOMING].pop(key, None)
    if raw is not None:
        value, message = one_of(raw, allowed, default, what)
        note(message)
    else:
        value = st.session_state.get(key, default)
        value = value if value in allowed else default
    st.session_state[key] = value
    return value


def follow(key: str, allowed: Sequence[str], default: str, what: str) -> str:
    """As `choose`, for choices and a default that depend on the step: stepping there and back changes nothing.

    The default applies until the user chooses. The choice is kept while it is not allowed, and is forgotten when the
    user chooses the default. A value that changes together with the choices is no choice: the browser sends it with
    the next key if it has not seen the newest one yet.
    """
    session = st.session_state
    wishes, drawn = session.setdefault(_CHOSEN, {}), session.setdefault(_DRAWN, {})
    offer = tuple(allowed), default
    raw, (offered, shown) = session[_INCOMING].pop(key, None), drawn.get(key, (offer, None))
    new = None
    if raw is not None:
        new, message = one_of(raw, allowed, default, what)
        note(message)
    elif offered == offer and session.get(key, shown) != shown:
        new = session[key]
    if new is not None:
        wishes[key] = new if new != default else None
    wish = wishes.get(key)
    value = wish if wish in allowed else default
    session[key], drawn[key] = value, (offer, value)
    return value


def count(key: str, low: int, high: int, default: int, what: str) -> int:
    """The valid integer under `key`, as in `choose`. A session value out of range is clamped silently."""
    raw = st.session_state[_INCOMING].pop(key, None)
    if raw is not None:
        value, message = whole(raw, low, high, default, what)
        note(message)
    else:
        kept = st.session_state.get(key, default)
        value = min(max(int(kept), low), high) if isinstance(kept, int) else default
    st.session_state[key] = value
    return value


def measure(key: str, low: float, high: float, default: float, what: str) -> float:
    """The valid number under `key`, as in `count`."""
    raw = st.session_state[_INCOMING].pop(key, None)
    if raw is not None:
        value, message = number(raw, low, high, default, what)
        note(message)
    else:
        kept = st.session_state.get(key, default)
        value = min(max(float(kept), low), high) if isinstance(kept, int | float) else default
    st.session_state[key] = value
    return value


def text(key: str, valid: Callable[[str], bool], default: str, what: str) -> str:
    """The text under `key` that `valid` accepts, as in `choose`; for values that cannot be listed."""
    raw = st.session_state[_INCOMING].pop(key, None)
    if raw is not None:
        value, message = one_of(raw, [raw] if len(raw) <= LONGEST_VALUE and valid(raw) else [], default, what)
        note(message)
    else:
        kept = st.session_state.get(key, default)
        value = kept if isinstance(kept, str) and valid(kept) else default
    st.session_state[key] = value
    return value


def use(key: str, value: object, default: object = None) -> None:
    """Let the URL carry `key`, unless it has its default."""
    if value != default:
        st.session_state[_USED][key] = str(value)


def publish() -> None:
    """End of a rerun: write what was used into the URL, and leave it alone if nothing changed."""
    session = st.session_state
    wanted = dict(session[_USED])
    before = session.get(_PUBLISHED)
    if before is not None and before != wanted:
        superseded = session.setdefault(_SUPERSEDED, {})
        superseded[urlencode(before)] = time.monotonic()
        for old in [key for key, at in superseded.items() if time.monotonic() - at > ECHO_SECONDS]:
            del superseded[old]
    session[_PUBLISHED] = wanted
    if {key: st.query_params[key] for key in st.query_params} != wanted:
        st.query_params.from_dict(wanted)


def link() -> str:
    """Address of the present view: the page's own address with what it shows."""
    base = (st.context.url or "").split("?")[0]
    wanted = urlencode(st.session_state.get(_USED, {}))
    return f"{base}?{wanted}" if wanted else base
