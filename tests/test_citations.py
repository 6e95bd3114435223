"""Citations of the method lead to sections that exist, and its papers are in the bibliography."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT

METHOD = ROOT / "docs" / "method.md"
FOLDERS = ("lag_core", "dashboard", "benchmarks", "tests", "docs", "configs")
ENDINGS = {".py", ".md", ".toml", ".ipynb", ".js"}
FOREIGN = ("METHOD" + ".md", "DESIGN" + ".md")
"""Documents that the repository does not have."""


def texts() -> Iterator[tuple[Path, str]]:
    paths = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.suffix in ENDINGS]
    for path in [*paths, ROOT / "README.md"]:
        yield path, path.read_text("utf-8")


def anchors() -> list[str]:
    return re.findall(r'<a id="([\w-]+)"></a>', METHOD.read_text("utf-8"))


def test_nothing_cites_a_document_that_is_not_here() -> None:
    found = [f"{path}: {name}" for path, text in texts() for name in FOREIGN if name in text]
    assert found == []


def test_each_citation_of_the_method_leads_to_a_section() -> None:
    known, cited = set(anchors()), 0
    for path, text in texts():
        for line in re.findall(r".*method\.md#.*", text):
            for anchor in re.findall(r"(?<=#)[a-z][a-z-]*[a-z]", line[line.index("method.md#") :]):
                cited += 1
                assert anchor in known, f"{path}: docs/method.md has no section #{anchor}: {line.strip()}"
    assert cited >= 60


def test_each_anchor_stands_once_before_a_heading() -> None:
    assert len(anchors()) == len(set(anchors()))
    text = METHOD.read_text("utf-8")
    assert re.findall(r'<a id="([\w-]+)"></a>\n\n## .', text) == anchors()
    assert len(re.findall("^## ", text, re.MULTILINE)) == len(anchors()), "a section without an anchor"


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name)
def test_each_relative_link_leads_to_a_file(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path}: {target}"


def test_each_paper_of_the_method_is_in_the_bibliography() -> None:
    known = set(re.findall(r"eprint\s*=\s*\{([\d.]+)\}", (ROOT / "docs" / "references.bib").read_text("utf-8")))
    cited = set(re.findall(r"\b(\d{4}\.\d{5})\b", METHOD.read_text("utf-8")))
    assert cited and cited <= known


def test_the_citation_file_names_the_version_and_the_paper() -> None:
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"version: {project['version']}\n" in text and f"license: {project['license']}\n" in text
    assert "arXiv:2407.15429" in text and "Learning at a Glance" in text
