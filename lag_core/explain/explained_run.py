"""A run with methods that explain it, for notebooks: the return value of `lag_core.open_run`.

    run = lag_core.open_run("checkpoints/aerial-2-2-1-lag")
    trace = run.trace("an-image-of-the-validation-set")
    trace.provenance(), trace.relevance(2, "road"), run.why_preserved("road", trace)

Nothing is computed here: each method calls the module for its question. The networks are loaded at the first
question that needs them; opening a run imports no torch. docs/adr/0004-a-run-that-can-be-asked.md says why this is a
separate class.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lag_core import runs
from lag_core.data.pictures import DataError
from lag_core.runs import Run

if TYPE_CHECKING:
    from lag_core.data.catalogue import Dataset
    from lag_core.explain.apart import Apart
    from lag_core.explain.channels import ChannelSplit
    from lag_core.explain.evidence import Examples
    from lag_core.explain.forgetting import RunForgetting
    from lag_core.explain.networks import Networks
    from lag_core.explain.similarity import Prototypes
    from lag_core.explain.trace import Trace
    from lag_core.explain.verdict import Evidence, Verdict


class WhyPreserved(NamedTuple):
    """The numbers, and the words that follow from them by the rules of explain.verdict."""

    evidence: Evidence
    verdict: Verdict
    apart: Apart | None = None
    """The comparison with another run, if one was given."""

    def __str__(self) -> str:
        """The answer in sentences."""
        if self.apart is None:
            return self.verdict.text
        from lag_core.explain.why import apart_sentence

        other = self.apart.other
        return f"{self.verdict.text}\n{apart_sentence(self.evidence.name, self.apart.shares, 'this run', other)}"


class ExplainedRun(Run):
    """An open run folder with methods that explain it (ADR 4). Classes are given by index or by name."""

    data: str | Path | None = None
    """Folder of the dataset; None: the one that the run names."""
    device = "cpu"

    @cached_property
    def networks(self) -> Networks:
        """The networks of all steps, loaded at first use and kept as long as the run is."""
        from lag_core.explain.networks import Networks

        return Networks(self, self.device)

    def open_dataset(self, root: str | Path | None = None) -> Dataset:
        return super().open_dataset(self.data if root is None else root)

    def trace(self, picture: np.ndarray | str | Path, truth: np.ndarray | str | Path | None = None) -> Trace:
        """A picture through all steps, the trunk once.

        `picture`: uint8 [H, W, 3], a file, or the name of a validation image, which brings its truth along.
        `truth`: class indices uint8 [H, W], 255 where nothing is annotated; for a file, the file of its mask, too
        (dataset ids).
        DataError for a file that cannot be read, and for a mask of another size.
        """
        from lag_core.explain.picture import read_picture
        from lag_core.explain.trace import Trace

        mask, given = (None, truth) if truth is None or isinstance(truth, np.ndarray) else (truth, None)
        if isinstance(picture, np.ndarray):
            if mask is not None:
                raise DataError(f"{mask}: a mask file needs a picture file; the truth of an array must be an array")
            return Trace(self.networks, picture, given)
        image, own = read_picture(self, picture, mask, self.data)
        return Trace(self.networks, image, own if given is None else given, str(picture))

    def forgetting(self, joint: Run | None = None) -> RunForgetting:
        """IoU of each class after each step and what follows from it, from the run's metrics: explain.forgetting."""
        from lag_core.explain import forgetting

        return forgetting.of_run(self, joint)

    def channels(self) -> tuple[ChannelSplit | None, ...]:
        """The split of the channels at each step from 1 on, as training measured it: explain.channels."""
        from lag_core.explain import channels

        return channels.run_splits(self)

    def prototypes(self) -> Prototypes:
        """Class prototypes of all steps, measured by `lag survey`, else stored by training: explain.similarity."""
        from lag_core.explain import similarity

        return similarity.of_run(self)

    def why_preserved(
        self,
        cls: int | str,
        trace: Trace | None = None,
        step: int | None = None,
        k: int | None = None,
        against: ExplainedRun | None = None,
    ) -> WhyPreserved:
        """Evidence and verdict on a class at `step` (default: the last), on a traced picture or the validation set.

        `against`: a run to compare with; `apart` then says in which parts the two differ (explain.apart).

        Takes seconds to a minute; cached on disk. `k`: channels that the words are about (default: a quarter
        of the active ones). NoExamples (a DataError) if there is no picture of the class.
        """
        from lag_core.explain import apart, evidence
        from lag_core.explain.cache import ResultCache

        index = self.class_index(cls)
        examples = self._examples(index, trace)
        last = self.checked_step(step)
        cache = ResultCache()
        found = evidence.why_preserved(self.networks, examples, index, last, k, cache)
        beside = None
        if against is not None:
            beside = evidence.finish(apart.measure(self.networks, against.networks, examples, index, last, cache))
        return WhyPreserved(*found, beside)

    def why_lost(self, cls: int | str, trace: Trace | None = None, step: int | None = None) -> WhyPreserved:
        """The same as `why_preserved`, for a class that was lost."""
        return self.why_preserved(cls, trace, step)

    def report(self, cls: int | str, trace: Trace, step: int | None = None, validation: bool = True) -> str:
        """Everything about a class on a traced picture as one HTML file that opens offline: explain.report.

        `validation`: measure the class on the validation set, too.
        """
        from lag_core.explain import report
        from lag_core.explain.cache import ResultCache
        from lag_core.explain.evidence import finish
        from lag_core.explain.explanation import Subject, collect

        index, last = self.class_index(cls), self.checked_step(step)
        subject = Subject(trace.name or "a picture", trace.image, trace.truth, index, last)
        examples = self._examples(index, None) if validation else None
        found = finish(collect(self.networks, subject, examples, ResultCache()))
        picture = repr(trace.name) if trace.name else "image"
        call = f"run.report({self.classes[index].name!r}, run.trace({picture}), {last}, validation={validation})"
        return report.report(self, found, f"run = lag_core.open_run({report.relative(self.path)!r}); {call}")

    def _examples(self, cls: int, trace: Trace | None) -> Examples:
        from lag_core.explain import evidence

        if trace is None:
            return evidence.from_validation(self, self.open_dataset(), cls)
        return evidence.one_picture(trace.image, trace.truth, cls, self.classes[cls].name)


def open_run(path: str | Path, data: str | Path | None = None, device: str = "cpu") -> ExplainedRun:
    """Open a run folder to explain it. RunError if it is not a run, is damaged, or was written by a newer version.

    `data`: folder of its dataset, if it differs from the run's setting; `device`: of the networks.
    """
    run = runs.open_run(path, ExplainedRun)
    run.data, run.device = data, device
    return run
