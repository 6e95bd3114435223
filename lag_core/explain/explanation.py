"""Everything about one picture, one class and one step, as `explain` writes it and `report` prints it.

`collect` is a generator that yields the share done (explain.evidence says why).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lag_core.data.undecided import LEAST, least_probability
from lag_core.explain import apart, evidence, forgetting, similarity, verdict
from lag_core.explain.apart import Apart
from lag_core.explain.attribution import Attribution
from lag_core.explain.cache import ResultCache
from lag_core.explain.channels import Moved
from lag_core.explain.evidence import Examples, NoExamples, Work
from lag_core.explain.forgetting import Provenance
from lag_core.explain.networks import Networks
from lag_core.explain.trace import Trace
from lag_core.explain.verdict import Evidence
from lag_core.protocol import IGNORE
from lag_core.relevance.lrp import NotFinite
from lag_core.runs import Run


@dataclass(frozen=True)
class Subject:
    """The subject of an explanation. ValueError if truth and picture differ in size."""

    name: str
    """Of the picture: a file or an id; untrusted text."""
    image: np.ndarray
    """uint8 [H, W, 3]."""
    truth: np.ndarray | None
    """Class indices uint8 [H, W], 255 where nothing is annotated; None without annotation."""
    cls: int
    step: int
    least: float = LEAST
    """Probability above which a class of a network with sigmoid scores stands out."""

    def __post_init__(self) -> None:
        if self.truth is not None and self.truth.shape != self.image.shape[:2]:
            raise ValueError(f"the mask has the size {self.truth.shape}, the image {self.image.shape[:2]}")


@dataclass(frozen=True)
class Spoken:
    """Which places speak for the class at a step: LRP of its logit summed over the picture."""

    step: int
    found: Attribution
    """Its map over the picture."""

    @property
    def map(self) -> np.ndarray:
        """float32 [H, W]."""
        return self.found.map


@dataclass(frozen=True)
class Compared:
    """A compared run's results on the same picture, in the class indices of the explained run."""

    run: Run
    predictions: np.ndarray
    """Class indices uint8 [T, H, W] after each of its steps."""
    decided: np.ndarray
    """bool [T, H, W], as in Explanation."""
    provenance: Provenance | None
    """By the step asked about, or its last one."""


@dataclass(frozen=True)
class Swapped:
    """The predictions of four networks made from two steps: old or new features with old or new heads.

    docs/method.md#shares
    """

    then: int
    """The step that introduced the class."""
    now: int
    maps: tuple[np.ndarray, ...]
    """Class indices uint8 [H, W]; features and heads (then, then), (now, then), (then, now), (now, now)."""
    ious: tuple[float, ...]
    """IoU points of the class on the pixels whose class was known at `then`; NaN where the class is nowhere."""


@dataclass(frozen=True)
class Explanation:
    """The results. Parts that do not apply are None or empty; `missing` says why."""

    subject: Subject
    digest: str
    """Of the picture."""
    predictions: np.ndarray
    """Class indices uint8 [T, H, W], one map per step."""
    decided: np.ndarray
    """bool [T, H, W], where some class stands out (Trace.stands_out): elsewhere pictures show "none"."""
    provenance: Provenance | None
    moved: Moved | None
    """Between the step that introduced the class and the step asked about."""
    relevance: tuple[Spoken, ...]
    """At the step that introduced the class, and at the one asked about."""
    cosine: np.ndarray | None
    """float32 [H, W], cosine of each pixel's Z to the class's prototype at the step."""
    evidence: tuple[Evidence, ...]
    """On the picture, on the validation set; as far as asked for and possible."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Part -> sentence."""
    apart: Apart | None = None
    """How the run differs from the compared one in the class; None without one."""
    compared: Compared | None = None
    """The compared run's answers; None without one."""
    swapped: Swapped | None = None
    """None without annotation, and where the class is as old as the step asked about."""


def collect(
    networks: Networks,
    subject: Subject,
    examples: Examples | None = None,
    cache: ResultCache | None = None,
    others: Networks | None = None,
    *,
    swap: bool = True,
) -> Work[Explanation]:
    """All parts. `examples`: the validation images that the class is measured on, too. RunError for a wrong step.

    `others`: networks of a run to compare with; `swap` as in apart.measure.
    """
    run = networks.run
    run.checked_step(subject.step)
    trace = Trace(networks, subject.image, subject.truth)
    maps, decided = [], []
    for step in trace.steps:
        maps.append(trace.prediction(step))
        decided.append(_decided(trace, step, subject))
        yield 0.2 * len(maps) / len(networks)
    predictions = np.stack(maps)
    missing: dict[str, str] = {}
    relevance = yield from _relevance(trace, subject, missing)
    found: list[Evidence] = []
    asked = [part for part in (_own_examples(subject, run, missing), examples) if part is not None]
    for place, part in enumerate(asked):
        work = evidence.measure(networks, part, subject.cls, subject.step, cache)
        low, high = (0.4 + 0.4 * (place + end) / len(asked) for end in (0, 1))
        found.append((yield from evidence.scaled(work, low, high)))
    beside = None
    if others is not None and asked:
        work_apart = apart.measure(networks, others, asked[-1], subject.cls, subject.step, cache, swap=swap)
        beside = yield from evidence.scaled(work_apart, 0.8, 1.0)
    answers = None if others is None else compared(run, Trace(others, subject.image), subject)
    return Explanation(
        subject=subject,
        digest=trace.digest,
        predictions=predictions,
        decided=np.stack(decided),
        provenance=_provenance(subject, predictions, run, missing),
        moved=_moved(trace, subject, missing),
        relevance=relevance,
        cosine=_cosine(trace, subject, missing),
        evidence=tuple(found),
        missing=missing,
        apart=beside,
        compared=answers,
        swapped=_swapped(trace, subject),
    )


def compared(run: Run, trace: Trace, subject: Subject) -> Compared:
    """The answers of another run, whose `trace` of the picture this is, in the class indices of `run`."""
    other = trace.run
    maps = np.stack([trace.prediction(step) for step in trace.steps])
    decided = np.stack([_decided(trace, step, subject) for step in trace.steps])
    origin = None
    if subject.truth is not None:
        step = min(subject.step, other.last_step)
        origin = forgetting.provenance(maps, _renamed(run, other)[subject.truth], other.labels, step)
    return Compared(other, _renamed(other, run)[maps], decided, origin)


def _decided(trace: Trace, step: int, subject: Subject) -> np.ndarray:
    """Where some class stands out: bool [H, W]. With softmax one does everywhere."""
    scored_alone = least_probability(trace.run.config.method.loss) > 0
    return trace.stands_out(step, subject.least if scored_alone else None)


def _renamed(run: Run, other: Run) -> np.ndarray:
    """Class indices of `run` -> those of `other`; uint8 [256], 255 for a class that it does not have."""
    table, ids = np.full(256, IGNORE, np.uint8), {one.id: place for place, one in enumerate(other.classes)}
    for place, one in enumerate(run.classes):
        table[place] = ids.get(one.id, IGNORE)
    return table


def _swapped(trace: Trace, subject: Subject) -> Swapped | None:
    import torch

    then, now = trace.run.labels.step_of(subject.cls), subject.step
    if subject.truth is None or now <= then:
        return None
    with torch.no_grad():
        latents = {step: trace.output(step).latent for step in (then, now)}
        pairs = ((then, then), (now, then), (then, now), (now, now))
        maps = tuple(trace.prediction(heads, trace.passes.decoder(heads)(latents[part])) for part, heads in pairs)
    counted = subject.truth < trace.run.labels.seen(then)
    ious = tuple(_iou((one == subject.cls) & counted, subject.truth == subject.cls) for one in maps)
    return Swapped(then, now, maps, ious)


def _iou(won: np.ndarray, mine: np.ndarray) -> float:
    union = int((won | mine).sum())
    return 100 * int((won & mine).sum()) / union if union else float("nan")


def _own_examples(subject: Subject, run: Run, missing: dict[str, str]) -> Examples | None:
    try:
        return evidence.one_picture(subject.image, subject.truth, subject.cls, run.classes[subject.cls].name)
    except NoExamples as reason:
        missing["evidence"] = _sentence(reason)
        return None


def _provenance(subject: Subject, predictions: np.ndarray, run: Run, missing: dict[str, str]) -> Provenance | None:
    if subject.truth is None:
        missing["provenance"] = "Without an annotation it is unknown what was right."
        return None
    return forgetting.provenance(predictions, subject.truth, run.labels, subject.step)


def _moved(trace: Trace, subject: Subject, missing: dict[str, str]) -> Moved | None:
    source = trace.run.labels.step_of(subject.cls)
    if subject.step <= source:
        missing["channels"] = f"Step {source} introduces the class: there is no later step to compare yet."
        return None
    return trace.channels(subject.step, source)


def _relevance(trace: Trace, subject: Subject, missing: dict[str, str]) -> Work[tuple[Spoken, ...]]:
    source = trace.run.labels.step_of(subject.cls)
    if subject.step < source:
        missing["relevance"] = f"Step {source} introduces the class: no earlier step can have relevance for it."
        return ()
    steps = sorted({source, subject.step})
    found = []
    for place, step in enumerate(steps):
        try:
            found.append(Spoken(step, trace.relevance(step, subject.cls)))
        except NotFinite as reason:
            missing["relevance"] = _sentence(reason)
        yield 0.2 + 0.2 * (place + 1) / len(steps)
    return tuple(found)


def _cosine(trace: Trace, subject: Subject, missing: dict[str, str]) -> np.ndarray | None:
    known = similarity.of_run(trace.run)
    if known.mean.shape[-1] != trace.run.config.model.latent or not known.known[subject.step, subject.cls]:
        missing["prototype"] = f"There is no prototype of the class: run `lag survey {trace.run.path.name}`."
        return None
    return trace.similarity(subject.step, known.mean[subject.step, subject.cls][None])[0]


def _sentence(reason: Exception) -> str:
    text = str(reason)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def arrays(found: Explanation) -> dict[str, np.ndarray]:
    """All numbers by name, for a file. Shapes as in the dataclasses."""
    result = {"image": found.subject.image, "predictions": found.predictions, "decided": found.decided}
    if found.subject.truth is not None:
        result["truth"] = found.subject.truth
    if found.provenance is not None:
        names = ("state", "first_right", "right_since", "lost_at", "went_to")
        result |= {f"provenance.{name}": getattr(found.provenance, name) for name in names}
    if found.moved is not None:
        result |= {
            "channels.distance": found.moved.split.distance,
            "channels.invariant": found.moved.split.invariant,
            "energy.invariant": found.moved.invariant,
            "energy.specific": found.moved.specific,
        }
    for one in found.relevance:
        result |= {
            f"relevance.step_{one.step:02d}.map": one.map,
            f"relevance.step_{one.step:02d}.channels": one.found.channels,
            f"relevance.step_{one.step:02d}.conservation": np.array([one.found.conservation or 0.0]),
        }
    if found.cosine is not None:
        result["cosine"] = found.cosine
    for one_evidence in found.evidence:
        where = "validation" if one_evidence.whole_set else "image"
        result |= {f"why.{where}.{k}": v for k, v in verdict.over_to_arrays(one_evidence.over).items()}
        if one_evidence.effects is not None:
            result |= {f"why.{where}.{k}": v for k, v in verdict.effects_to_arrays(one_evidence.effects).items()}
    return result
