"""What travels to a component in the browser: a header and named blobs, each blob sent once per session.

Layout of a payload: `uint32` length of the header (little endian), the header (JSON, UTF-8), the blobs one
after the other. A blob is named by the digest of its content. The page in the browser keeps what it has
received, this side remembers in the session what it has sent, so that moving a slider costs a few hundred
bytes and decodes nothing again. If the two disagree (Streamlit may drop a message that a newer one
replaces), the browser asks for the missing names (trigger `missing`), and they are sent again.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import streamlit as st

BlobKind = Literal["image", "uint8", "float32"]

_SENT = "components/sent blobs"
_REMEMBERED = 4096
"""Names of sent blobs that a session remembers; the oldest are forgotten, at worst they are sent again."""


def _sent() -> dict[str, None]:
    """Names of the blobs that the browser of this session was given, oldest first."""
    return st.session_state.setdefault(_SENT, {})


def forget(names: object) -> None:
    """Send the blobs `names` again when next needed. They come from the browser: anything may be in there."""
    if isinstance(names, list):
        for name in names:
            _sent().pop(str(name), None)


def told(key: str, name: str) -> object:
    """What the browser sends under `name` for the component `key`, anything; None if the component has left the page.

    A callback runs before the page is drawn: what the browser said as a page was left arrives with the next one.
    """
    state = st.session_state.get(key)
    return state.get(name) if isinstance(state, Mapping) else None


def forget_missing(key: str) -> None:
    """Send again what the component `key` lacks (a callback of the trigger `missing`)."""
    forget(told(key, "missing"))


def is_sent(version: str) -> bool:
    """Whether the browser of this session was given the picture of a `version` (see `Payload.lazy_picture`)."""
    return _digest("version", version.encode()) in _sent()


def _digest(kind: str, content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12, person=kind.encode()[:16]).hexdigest()


@dataclass
class Payload:
    """Collects the blobs of one rendering of a component."""

    _new: dict[str, tuple[BlobKind, bytes]] = field(default_factory=dict)

    def picture(self, encoded: bytes) -> str:
        """Name of an encoded picture (JPEG or PNG)."""
        return self._add(_digest("image", encoded), "image", lambda: encoded)

    def lazy_picture(self, version: str, encode: Callable[[], bytes]) -> str:
        """Name of a picture that is only made if the browser has none of this `version` yet."""
        return self._add(_digest("version", version.encode()), "image", encode)

    def array(self, values: np.ndarray) -> str:
        """Name of an array, uint8 or float32, sent as deflated bytes in C order."""
        kind: BlobKind = "uint8" if values.dtype == np.uint8 else "float32"
        raw = np.ascontiguousarray(values, np.uint8 if kind == "uint8" else "<f4").tobytes()
        return self._add(_digest(kind, raw), kind, lambda: zlib.compress(raw, 6))

    def _add(self, name: str, kind: BlobKind, encode: Callable[[], bytes]) -> str:
        if name not in _sent() and name not in self._new:
            self._new[name] = (kind, encode())
        return name

    def pack(self, props: dict[str, Any]) -> bytes:
        """The payload with `props` (JSON values) and the blobs that the browser does not have."""
        blobs, offset = [], 0
        for name, (kind, content) in self._new.items():
            blobs.append({"name": name, "kind": kind, "offset": offset, "length": len(content)})
            offset += len(content)
        header = json.dumps({"props": props, "blobs": blobs}, separators=(",", ":")).encode()
        self._remember()
        return struct.pack("<I", len(header)) + header + b"".join(content for _, content in self._new.values())

    def _remember(self) -> None:
        sent = _sent()
        sent.update(dict.fromkeys(self._new))
        for name in list(sent)[: max(0, len(sent) - _REMEMBERED)]:
            del sent[name]


def unpack(payload: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Props and blobs (still encoded) of a payload; what the browser does, for tests."""
    (length,) = struct.unpack_from("<I", payload)
    header = json.loads(payload[4 : 4 + length])
    body = payload[4 + length :]
    blobs = {b["name"]: body[b["offset"] : b["offset"] + b["length"]] for b in header["blobs"]}
    return header["props"], blobs
