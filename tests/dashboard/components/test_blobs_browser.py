"""Blobs that one component brings and another one draws, in whatever order the browser builds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browser import window

from dashboard.components.assets import source

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with window(browser, "about:blank", fresh=True) as found:
        found.add_script_tag(content=source("payload.js"))
        yield found


def test_who_asks_before_a_blob_is_here_has_it_as_soon_as_it_comes(page: Page) -> None:
    found = page.evaluate(
        """async () => {
          const store = new BlobStore(1000);
          const asked = [store.ready(["late"]), store.ready(["late", ""])];
          const early = await Promise.race([asked[0], new Promise((done) => setTimeout(() => done("waits"), 50))]);
          const packed = await new Response(new Blob([new Uint8Array([7])]).stream()
            .pipeThrough(new CompressionStream("deflate"))).arrayBuffer();
          store.accept("late", "uint8", new Uint8Array(packed));
          const values = await Promise.all([...asked, store.ready(["late"])]);
          const got = values.map(([value]) => value[0]);
          return { early, values: got, empty: values[1][1] === undefined, left: store.awaited.size };
        }"""
    )
    assert found == {"early": "waits", "values": [7, 7, 7], "empty": True, "left": 0}
