"""The tables of docs/faithfulness.md, from the rows of the checks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import mean, median
from typing import Any

from lag_core.explain.controls import BALANCED
from lag_core.explain.shares import NORMAL
from lag_core.explain.verdict import LEVEL
from truth_tests import conservation, coverage, parts, planted, randomisation, variants
from truth_tests.intervals import binomial_interval, mean_interval
from truth_tests.maps import NAMES

Rows = Sequence[dict[str, Any]]
ALL = "all"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def grouped(rows: Rows, *names: str) -> dict[tuple, list[dict[str, Any]]]:
    """Rows by their values of `names`, in order of appearance."""
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in names)].append(row)
    return groups


def with_bounds(values: Sequence[float], pictures: Sequence[str], digits: int = 3, sign: str = "") -> str:
    """ "0.137 (0.120 to 0.155)"."""
    shown = [f"{value:{sign}.{digits}f}" for value in mean_interval(values, pictures) if not math.isnan(value)]
    return shown[0] + (f" ({shown[1]} to {shown[2]})" if len(shown) == 3 else "")


def conservation_table(rows: Rows, datasets: dict[str, str]) -> str:
    """One line per run and question."""
    refused = {row["run"]: row["refused"] for row in rows if "refused" in row}
    lines = []
    for (run, composite, to), group in grouped([r for r in rows if "errors" in r], "run", "composite", "to").items():
        errors = [e for row in group for e in row["errors"]]
        pairs = str(sum(bool(row["errors"]) for row in group))
        kept = "yes" if max(errors) <= conservation.AIM else "**no**"
        refuses = "yes" if refused[run] else "**no**"
        lines.append(
            [run, composite, to, pairs, str(len(errors)), f"{median(errors):.1e}", f"{max(errors):.1e}", kept, refuses]
        )
    head = ["run", "rules", "down to", "steps x classes", "maps", "median error", "largest", "<= 1e-3", "NaN refused"]
    return markdown(head, lines)


def _by_dataset(rows: Rows, datasets: dict[str, str]) -> dict[tuple, list[dict[str, Any]]]:
    return grouped([{**row, "dataset": datasets[row["run"]]} for row in rows], "dataset", "method")


def _case(row: dict[str, Any]) -> tuple:
    return row["run"], row["step"], row["class"], row["image"]


def deletion_table(rows: Rows, datasets: dict[str, str]) -> str:
    """One line per dataset and method: areas, and paired differences from the random orders of the same case."""
    measured = [row for row in rows if row["method"] is not None]
    chance = {
        case: {name: mean(row[name] for row in group) for name in ("deletion", "insertion")}
        for case, group in _cases([row for row in measured if row["method"] == "random"]).items()
    }
    lines = []
    for (dataset, method), group in _by_dataset(measured, datasets).items():
        cells = [dataset, NAMES[method], str(len(_cases(group)))]
        for name in ("deletion", "insertion"):
            cells.append(f"{mean(row[name] for row in group):.3f}")
            gaps = [row[name] - chance[_case(row)][name] for row in group]
            pictures = [row["image"] for row in group]
            cells.append("" if method == "random" else with_bounds(gaps, pictures, sign="+"))
        lines.append(cells)
    head = ["data", "order", "cases", "deletion (low)", "less random", "insertion (high)", "less random"]
    return markdown(head, lines)


def variants_table(rows: Rows, datasets: dict[str, str]) -> str:
    """One line a dataset and variant: paired differences from the composite that ships."""
    shipped = {_case(row): row for row in rows if row["method"] == variants.SHIPPED}
    lines = []
    for (dataset, method), group in _by_dataset(rows, datasets).items():
        pictures = [row["image"] for row in group]
        cells = [dataset, "as shipped" if method == variants.SHIPPED else method, str(len(group))]
        for name in ("deletion", "insertion"):
            cells.append(f"{mean(row[name] for row in group):.3f}")
            gaps = [row[name] - shipped[_case(row)][name] for row in group]
            cells.append("" if method == variants.SHIPPED else with_bounds(gaps, pictures, sign="+"))
        known = [row["inside"] for row in group if row["inside"] is not None]
        cells.append(f"{mean(known):.2f}" if known else "-")
        lines.append([*cells, f"{median(row['reaches'] for row in group):.1g}"])
    head = [
        "data", "rules", "cases", "deletion (low)", "less shipped", "insertion (high)", "less shipped",
        "on the class", "share of the score at the pixels",
    ]  # fmt: skip
    return markdown(head, lines)


def _cases(rows: Rows) -> dict[tuple, list[dict[str, Any]]]:
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[_case(row)].append(row)
    return groups


def cases_table(rows: Rows, datasets: dict[str, str]) -> str:
    """One line per run: how many cases of deletion and insertion were measured, and the composite's gain."""
    lines = []
    for (run,), group in grouped(rows, "run").items():
        measured = [row for row in group if row["method"] is not None]
        skipped = len(group) - len(measured)
        lines.append([run, str(len(_cases(measured))), str(skipped), *_gains(measured)])
    head = ["run", "cases", "class gone", "deletion, LRP composite less random", "insertion, LRP composite less random"]
    return markdown(head, lines)


def _gains(rows: Rows) -> list[str]:
    own = [row for row in rows if row["method"] == "lrp"]
    if not own:
        return ["-", "-"]
    cells = []
    for name in ("deletion", "insertion"):
        chance = {
            case: mean(row[name] for row in group)
            for case, group in _cases([row for row in rows if row["method"] == "random"]).items()
        }
        gaps = [row[name] - chance[_case(row)] for row in own]
        cells.append(with_bounds(gaps, [row["image"] for row in own], sign="+"))
    return cells


def pointing_table(rows: Rows, datasets: dict[str, str]) -> str:
    """One line per dataset and method."""
    lines = []
    for (dataset, method), group in _by_dataset(rows, datasets).items():
        pictures = [row["image"] for row in group]
        known = [row for row in group if row["inside"] is not None]
        inside = with_bounds([row["inside"] for row in known], [row["image"] for row in known], 2) if known else "-"
        lines.append(
            [
                dataset,
                NAMES[method],
                str(len(group)),
                with_bounds([row["hit"] for row in group], pictures, 2),
                f"{mean(row['chance'] for row in group):.2f}",
                with_bounds([row["near"] for row in group], pictures, 2),
                f"{mean(row['near_chance'] for row in group):.2f}",
                inside,
            ]
        )
    head = ["data", "map", "cases", "hits", "chance", "with tolerance", "chance", "positive relevance on the class"]
    return markdown(head, lines)


def randomisation_table(rows: Rows, datasets: dict[str, str]) -> str:
    """One line per dataset and method, one column per part. A map that is constant has no rank correlation."""
    parts = list(dict.fromkeys(row["part"] for row in rows))
    lines = []
    for (dataset, method), group in _by_dataset(rows, datasets).items():
        by_part = {part: [row for row in group if row["part"] == part] for part in parts}
        found = {part: [abs(v) for row in by_part[part] if math.isfinite(v := row["absolute"])] for part in parts}
        last = found[parts[-1]]
        cells = [f"{mean(found[part]):.2f}" if found[part] else "-" for part in parts]
        met = "-" if not last else "yes" if mean(last) <= randomisation.AIM else "**no**"
        counts = [str(len(by_part[parts[-1]])), str(len(by_part[parts[-1]]) - len(last))]
        lines.append([dataset, NAMES[method], *counts, *cells, f"{max(last):.2f}" if last else "-", met])
    columns = [*(f"-> {part}" for part in parts), "largest at the end", "mean <= 0.2"]
    return markdown(["data", "map", "cases", "constant at the end", *columns], lines)


def planted_table(rows: Rows, datasets: dict[str, str]) -> str:
    """One line per run, situation and k: what the verdict's own ranking finds."""
    lines = []
    for row in rows:
        if row["ranking"] != "changed":
            continue
        trials = [str(i) for i in range(len(row["recall"]))]
        met = "yes" if mean(row["recall"]) >= planted.AIM else "**no**"
        back = row.get("restored", [])
        mended = f"{100 * mean(back):.0f} % ({len(back)})" if back else "-"
        lines.append(
            [
                row["run"],
                row["situation"],
                str(row["k"]),
                percent(row["recall"], trials),
                f"{100 * row['k'] / row['channels']:.1f} %",
                met,
                f"{100 * mean(row['recall_alive']):.1f} %" if row.get("recall_alive") else "-",
                mended,
            ]
        )
    head = ["run", "situation", "k", "recall", "chance", ">= 95 %", "of live channels", "loss restored (trials)"]
    return markdown(head, lines)


def percent(values: Sequence[float], names: Sequence[str]) -> str:
    """Mean and bounds in percent."""
    return with_bounds([100 * v for v in values], names, 1) + " %"


def rankings_table(rows: Rows, datasets: dict[str, str]) -> str:
    """One line a ranking, over all runs; one column a situation and k."""
    columns = list(dict.fromkeys((row["situation"], row["k"]) for row in rows))
    lines = []
    for (ranking,), group in grouped(rows, "ranking").items():
        cells = []
        for column in columns:
            values = [v for row in group if (row["situation"], row["k"]) == column for v in row["recall"]]
            cells.append(f"{100 * mean(values):.1f} %" if values else "-")
        lines.append([ranking, *cells])
    return markdown(["ranking", *(f"{situation}, k = {k}" for situation, k in columns)], lines)


def null_table(rows: Rows, datasets: dict[str, str]) -> str:
    """One line a situation and run, and one over all runs."""
    lines = []
    for (situation,), group in grouped(rows, "situation").items():
        for run, own in [*((run, own) for (run,), own in grouped(group, "run").items()), (ALL, group)]:
            cells = [_claims(own, topic, word) for topic, word in (("ablation", "carried"), ("transplant", "restored"))]
            if situation == "random jitter":  # the most jittered channels are what was damaged: no chance claim
                cells[1] = f"true: {sum(row['transplant'] == 'restored' for row in own)}"
            unfair = [_unfair(own, topic) for topic in ("ablation", "transplant")]
            lines.append([situation, run, str(len(own)), *cells, f"{LEVEL * len(own):.1f}", ", ".join(unfair)])
    claims = ['"carried by"', '"restored"', f"{LEVEL:.0%} of the trials"]
    head = ["nothing is planted in", "run", "trials", *claims, "no fair controls: ablation, transplant"]
    return markdown(head, lines)


def _claims(rows: Rows, topic: str, word: str) -> str:
    hits = sum(row[topic] == word for row in rows)
    low, high = binomial_interval(hits, len(rows))
    return f"{hits} ({100 * low:.1f} to {100 * high:.1f} %)"


def _unfair(rows: Rows, topic: str) -> str:
    return str(sum(abs(row[f"imbalance_{topic}"]) > BALANCED for row in rows))


def parts_table(rows: Rows, datasets: dict[str, str]) -> str:
    """One line a kind of damage, all runs together."""
    lines = []
    for (kind,), group in grouped(rows, "kind").items():
        shares = [row["share"] for row in group if row["share"] is not None]
        met = sum(share >= parts.AIM for share in shares)
        lines.append([
            kind, str(len(shares)), f"{100 * min(shares):.1f} %" if shares else "-", f"{met} of {len(shares)}",
            f"{max(row['unchanged'] for row in group):g}", f"{max(row['gap'] for row in group):.0e}",
        ])  # fmt: skip
    head = [
        "damaged",
        "trials",
        "least share of the loss",
        "at least 95 %",
        "largest share of an unchanged part",
        "gap",
    ]
    return markdown(head, lines)


def coverage_table(rows: Rows, datasets: dict[str, str]) -> str:
    """One line per run, and all of them."""
    lines = []
    for run, own in [*((run, own) for (run,), own in grouped(rows, "run").items()), (ALL, rows)]:
        cells = [run, str(sum(row["all"]["intervals"] for row in own))]
        for images in ("all", "few"):
            total, inside, unseen = (sum(row[images][key] for row in own) for key in ("intervals", "inside", "unseen"))
            cells += [f"{100 * inside / total:.1f} %", f"{100 * unseen / total:.1f} %"]
        for pairs in map(str, coverage.PAIRS):
            errors = [error for row in own for error in row["errors"][pairs]]
            cells += [f"{100 * mean(error <= NORMAL for error in errors):.1f} %" if errors else "-"]
            cells += [f"{max(errors):.1f}" if errors else "-"]
        lines.append(cells)
    head = ["run", "intervals", "all images: hold the truth", "no image shows the part"]
    head += [f"{coverage.DRAWN} images: hold the truth", "no image shows the part"]
    head += [words for n in coverage.PAIRS for words in (f"sampled by {n} pairs: inside", "largest, in errors")]
    return markdown(head, lines)


def verdicts_table(rows: Rows, datasets: dict[str, str]) -> str:
    """One line per run and class, at the last step."""
    lines = []
    for row in rows:
        cells = [row["run"], row["class"], f"{row['from']} → {row['to']}"]
        cells += [
            f"{row['start']:.1f} → {row['fixed']:.1f}",
            f"{row['end']:.1f}",
            row["words"],
            _estimate(row["newly"]),
        ]
        lines.append([*cells, *(_estimate(row["groups"][name]) for name in ("features", "heads", "newer classes"))])
    head = [
        "run", "class", "steps", "IoU, same pixels", "IoU, papers", "verdict", "newly counted", "features", "heads",
        "newer classes",
    ]  # fmt: skip
    return markdown(head, lines)


def _estimate(found: Sequence[float]) -> str:
    points, low, high = found
    return "0" if points == low == high == 0 else f"{points:+.1f} ({low:+.1f} to {high:+.1f})"


TABLES: dict[str, tuple[str, Callable[[Rows, dict[str, str]], str]]] = {
    "conservation": ("conservation", conservation_table),
    "deletion-insertion": ("pixels", deletion_table),
    "deletion-insertion-runs": ("pixels", cases_table),
    "pointing": ("pointing", pointing_table),
    "variants": ("variants", variants_table),
    "randomisation": ("randomisation", randomisation_table),
    "planted": ("planted", planted_table),
    "rankings": ("planted", rankings_table),
    "null": ("null", null_table),
    "parts": ("parts", parts_table),
    "coverage": ("coverage", coverage_table),
    "verdicts": ("verdicts", verdicts_table),
}
"""Name on the page -> check whose rows it shows, and how."""
