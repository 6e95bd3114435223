"""The README says what is the case: its Python runs, and prints what stands below it."""

from __future__ import annotations

import re
import subprocess
import sys

from repository import ROOT


def test_the_five_lines_print_what_the_readme_says():
    blocks = re.findall(r"```(\w*)\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    at = next(i for i, (language, _) in enumerate(blocks) if language == "python")
    done = subprocess.run([sys.executable, "-c", blocks[at][1]], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout == blocks[at + 1][1]
