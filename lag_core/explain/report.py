"""The report as one HTML file: pictures, plots, numbers, configuration, checksums, versions, command.

The file is self-contained: no script, no font, no picture from elsewhere, and a content security policy that
refuses them. Light and dark follow the reader's settings. All text from a run or a picture's name is
escaped. The same input gives the same bytes.
"""

from __future__ import annotations

import html
import json
import platform
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np

from lag_core import comparison, metrics
from lag_core import config as configuration
from lag_core.data.undecided import LEAST, UNDECIDED, none_words
from lag_core.explain import rendering, svg, verdict, why
from lag_core.explain.explanation import Explanation, Subject
from lag_core.explain.forgetting import Fate, Provenance
from lag_core.explain.shares import waterfall
from lag_core.explain.svg import Band, Line
from lag_core.explain.verdict import EffectCurve, Evidence
from lag_core.protocol import IGNORE
from lag_core.runs import Run, file_digest

_CONTROL = re.compile(r"[\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2066-\u2069]+")
LONGEST = 400
"""Characters of a text from outside that are printed."""
VERSIONS = ("torch", "torchvision", "numpy", "captum")


def text(value: object) -> str:
    """Untrusted text made harmless for HTML: one line, no control or direction characters, escaped."""
    line = _CONTROL.sub(" ", str(value)).strip()
    return html.escape(line if len(line) <= LONGEST else line[: LONGEST - 1] + "…", quote=True)


def report(run: Run, found: Explanation, command: str) -> str:
    """The whole file. `command`: the command that makes it again."""
    name = run.classes[found.subject.cls].name
    title = f"{text(name)} at step {found.subject.step} of {text(run.name)}"
    parts = [
        _head(run, found, title),
        _verdicts(found),
        _section("The picture at every step", _pictures(run, found)),
        _section("What became of its pixels", _provenance(run, found)),
        _section("Swap board: features and heads, then and now", _swap_board(run, found)),
        _section("Why preserved: the numbers", _evidence_plots(found)),
        _section("Channels of the latent map", _channels(found)),
        _section("What speaks for the class", _relevance(found)),
        _section("Near its prototype", _cosine(found)),
        _section("The run in numbers", _metrics(run)),
        _section("The compared run in numbers", _metrics(found.compared.run) if found.compared else ""),
        _section("Configuration", _configuration(run)),
        _section("Checksums, versions, command", _provenance_of_report(run, found, command)),
    ]
    return _page(title, "".join(parts))


# ---------------------------------------------------------------------- pieces of HTML


def _page(title: str, body: str) -> str:
    style = (resources.files("lag_core.explain") / "report.css").read_text("utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<style>\n{style}</style></head>\n<body><main>\n{body}</main></body></html>\n"
    )


def _section(heading: str, body: str) -> str:
    return f"<section><h2>{heading}</h2>{body}</section>\n" if body else ""


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "") -> str:
    """A table; every cell is escaped."""
    head = "".join(f"<th>{text(one)}</th>" for one in heads)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _picture(pixels: np.ndarray, caption: str) -> str:
    """A picture with its caption (plain text)."""
    return (
        f'<figure><img alt="{text(caption)}" src="{rendering.data_uri(pixels)}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def _gallery(figures: Iterable[str]) -> str:
    return f'<div class="gallery">{"".join(figures)}</div>'


def _legend(entries: Iterable[tuple[str, Sequence[int]]]) -> str:
    """Colours with their names (plain text)."""
    items = "".join(
        f'<span class="key area"><i style="--c:rgb({int(c[0])} {int(c[1])} {int(c[2])})"></i>{text(name)}</span>'
        for name, c in entries
    )
    return f'<p class="legend">{items}</p>'


# ---------------------------------------------------------------------- sections


def _head(run: Run, found: Explanation, title: str) -> str:
    subject = found.subject
    facts = {
        "run": f"{run.name} ({run.method}, {run.config.data.dataset} {run.config.data.task})",
        "picture": f"{subject.name}, {subject.image.shape[1]} x {subject.image.shape[0]} pixels",
        "class": run.classes[subject.cls].name,
        "step": f"{subject.step} of {run.last_step}; the class came with step {run.labels.step_of(subject.cls)}",
    }
    rows = "".join(f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in facts.items())
    return f"<header><h1>{title}</h1><dl>{rows}</dl></header>\n"


def _verdicts(found: Explanation) -> str:
    blocks = []
    for one in found.evidence:
        said = verdict.verdict(one)
        items = "".join(f'<li class="{item.topic}">{text(item.text)}</li>' for item in said.findings)
        where = "On the validation set" if one.whole_set else "On this picture"
        head = f"{where}: {text(said.words)}"
        blocks.append(f'<article class="{said.status}"><h3>{head}</h3><ul>{items}</ul>{_waterfall(one)}</article>')
    if found.apart is not None:
        blocks.append(_apart(found))
    if not blocks:
        return _section("Verdict", f"<p>{text(found.missing.get('evidence', ''))}</p>")
    level = (
        "A share is a part's contribution to the change, averaged over all ways of combining old and new parts "
        "of the network; the shares add up to the change. In the detail, an effect of channels is claimed if it is at "
        f"least {verdict.points(verdict.MATERIAL)} point of IoU and p is at most {verdict.LEVEL:g} (one-sided "
        "permutation test against random channels of equal number)."
    )
    return _section("Verdict", f'<div class="verdicts">{"".join(blocks)}</div><p class="note">{level}</p>')


def _waterfall(one: Evidence) -> str:
    if one.shares is None:
        return ""
    first, last = f"IoU at step {one.shares.step_from}", f"IoU at step {one.shares.step_to}"
    return svg.waterfall(waterfall(one.shares, first, last), title="Where the change lives", x_title="IoU points")


def _apart(found: Explanation) -> str:
    """How the run differs from the compared one."""
    assert found.apart is not None
    beside, other = found.apart.shares, found.apart.other
    where = "on the validation set" if found.evidence[-1].whole_set else "on this picture"
    plot = svg.waterfall(
        waterfall(beside, f"IoU in {other}", "IoU in this run"), title="The difference by part", x_title="IoU points"
    )
    return (
        f"<article><h3>Beside {text(other)}, {where}</h3><ul><li>{text(_apart_sentence(found))}</li>"
        f"<li>{text(found.apart.how)}</li></ul>{plot}</article>"
    )


def _apart_sentence(found: Explanation) -> str:
    assert found.apart is not None
    return why.apart_sentence(found.evidence[-1].name, found.apart.shares, "this run", found.apart.other)


def _pictures(run: Run, found: Explanation) -> str:
    subject, first = found.subject, [_picture(found.subject.image, "picture")]
    if subject.truth is not None:
        first.append(_drawn(run, found, subject.truth, "ground truth"))
    galleries = [_gallery([*first, *_steps(run, run, found, found.predictions, found.decided)])]
    other = found.compared
    if other is not None:
        steps = _steps(run, other.run, found, other.predictions, other.decided)
        galleries.append(f"<h3>{text(other.run.name)}, the compared run</h3>{_gallery(steps)}")
    return "".join(galleries) + _class_legend(run, found)


def _steps(run: Run, own: Run, found: Explanation, maps: np.ndarray, decided: np.ndarray) -> list[str]:
    """The picture after each step of run `own`, in the class indices of `run`."""
    figures = []
    for step, labels in enumerate(maps):
        introduced = ", ".join(own.classes[i].name for i in own.steps[step].classes)
        figures.append(_drawn(run, found, labels, f"step {step} (learned {introduced})", decided[step]))
    return figures


def _drawn(run: Run, found: Explanation, labels: np.ndarray, caption: str, decided: np.ndarray | None = None) -> str:
    """The picture under classes; the background leaves it as it is."""
    image, clear = found.subject.image, run.labels.background
    return _picture(rendering.overlay(image, labels, run.classes, decided=decided, clear=clear), caption)


def _class_legend(run: Run, found: Explanation) -> str:
    """The classes that some map of either run shows; bare is the background."""
    shown = [found.predictions] if found.subject.truth is None else [found.predictions, found.subject.truth]
    decided = found.decided.all()
    if found.compared is not None:
        shown.append(found.compared.predictions)
        decided = decided and found.compared.decided.all()
    there = sorted({int(k) for part in shown for k in np.unique(part) if k < len(run.classes)})
    entries = [(run.classes[k].name, run.classes[k].color) for k in there if k != run.labels.background]
    if not decided:
        entries.append((none_words(found.subject.least), UNDECIDED))
    bare = run.labels.background is not None and run.labels.background in there
    return _legend(entries) + ('<p class="note">Uncoloured: background.</p>' if bare else "")


def _swap_board(run: Run, found: Explanation) -> str:
    """The four combinations of features and heads of two steps."""
    board = found.swapped
    if board is None:
        return ""
    names = (
        f"features {board.then}, heads {board.then}", f"features {board.now}, heads {board.then}",
        f"features {board.then}, heads {board.now}", f"features {board.now}, heads {board.now}",
    )  # fmt: skip
    name = run.classes[found.subject.cls].name
    pictures = [
        _drawn(run, found, labels, f"{words}: IoU of {name} {'–' if np.isnan(iou) else f'{iou:.1f}'}")
        for labels, iou, words in zip(board.maps, board.ious, names, strict=True)
    ]
    note = (
        f"Step {board.then} introduced the class. Heads {board.then} choose among the classes of that step. "
        "IoU in points, on the pixels whose class was known then."
    )
    return f'{_gallery(pictures)}{_class_legend(run, found)}<p class="note">{text(note)}</p>'


FATE_WORDS: dict[Fate, str] = {
    Fate.KEPT: "kept: right since an earlier step",
    Fate.LEARNED: "learned at this step",
    Fate.FORGOTTEN: "forgotten: right once, wrong now",
    Fate.RECOVERED: "recovered: wrong in between",
    Fate.NEVER: "never right",
    Fate.ABSENT: "its class is still to come",
    Fate.IGNORED: "not annotated",
}


def _provenance(run: Run, found: Explanation) -> str:
    if found.provenance is None:
        return f"<p>{text(found.missing.get('provenance', ''))}</p>"
    subject, origin = found.subject, found.provenance
    assert subject.truth is not None
    lost = np.where(origin.state == Fate.FORGOTTEN, found.predictions[origin.step], np.uint8(IGNORE))
    pictures = [
        _picture(rendering.fates(subject.image, origin.state), f"fate of each pixel by step {origin.step}"),
        _picture(rendering.overlay(subject.image, lost, run.classes), "predicted class of the forgotten pixels"),
    ]
    other = found.compared.provenance if found.compared else None
    columns = [np.bincount(origin.state.ravel(), minlength=len(Fate)), _of_class(origin, subject)]
    heads = ["state", "pixels", "of the class"]
    if found.compared and other:
        name = found.compared.run.name
        pictures.append(_picture(rendering.fates(subject.image, other.state), f"{name}, by step {other.step}"))
        columns.append(_of_class(other, subject))
        heads.append(f"of the class, {name}")
    there = [fate for fate in Fate if any(column[fate] for column in columns)]
    table = _table(heads, [(FATE_WORDS[fate], *(int(one[fate]) for one in columns)) for fate in there], "numbers")
    legend = _legend((FATE_WORDS[fate], color) for fate, color in rendering.FATES.items() if fate in there)
    return f"{_gallery(pictures)}{legend}{table}"


def _of_class(origin: Provenance, subject: Subject) -> np.ndarray:
    """Pixels of the class asked about, by fate."""
    return np.bincount(origin.state[subject.truth == subject.cls], minlength=len(Fate))


def _evidence_plots(found: Explanation) -> str:
    return "".join(_details_of(one) + _plots_of(one) for one in found.evidence)


def _details_of(one: Evidence) -> str:
    """The measurements besides the verdict, in sentences."""
    where = "on the validation set" if one.whole_set else "on this picture"
    items = "".join(f"<li>{text(item.text)}</li>" for item in verdict.verdict(one).details)
    return f"<h3>Detail {where}</h3><ul>{items}</ul>" if items else ""


def _plots_of(one: Evidence) -> str:
    where = "on the validation set" if one.whole_set else "on this picture"
    steps = np.arange(len(one.iou))
    plots = [
        svg.line_plot(
            steps,
            [Line("IoU", 100 * one.iou)],
            title="IoU over the steps",
            x_title="step",
            y_title="IoU (%)",
            limits=(0, 100),
        ),
        svg.line_plot(
            steps,
            [
                Line("channels that speak for it", one.over.relevance_profile),
                Line("places", one.over.relevance_map, 2, dashed=True),
            ],
            title="What speaks for the class, against its first step",
            x_title="step",
            y_title="agreement (cosine)",
            limits=(0, 1),
        ),
        svg.line_plot(
            steps,
            [
                Line("drift of the prototype", one.over.drift),
                Line("mean distance of its own pixels", one.over.spread, 2, True),
            ],
            title="Drift of the prototype",
            x_title="step",
            y_title="1 - cosine",
        ),
    ]
    if one.effects is not None and one.effects.ablation is not None and one.effects.transplant is not None:
        plots.append(_effect_plot(one.effects.ablation, "invariant channels removed", "Ablation: what carries it?"))
        plots.append(_effect_plot(one.effects.transplant, "changed channels put back", "Transplant: what was lost?"))
    images = f"{one.images} image{'s' * (one.images > 1)}"
    return f'<h3>{where} ({images} for the effects of channels)</h3><div class="plots">{"".join(plots)}</div>'


def _effect_plot(curve: EffectCurve, name: str, title: str) -> str:
    """The effect over the number of channels, from 0 channels on, beside the random ones."""
    x = np.concatenate([[0], curve.counts])
    low, high = (100 * np.concatenate([[0.0], bound]) for bound in curve.interval())
    mean = 100 * np.concatenate([[0.0], curve.controls.mean(1)])
    effect = 100 * np.concatenate([[0.0], curve.effect])
    n = curve.controls.shape[1]
    least, most = (float(f(f(v) for v in (low, high, effect))) for f in (min, max))
    return svg.line_plot(
        x,
        [Line("random channels, mean", mean, 3, dashed=True, marks=False), Line(name, effect)],
        [Band(f"random channels, 90 % of {n}", low, high)],
        title=title,
        x_title="channels",
        y_title="change of IoU (points)",
        limits=(min(1.1 * least, -1.0), max(1.1 * most, 1.0)),
    )


def _channels(found: Explanation) -> str:
    moved = found.moved
    if moved is None:
        return f"<p>{text(found.missing.get('channels', ''))}</p>"
    if not moved.split.defined:
        return "<p>No channel moved: the latent map is the same at both steps.</p>"
    count = int(moved.split.invariant.sum())
    curve = svg.line_plot(
        np.arange(1, len(moved.split.curve) + 1),
        [Line(f"distance from step {moved.source}", moved.split.curve, marks=False)],
        title="Sorted distances of the channels",
        x_title=f"channel, sorted; the first {count} count as invariant",
        y_title="distance",
    )
    high = max(rendering.scale_end(moved.invariant), rendering.scale_end(moved.specific))
    maps = [
        _picture(rendering.strength(moved.invariant, high), "energy of the invariant channels"),
        _picture(rendering.strength(moved.specific, high), "energy of the changed channels"),
    ]
    return f'<div class="beside">{curve}{_gallery(maps)}</div>'


def _relevance(found: Explanation) -> str:
    figures = [
        _picture(
            rendering.signed(one.map),
            f"LRP at step {one.step}; conservation error {one.found.conservation or 0:.1e}",
        )
        for one in found.relevance
    ]
    why = f"<p>{text(found.missing['relevance'])}</p>" if "relevance" in found.missing else ""
    note = '<p class="note">Blue speaks for the class, orange against it; each map has its own scale.</p>'
    return (_gallery(figures) + note if figures else "") + why


def _cosine(found: Explanation) -> str:
    if found.cosine is None:
        return f"<p>{text(found.missing.get('prototype', ''))}</p>"
    low, high = float(found.cosine.min()), float(found.cosine.max())
    return _gallery(
        [
            _picture(
                rendering.strength(found.cosine - low, high - low), f"cosine, {low:.2f} (dark) to {high:.2f} (light)"
            )
        ]
    )


def _metrics(run: Run) -> str:
    confusions = run.confusions()
    if confusions is None:
        return f"<p>Not measured: run <code>lag evaluate {text(relative(run.path))} --write</code>.</p>"
    rows = [
        (row.name, *(comparison.percent(getattr(row, name)) for name in comparison.COLUMNS))
        for row in comparison.step_rows(run, confusions)
    ]
    ious = metrics.iou_matrix(confusions, run.labels)
    classes = [(one.name, *(comparison.percent(float(v)) for v in ious[:, k])) for k, one in enumerate(run.classes)]
    steps = [f"step {t}" for t in range(len(ious))]
    return (
        "<p>Mean IoU on the validation set, percent.</p>"
        + _table(("after", *comparison.COLUMNS.values()), rows, "numbers")
        + "".join(f"<p>{text(note)}</p>" for note in comparison.NOTES)
        + "<p>IoU of each class, percent.</p>"
        + _table(("class", *steps), classes, "numbers")
    )


def _configuration(run: Run) -> str:
    rows = list(flattened(configuration.to_dict(run.config)))
    return f"<details><summary>{len(rows)} settings</summary>{_table(('setting', 'value'), rows)}</details>"


def flattened(tables: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested tables as (dotted name, value as JSON)."""
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value, ensure_ascii=False)


def _provenance_of_report(run: Run, found: Explanation, command: str) -> str:
    files = _table(("file", "bytes", "SHA-256"), checksums(run), "code")
    digests = f"run {run.digest}, picture {found.digest}"
    rows = _table(("what", "version"), versions(run))
    return f"<p>Made again by:</p><pre>{_shown(command)}</pre><p>Digests: {text(digests)}</p>{files}{rows}"


def _shown(command: str) -> str:
    """A command line, whole; characters that do not show are written as their number."""
    return html.escape(_CONTROL.sub(lambda m: "".join(f"\\u{ord(c):04x}" for c in m[0]), command))


def command_line(
    verb: str,
    run: Run,
    image: str,
    cls: int,
    step: int,
    out: str,
    *,
    mask: Path | None = None,
    data: Path | None = None,
    image_only: bool = False,
    against: Path | None = None,
    own_shares: bool = False,
    least: float = LEAST,
) -> str:
    """A line for a shell. Files below the working folder are named relative to it."""
    words = ["lag", verb, relative(run.path), "--image", relative(Path(image)) if Path(image).is_absolute() else image]
    words += ["--mask", relative(mask)] if mask else []
    words += ["--class", run.classes[cls].name, "--step", str(step)]
    words += ["--data", relative(data)] if data else []
    words += ["--image-only"] if image_only else []
    words += ["--against", relative(against)] if against else []
    words += ["--own-shares"] if own_shares else []
    words += ["--none-below", f"{least:g}"] if least != LEAST else []
    return shlex.join([*words, "--out", out])


def relative(path: Path) -> str:
    """A path without the folders of this machine: from the working folder on, or its last name if it lies elsewhere."""
    if not path.is_absolute():
        return str(path)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def checksums(run: Run) -> list[tuple[str, int, str]]:
    """Name, bytes and SHA-256 of the run's files: those that run.json lists, and the JSON files themselves."""
    found = []
    for name in ("run.json", "metrics.json", "survey.json"):
        path = run.path / name
        if path.is_file():
            found.append((name, path.stat().st_size, file_digest(path)))
    for step in run.info["steps"]:
        found += [(str(f["name"]), int(f["bytes"]), str(f["sha256"])) for f in step["files"]]
    return found


def versions(run: Run) -> list[tuple[str, str]]:
    """The versions that made the report and that trained the run."""
    here = [("python", platform.python_version()), ("lag", _version("lag"))]
    here += [(name, _version(name)) for name in VERSIONS]
    trained = [(f"{name} (training)", str(v)) for name, v in dict(run.info.get("versions", {})).items()]
    return [*here, *trained, ("commit (training)", str(run.info.get("git", "unknown")))]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed as a package"


@dataclass(frozen=True)
class Contents:
    """The contents of a report, for a preview."""

    pictures: int
    plots: int
    words: tuple[str, ...]
    """The verdicts' sentences, plain."""
    size: int
    """Bytes."""


def contents(page: str, found: Explanation) -> Contents:
    """Count what is in a report."""
    words = tuple(f.text for one in found.evidence for f in verdict.verdict(one).findings)
    words += (_apart_sentence(found),) if found.apart is not None else ()
    return Contents(page.count("<img "), page.count("<svg "), words, len(page.encode()))
