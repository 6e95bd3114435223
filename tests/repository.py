"""Where the repository lies, for tests that read its files or start its programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_script(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of tests/ in a process of its own.

    Its folder comes first among the places for imports, and has folders called as the packages are: so the packages'
    own place is named.
    """
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, env=variables)
