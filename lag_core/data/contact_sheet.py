"""A dataset on one page: what was found, what to fix, pictures with their masks. One self-contained HTML file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from lag_core.data.dataset import SPLITS, Dataset, spread
from lag_core.data.inspection import Inspection, SplitFacts
from lag_core.data.painting import overlay_png
from lag_core.data.pictures import DataError
from lag_core.data.transforms import content_size, resize_image, resize_labels
from lag_core.protocol import IGNORE
from lag_core.sentences import sentence

SHOWN = 24
"""Pictures of each split, evenly over its list."""
SIDE = 200
"""Longest side of a picture, in pixels."""

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: right; } td:first-child,
th:first-child { text-align: left; } tr { border-bottom: 1px solid #8884; }
.pictures { display: flex; flex-wrap: wrap; gap: 12px; } figure { margin: 0; } figcaption { font-size: 12px; }
i { display: inline-block; width: .8em; height: .8em; border: 1px solid #8888; background: var(--c); }
"""


def contact_sheet(dataset: Dataset, found: Inspection) -> str:
    """The page."""
    title = f"Dataset {_text(dataset.info.name)}"
    advice = "".join(f"<li>{_text(one)}</li>" for one in found.advice) or "<li>nothing to fix was found</li>"
    parts = [f"<h1>{title}</h1>", f"<h2>What to fix, or to know</h2><ul>{advice}</ul>", _sizes(found)]
    if found.steps:
        cells = "".join(f"<tr><td>step {t}</td><td>{count}</td></tr>" for t, count in enumerate(found.steps))
        parts.append(f"<h2>Training images of each step</h2><table>{cells}</table>")
    parts.append(_classes(dataset, found))
    parts += [f"<h2>{split}</h2><div class=pictures>{''.join(_pictures(dataset, split))}</div>" for split in SPLITS]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{title}</title><style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(sentence(value, 400), quote=True)


def _sizes(found: Inspection) -> str:
    rows = "".join(f"<tr><td>{split}</td>{_size_cells(facts)}</tr>" for split, facts in found.splits.items())
    heading = "<tr><th></th><th>images</th><th>most frequent size</th><th>smallest</th><th>largest</th></tr>"
    return f"<h2>Images</h2><table>{heading}{rows}</table>"


def _size_cells(facts: SplitFacts) -> str:
    if not facts.sizes:
        return f"<td>{facts.images}</td>" + "<td>-</td>" * 3
    by_area = sorted(facts.sizes, key=lambda size: size[0] * size[1])
    sizes = facts.sizes.most_common(1)[0][0], by_area[0], by_area[-1]
    return f"<td>{facts.images}</td>" + "".join(f"<td>{width} x {height}</td>" for height, width in sizes)


def _classes(dataset: Dataset, found: Inspection) -> str:
    """Of each class: images, and its share of the annotated pixels."""
    rows = []
    for one in dataset.info.classes:
        cells = []
        for facts in found.splits.values():
            annotated = max(int(facts.pixels[:IGNORE].sum()), 1)
            cells.append(f"<td>{facts.images_with(one.id)}</td><td>{100 * facts.pixels[one.id] / annotated:.2f} %</td>")
        key = f'<i style="--c:rgb({one.color[0]} {one.color[1]} {one.color[2]})"></i>'
        rows.append(f"<tr><td>{key} {one.id} {_text(one.name)}</td>{''.join(cells)}</tr>")
    void = "".join(
        f"<td></td><td>{100 * facts.pixels[IGNORE] / max(int(facts.pixels.sum()), 1):.2f} %</td>"
        for facts in found.splits.values()
    )
    heading = "<tr><th>class</th>" + "".join(f"<th>{s} images</th><th>of its pixels</th>" for s in SPLITS) + "</tr>"
    return f"<h2>Classes</h2><table>{heading}{''.join(rows)}<tr><td>not annotated</td>{void}</tr></table>"


def _pictures(dataset: Dataset, split: str) -> Iterator[str]:
    """Each picture beside a copy with its mask laid over."""
    for name in spread(dataset.ids(split), SHOWN):
        try:
            image, mask = dataset.image(name), dataset.mask(name)
        except DataError as error:
            yield f"<figure>{_text(error)}</figure>"
            continue
        size = content_size(mask.shape[0], mask.shape[1], SIDE)
        small, labels = resize_image(image, size), resize_labels(mask, size)
        overlay = overlay_png(small, labels, dataset.info.classes, 0.6)
        pair = _image(_jpeg(small), "jpeg") + _image(overlay, "png")
        yield f"<figure>{pair}<figcaption>{_text(name)}</figcaption></figure>"


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _image(content: bytes, kind: str) -> str:
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
