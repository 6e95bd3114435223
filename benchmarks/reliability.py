"""Damage what a stranger may hand us, and read it: every outcome is a result, or one sentence.

    python benchmarks/reliability.py RUN --mutants 10000 --seed 0
    python benchmarks/reliability.py RUN --kinds addresses --mutants 300

Kinds: `files` of a run, then everything that pages read of one; `configurations`, TOML texts that training is asked to
take; `uploads`, pictures in four formats; `choices`, values of an address as the app checks them; `addresses`, whole
addresses opened in the real server, each by a session of its own (a second or more each; never part of `--kinds all`).

Counted besides: what took more than 20 s, the largest memory, and every file opened outside the folder at hand (the
interpreter's own and the library's files apart).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from PIL import Image

from lag_core import config as configuration
from lag_core import reading
from lag_core.config import ConfigError
from lag_core.data.pictures import DataError, read_small
from lag_core.explain.history import EventLog
from lag_core.explain.survey import SurveyMissing, open_survey
from lag_core.runs import RunError, open_run

ROOT = Path(__file__).resolve().parents[1]
LONGEST_SENTENCE = 1500
PATIENCE = 20
"""Seconds until reading counts as hanging."""
PROGRESS = 250
"""Mutants between two lines on the way (standard error): a measurement that is cut short has said what it saw."""
PIECES = (b"", b"null", b"NaN", b"-1", b"1e999", b'"x"', b"[]", b"{}", b"[" * 300, b'"\\ud800"', b"\x1b[2J", b"9" * 400)
KINDS = ("files", "configurations", "uploads", "choices")
VALUES = (
    "", "..", "../../etc/passwd", "/etc/passwd", "\x00", "\x1b[2J", "NaN", "-1", "1e999", "9" * 400, "a" * 5000,
    "<script>alert(1)</script>", "\u202e", "𝟙", "1.5", "run/../run", "%00", "🙂", "'; --",
)  # fmt: skip
KEYS = ("run", "image", "class", "step", "since", "channel", "without", "root", "against", "data", "page", "x")
PAGES = ("start", "overview", "steps", "forgetting", "channels", "relevance", "prototypes", "training", "why", "report")

Outcome = Callable[[], str]


class Hangs(Exception):
    """Reading took more than `PATIENCE` seconds."""


class Opened:
    """Files opened outside a folder while `within` it."""

    def __init__(self) -> None:
        libraries = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), str(ROOT), "/proc", "/sys", "/usr"}
        self._own = tuple(os.path.realpath(one) for one in libraries)
        self._folder: str | None = None
        self.outside: Counter[str] = Counter()
        sys.addaudithook(self._hook)

    @contextmanager
    def within(self, folder: Path) -> Iterator[None]:
        self._folder = os.path.realpath(folder)
        try:
            yield
        finally:
            self._folder = None

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or self._folder is None or not isinstance(arguments[0], str | bytes):
            return
        path, self_folder = os.path.realpath(os.fsdecode(arguments[0])), self._folder
        if not path.startswith((self_folder, *self._own)):
            self.outside[path] += 1


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
    return verdict(sentences)


def verdict(sentences: list[str]) -> str:
    """What was said, in a word."""
    bad = any(len(one) > LONGEST_SENTENCE or "\x1b" in one or "\n" in one for one in sentences)
    return "a sentence that is none" if bad else "a sentence" if sentences else "read as it is"


def files(run: Path, folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """A run with one damaged file."""
    copy = Path(shutil.copytree(run, folder / "runs" / "run"))
    names = [p.name for p in sorted(copy.iterdir()) if p.suffix in (".json", ".jsonl") or p.name[:3] in ("ana", "sur")]
    while True:
        path = copy / chance.choice(names)
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, chance))
        yield lambda: outcome(copy)
        path.write_bytes(whole)


def configurations(run: Path, folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """A damaged TOML file, laid over a method's preset and checked."""
    texts = [path.read_bytes() for path in sorted((ROOT / "configs").glob("*.toml"))]

    def checked(path: Path) -> str:
        try:
            configuration.resolve(configuration.load(path))
        except ConfigError as error:
            return verdict([str(error)])
        return verdict([])

    path = folder / "config.toml"
    while True:
        path.write_bytes(mutated(chance.choice(texts), chance))
        yield lambda: checked(path)


def uploads(run: Path, folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """A damaged picture, as the app takes an upload."""
    whole = []
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8))
    for form in ("PNG", "JPEG", "WEBP", "TIFF"):
        pixels.save(buffer := io.BytesIO(), form)
        whole.append(buffer.getvalue())

    def looked_at(content: bytes) -> str:
        try:
            read_small(content)
        except DataError as error:
            return verdict([str(error)])
        return verdict([])

    while True:
        content = mutated(chance.choice(whole), chance)
        yield partial(looked_at, content)


def query(chance: random.Random) -> dict[str, str]:
    """Keys and values of a hostile address."""
    return {chance.choice(KEYS): _value(chance) for _ in range(chance.randint(1, 5))}


def _value(chance: random.Random) -> str:
    drawn = chance.choice((*VALUES, str(chance.randint(-5, 900))))
    return drawn if chance.random() < 0.7 else mutated(drawn.encode(), chance).decode("utf-8", "replace")


def choices(run: Path, folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """A value of an address, as the app checks it against what there is."""
    sys.path.insert(0, str(ROOT))  # before the benchmark that is called dashboard, too
    from dashboard.state import selection

    allowed = [path.name for path in run.parent.iterdir()]

    def chosen(raw: str) -> str:
        texts = [selection.one_of(raw, allowed, "", "run")[1], selection.number(raw, 0, 3, 1, "x")[1]]
        texts.append(selection.whole(raw, 0, 3, 1, "step")[1])
        return verdict([one for one in texts if one])

    while True:
        raw = _value(chance)
        yield partial(chosen, raw)


def addresses(run: Path, count: int, chance: random.Random) -> dict[str, Any]:
    """Open hostile addresses in the real server."""
    from streamlit_client import Client
    from streamlit_server import served

    found, slowest = Counter[str](), 0.0
    with served(run.parent, 1) as server:
        for _ in range(count):
            page, asked = chance.choice(PAGES), urlencode(query(chance))
            began = time.perf_counter()
            try:
                with Client(server.url) as client:
                    client.open("start")
                    client.open(page, asked)
                found["answered"] += 1
            except Exception as error:  # it is what this looks for
                found[f"{page}?{asked}: {type(error).__name__}: {error}"[:300]] += 1
            slowest = max(slowest, time.perf_counter() - began)
        errors, memory = server.errors(), server.rss_mb()
    return {
        "found": dict(found),
        "slowest_s": round(slowest, 2),
        "server_errors": errors[:20],
        "server_mb": round(memory),
    }


def _too_long(signum: int, frame: object) -> None:
    raise Hangs


def tried(read: Outcome) -> str:
    """What came of it; never raises."""
    signal.alarm(PATIENCE)
    try:
        return read()
    except Hangs:
        return f"hangs for more than {PATIENCE} s"
    except Exception as error:
        return f"unforeseen: {type(error).__name__}: {error}"[:200]
    finally:
        signal.alarm(0)


def measure(kind: str, run: Path, count: int, seed: int, opened: Opened) -> dict[str, Any]:
    make = {"files": files, "configurations": configurations, "uploads": uploads, "choices": choices}[kind]
    found, slowest = Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        mutants = make(run, Path(folder), random.Random(seed))
        for done in range(count):
            if done and done % PROGRESS == 0:
                print(f"{kind}: {done} of {count}, {json.dumps(dict(found))}", file=sys.stderr, flush=True)
            read = next(mutants)
            began = time.perf_counter()
            with opened.within(Path(folder)):
                found[tried(read)] += 1
            slowest = max(slowest, time.perf_counter() - began)
    return {"found": dict(found.most_common()), "slowest_s": round(slowest, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=(*KINDS, "addresses"))
    parser.add_argument("--mutants", type=int, default=2000, help="in all; each kind has its part")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, _too_long)
    reading.read_bytes(options.run / "run.json", reading.JSON)  # a wrong name is said before work starts
    opened, results = Opened(), {}
    for kind in options.kinds:
        count = options.mutants // len(options.kinds)
        if kind == "addresses":
            results[kind] = addresses(options.run, count, random.Random(options.seed))
        else:
            results[kind] = measure(kind, options.run, count, options.seed, opened)
        print(f"{kind}: {json.dumps(results[kind])}", flush=True)
    print(f"opened outside: {json.dumps(dict(opened.outside.most_common(10)))}")
    print(f"largest memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB")
    clean = {"a sentence", "read as it is", "answered"}
    bad = [what for one in results.values() for what in one["found"] if what not in clean]
    raise SystemExit(f"{len(bad)} kinds of unforeseen outcomes" if bad or opened.outside else 0)


if __name__ == "__main__":
    main()
