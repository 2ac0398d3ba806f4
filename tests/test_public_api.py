"""The names that users import: all there, cheap to import, each with an example that runs."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import occlift

PACKAGES = (
    "occlift",
    "occlift.labels",
    "occlift.losses",
    "occlift.metrics",
    "occlift.models",
    "occlift.scenes",
    "occlift.training",
    "occlift.viz",
)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None, name


def test_public_names_are_those_that_are_loaded_lazily() -> None:
    assert sorted(occlift.__all__) == sorted(occlift._MODULES)
    with pytest.raises(AttributeError, match="no attribute 'labels_from_view'"):
        occlift.labels_from_view  # noqa: B018


def test_import_loads_nothing_heavy() -> None:
    """A stand-in for its time, which depends on the machine: no package outside of the standard library."""
    code = "import sys; before = set(sys.modules); import occlift; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    tops = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert tops == {"occlift"}


@pytest.mark.parametrize("name", [name for name in occlift.__all__ if name != "OCC3D"])
def test_every_public_name_has_an_example_that_runs(name: str, small_town: Path, tmp_path: Path) -> None:
    """Examples may use `town`, the folder of a small data set, and `out`, an empty folder."""
    thing = getattr(occlift, name)
    given = {**vars(sys.modules[thing.__module__]), "town": small_town, "out": tmp_path}
    examples = [test for test in doctest.DocTestFinder(recurse=False).find(thing, name, globs=given) if test.examples]
    assert examples, f"{name}: no example in its docstring"
    for test in examples:
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
        assert result.failed == 0, name
