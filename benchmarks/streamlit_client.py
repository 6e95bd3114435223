"""A client that speaks a Streamlit server's own protocol over its websocket, as the browser does.

Without a browser's cost it shows what the server does: how long it takes to answer, and what it sends to one
session while it serves others. `with Client(url) as client: client.open("steps"); client.press("step.next")`.
Every call sends the state of all widgets, waits until the script has finished, and raises `ServerError` where
the answer holds an error.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlencode

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import ClientConnection, connect

PATIENCE = 180.0
"""Seconds to wait for an answer, on a machine that does other work."""

FAILED = "could not be drawn"
"""What the app says in place of a view that raised something unforeseen."""

HOME = "start"
"""The page at the bare address."""

_VALUES = {"slider", "selectbox", "button_group", "checkbox", "number_input"}
_FINISHED = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_WITH_COMPILE_ERROR)


class ServerError(Exception):
    """The server did not answer, or answered with an error."""


class Client:
    """One session. `seconds` is how long the last answer took, from the message to the script's end."""

    def __init__(self, url: str):
        """url: http://host:port of the server."""
        self.url = url
        self.elements: dict[tuple[int, ...], Element] = {}
        """What the last run of the script drew, by place."""
        self.query: dict[str, str] = {}
        """What the address bar shows."""
        self.seconds = 0.0
        self.sent_bytes = 0
        """Size of the last answer."""
        self._pages: dict[str, str] = {}
        self._page = ""
        self._states: dict[str, WidgetState] = {}
        self._cached: dict[str, ForwardMsg] = {}
        self._socket: ClientConnection = connect(
            f"{url.replace('http', 'ws', 1)}/_stcore/stream", subprotocols=["streamlit"], max_size=None, open_timeout=60
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._socket.close()

    def open(self, page: str = HOME, query: str = "") -> None:
        """Open an address, or follow a link: a page by its slug, the query without question mark."""
        self.query = dict(parse_qsl(query))
        path = "" if page == HOME else page
        if self._pages and path not in self._pages:
            raise ServerError(f"The app has no page {page!r}.")
        self._run(query=query, name="" if self._pages else path, script=self._pages.get(path, ""))

    def turn_to(self, page: str) -> None:
        """Choose another page in the navigation; like the browser it drops the query."""
        self.open(page)

    def press(self, key: str) -> None:
        """Press the button with this key. Raises `ServerError` if it is not there or switched off."""
        button = self._widget(key)
        if button.button.disabled:
            raise ServerError(f"The button {key} is switched off.")
        self._run(WidgetState(id=button.button.id, trigger_value=True))

    def choose(self, key: str, value: Any) -> None:
        """Give the widget with this key a value: number, text (an option as it is displayed), or truth value."""
        element = self._widget(key)
        kind = element.WhichOneof("type")
        widget = getattr(element, kind)
        self._states[widget.id] = _state(kind, widget.id, [value])
        self._run()

    def options(self, key: str) -> list[str]:
        """The options of a drop-down list or segmented control, as they are displayed."""
        element = self._widget(key)
        if element.WhichOneof("type") == "selectbox":
            return list(element.selectbox.options)
        return [o.content for o in element.button_group.options]

    def has(self, key: str) -> bool:
        """Whether a widget with this key is on the screen."""
        return any(True for _ in self._with_key(key))

    def value(self, key: str) -> Any:
        """What the browser would send for this widget."""
        element = self._widget(key)
        state = self._states[getattr(element, element.WhichOneof("type")).id]
        found = getattr(state, state.WhichOneof("value"))
        return list(found.data) if hasattr(found, "data") else found

    def texts(self) -> list[str]:
        """All Markdown, captions and metrics on the screen, in order of their places."""
        found = []
        for _, element in sorted(self.elements.items()):
            kind = element.WhichOneof("type")
            if kind == "markdown":
                found.append(element.markdown.body)
            elif kind == "metric":
                found.append(f"{element.metric.label}: {element.metric.body} {element.metric.delta}")
            elif kind == "alert":
                found.append(element.alert.body)
        return found

    def fingerprint(self) -> str:
        """Digest of what the main area shows: text, tables, plots and pictures, without the project's components."""
        digest = hashlib.sha256()
        for place, element in sorted(self.elements.items()):
            shown = _shown(element) if place[0] == 0 else b""
            if shown:
                digest.update(len(shown).to_bytes(8, "big") + shown)
        return digest.hexdigest()[:16]

    def _with_key(self, key: str) -> Iterator[Element]:
        for element in self.elements.values():
            found = getattr(element, element.WhichOneof("type") or "", None)
            if getattr(found, "id", "").split("-", 2)[-1] == key:
                yield element

    def _widget(self, key: str) -> Element:
        for element in self._with_key(key):
            return element
        raise ServerError(f"There is no widget {key!r} on this page.")

    def _run(
        self, trigger: WidgetState | None = None, query: str | None = None, name: str = "", script: str = ""
    ) -> None:
        message = BackMsg()
        state = message.rerun_script
        state.query_string = urlencode(self.query) if query is None else query
        state.page_name = name
        state.page_script_hash = script or ("" if name else self._page)
        state.widget_states.widgets.extend([*self._states.values(), *([trigger] if trigger else [])])
        state.cached_message_hashes.extend(self._cached)
        state.context_info.url = self.url
        start = time.perf_counter()
        self._socket.send(message.SerializeToString())
        self._receive(start)
        self._check()

    def _receive(self, start: float) -> None:
        """Take messages until the script has finished; one that runs again at once is waited for."""
        self.sent_bytes = 0
        while True:
            try:
                content = self._socket.recv(timeout=max(0.1, start + PATIENCE - time.perf_counter()))
            except TimeoutError:
                raise ServerError(f"The server did not answer within {PATIENCE:.0f} s.") from None
            self.sent_bytes += len(content)
            message = ForwardMsg.FromString(content)  # type: ignore[arg-type]
            if message.WhichOneof("type") == "script_finished" and message.script_finished in _FINISHED:
                self.seconds = time.perf_counter() - start
                return
            self._take(message)

    def _take(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "ref_hash":
            cached = ForwardMsg()
            cached.CopyFrom(self._cached[message.ref_hash])
            cached.metadata.CopyFrom(message.metadata)
            message, kind = cached, cached.WhichOneof("type")
        elif message.metadata.cacheable and message.hash:
            self._cached[message.hash] = message
        if kind == "new_session":
            self.elements = {}
        elif kind == "page_not_found":
            raise ServerError("The app has no such page.")
        elif kind == "navigation":
            self._page = message.navigation.page_script_hash
            self._pages = {p.url_pathname: p.page_script_hash for p in message.navigation.app_pages}
        elif kind == "page_info_changed":
            self.query = dict(parse_qsl(message.page_info_changed.query_string))
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            self._draw(tuple(message.metadata.delta_path), message.delta.new_element)

    def _draw(self, place: tuple[int, ...], element: Element) -> None:
        self.elements[place] = element
        kind = element.WhichOneof("type")
        if kind not in _VALUES:
            return
        widget = getattr(element, kind)
        if widget.set_value or widget.id not in self._states:
            self._states[widget.id] = _initial(kind, widget)

    def _check(self) -> None:
        for element in self.elements.values():
            kind = element.WhichOneof("type")
            if kind == "exception":
                raise ServerError(f"{element.exception.type}: {element.exception.message}")
            if kind == "alert" and FAILED in element.alert.body:
                raise ServerError(element.alert.body)


def _initial(kind: str, widget: Any) -> WidgetState:
    """The value that the server gave a widget, as the browser would send it back."""
    if kind == "slider":
        return _state(kind, widget.id, widget.value if widget.set_value else widget.default)
    if kind == "selectbox":
        text = widget.raw_value if widget.set_value else widget.options[widget.default] if widget.options else ""
        return _state(kind, widget.id, [text])
    if kind == "button_group":
        chosen = widget.raw_values if widget.set_value else [widget.options[i].content for i in widget.default]
        return _state(kind, widget.id, chosen)
    return _state(kind, widget.id, [widget.value if widget.set_value else widget.default])


def _state(kind: str, name: str, values: Any) -> WidgetState:
    state = WidgetState(id=name)
    if kind == "slider":
        state.double_array_value.data.extend(float(v) for v in values)
    elif kind == "button_group":
        state.string_array_value.data.extend(values)
    elif kind == "selectbox":
        state.string_value = values[0]
    elif kind == "checkbox":
        state.bool_value = bool(values[0])
    else:
        state.double_value = float(values[0])
    return state


def _shown(element: Element) -> bytes:
    """What a user sees of an element, without ids; empty for what carries no content of its own."""
    kind = element.WhichOneof("type")
    if kind in ("markdown", "alert", "metric", "dataframe", "imgs"):
        copied = Element()
        copied.CopyFrom(element)
        getattr(copied, kind).ClearField("id") if kind == "dataframe" else None
        return bytes(copied.SerializeToString(deterministic=True))
    if kind == "plotly_chart":
        return bytes(element.plotly_chart.spec.encode())
    return b""
