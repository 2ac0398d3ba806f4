"""What the repository says about itself: each fact once, and links that lead somewhere."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from test_public_api import PACKAGES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOW = (REPOSITORY / ".github/workflows/ci.yml").read_text(encoding="utf-8")
TEXTS = sorted(
    path
    for pattern in ("*.md", "*.yml", "*.cff", ".github/**/*.yml", ".github/*.md", "docs/**/*.md", "experiments/*.md")
    for path in REPOSITORY.glob(pattern)
)


def test_the_address_of_the_repository_is_the_same_everywhere() -> None:
    home = PROJECT["urls"]["Homepage"]
    for path in TEXTS:
        for url in re.findall(r"https://github\.com/[\w.-]*/occlift", path.read_text(encoding="utf-8")):
            assert url == home, path
    assert all(url.startswith(home) for url in PROJECT["urls"].values())


@pytest.mark.parametrize("path", [path for path in TEXTS if path.suffix == ".md"], ids=lambda path: path.name)
def test_links_between_files_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s#]+)", path.read_text(encoding="utf-8")):
        if not link.startswith(("http://", "https://", "mailto:")):
            assert (path.parent / link).exists(), link


def test_the_workflow_runs_what_decides_whether_a_change_lands() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    (matrix,) = re.findall(r"target: \[(.*)\]", WORKFLOW)
    called = {*matrix.split(", "), *re.findall(r"run: make ([a-z-]+)", WORKFLOW)}
    deciding = set(re.findall(r"^step make ([a-z-]+)", (REPOSITORY / ".ci/run").read_text(), flags=re.MULTILINE))
    assert {"check", "test"} <= deciding <= called <= targets


def test_pythons_that_are_promised_are_those_that_are_tested() -> None:
    (matrix,) = re.findall(r"python: \[(.*)\]", WORKFLOW)
    tested = re.findall(r"3\.\d+", matrix)
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert tested == promised
    assert PROJECT["requires-python"] == f">={tested[0]}"


def test_files_that_contributing_names_are_there() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|docs|examples|\.ci|\.github)/[\w./]+|[\w.]+\.(?:toml|txt|md))`", text)
    here = [name for name in named if "NAME" not in name and "/" in name]
    assert len(here) > 12
    for name in here:
        assert (REPOSITORY / name).exists(), name


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_on_the_pages_of_the_api(package: str) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "docs/api").glob("*.md"))
    shown = set(re.findall(r"^::: [\w.]*\.(\w+)$", pages, flags=re.MULTILINE))
    assert set(importlib.import_module(package).__all__) - shown == set()
