"""Pictures that travel inside the message that shows them.

Streamlit serves a picture that it is given as bytes at an address of its own, and drops it once a newer run of the
script shows another. A browser that asks a moment later, because the user goes back fast, gets "404 Not Found".
"""

from __future__ import annotations

import base64

KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}
"""How the files begin that the app embeds."""


def picture(content: bytes) -> str:
    """A PNG or JPEG file as a `data:` address, which `st.image` and `st.set_page_config` take. ValueError: another."""
    kind = next((kind for start, kind in KINDS.items() if content.startswith(start)), None)
    if kind is None:
        raise ValueError("only PNG and JPEG pictures are embedded")
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def again(address: str) -> str:
    """An address that `picture` made earlier and the caller kept. ValueError for any other address."""
    if not address.startswith("data:image/"):
        raise ValueError("only pictures that are embedded are shown again")
    return address
