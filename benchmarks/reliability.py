"""Damage a run's files at random and read them: every outcome is a run, or one sentence.

python benchmarks/reliability.py RUN --mutants 2000 --seed 0
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from lag_core.explain.history import EventLog
from lag_core.explain.survey import SurveyMissing, open_survey
from lag_core.runs import RunError, open_run

LONGEST_SENTENCE = 1500
PIECES = (b"", b"null", b"NaN", b"-1", b"1e999", b'"x"', b"[]", b"{}", b"[" * 300, b'"\\ud800"', b"\x1b[2J", b"9" * 400)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """One to three cuts, swapped bytes or foreign pieces."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(content) + 1)
        end = min(len(content), at + chance.choice((0, 1, 4, 40, 400)))
        content = content[:at] + chance.choice((*PIECES, chance.randbytes(4))) + content[end:]
    return content


def outcome(path: Path) -> str:
    """Read everything that pages read of a run; what came of it."""
    try:
        run = open_run(path)
        sentences = run.faults()
        EventLog(path).read()
        run.events()
        try:
            open_survey(run)
        except SurveyMissing as error:
            sentences.append(str(error))
    except RunError as error:
        sentences = [str(error)]
    except Exception as error:
        return f"unforeseen: {type(error).__name__}: {error}"[:200]
    bad = any(len(one) > LONGEST_SENTENCE or "\x1b" in one or "\n" in one for one in sentences)
    return "a sentence that is none" if bad else "a sentence" if sentences else "read as it is"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--mutants", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, found, slowest = random.Random(options.seed), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(options.run, Path(folder) / "runs" / "run"))
        names = [
            p.name for p in sorted(copy.iterdir()) if p.suffix in (".json", ".jsonl") or p.name[:3] in ("ana", "sur")
        ]
        for _ in range(options.mutants):
            path = copy / chance.choice(names)
            whole = path.read_bytes()
            path.write_bytes(mutated(whole, chance))
            began = time.perf_counter()
            found[outcome(copy)] += 1
            slowest = max(slowest, time.perf_counter() - began)
            path.write_bytes(whole)
    for what, count in found.most_common():
        print(f"{count:6d}  {what}")
    print(f"slowest: {slowest:.2f} s")


if __name__ == "__main__":
    main()
