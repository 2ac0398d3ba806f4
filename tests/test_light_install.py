"""occlift without its extras: what works then, and what is said where an extra is missing."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import occlift
from occlift.errors import ConfigError
from occlift.runtime.extras import missing_extra, needs_extra

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SOURCE = Path(occlift.__file__).parent
EXTRAS = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
# What the extras bring, as it is imported; also what comes with it and is used here.
OPTIONAL = {
    "huggingface_hub", "imageio_ffmpeg", "lightning", "onnx", "onnxruntime", "onnxscript", "pyarrow",
    "pytorch_lightning", "ray", "safetensors", "tokenizers", "transformers", "viser",
}  # fmt: skip
# Its network, which was loaded before, cannot be there without the package.
CANNOT_BE_MISSING = {"teachers/phrase_segmenter.py"}

WITHOUT_EXTRAS = """
import doctest, importlib, importlib.metadata, json, pkgutil, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OPTIONAL:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
# torchmetrics asks what is installed, and imports that.
installed = importlib.metadata.Distribution.from_name
def from_name(name):
    if name.replace("-", "_") in OPTIONAL:
        raise importlib.metadata.PackageNotFoundError(name)
    return installed(name)
importlib.metadata.Distribution.from_name = from_name

import occlift
from occlift.errors import ConfigError

said = {}
for module in pkgutil.walk_packages(occlift.__path__, "occlift."):
    if module.name != "occlift.__main__":
        try:
            importlib.import_module(module.name)
        except ConfigError as error:
            said[module.name] = str(error)
failed = []
for name in ("BevScore", "DepthScore", "OccupancyScore", "RayScore", "PseudoLoss", "label_from_views", "convert_label"):
    thing = getattr(occlift, name)
    (test,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs=dict(vars(sys.modules[thing.__module__])))
    assert test.examples
    result = doctest.DocTestRunner(verbose=False).run(test)
    failed += [name] if result.failed else []
print(json.dumps([said, failed]))
"""


def test_all_but_training_works_without_extras() -> None:
    code = f"OPTIONAL = {OPTIONAL!r}\n{WITHOUT_EXTRAS}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, failed = json.loads(done.stdout.splitlines()[-1])
    assert failed == []
    assert "occlift.training.loaders" in said
    for module, sentence in said.items():
        assert module.startswith("occlift.training."), module
        assert re.fullmatch(r"training needs lightning, which cannot be imported .*occlift\[train\]'", sentence), module


def _imports(node: ast.AST, guarded: bool = False, inside: bool = False) -> Iterator[tuple[str, bool, bool]]:
    """(package, stands under `needs_extra` or for types only, stands in a function) of every import."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((name.name.partition(".")[0], guarded, inside) for name in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module.partition(".")[0], guarded, inside
        head = ast.unparse(child).partition("\n")[0] if isinstance(child, ast.With | ast.If) else ""
        yield from _imports(
            child,
            guarded or head.startswith("with needs_extra(") or head == "if TYPE_CHECKING:",
            inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef),
        )


def test_whatever_imports_a_package_of_an_extra_names_the_extra_when_it_is_missing() -> None:
    guards = 0
    for path in sorted(SOURCE.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(SOURCE).as_posix()
        for package, guarded, inside in _imports(ast.parse(text)):
            if package in OPTIONAL and not guarded:
                assert inside, f"{name} imports {package} outside of `with needs_extra(...)`"
                assert "missing_extra(" in text or name in CANNOT_BE_MISSING, f"{name}: {package} may be missing"
            guards += guarded and package in OPTIONAL
    assert guards > 10


def test_extras_that_are_named_are_there_and_bring_what_is_asked_for() -> None:
    named = {
        extra
        for path in SOURCE.rglob("*.py")
        for extra in re.findall(r"(?:needs_extra|missing_extra)\(\s*\"(\w+)\"", path.read_text(encoding="utf-8"))
    }
    assert {"train", "teachers", "view"} <= named <= set(EXTRAS)
    brought = {re.split(r"[<>=\[; ]", line)[0].replace("-", "_") for lines in EXTRAS.values() for line in lines}
    assert {"lightning", "transformers", "viser", "imageio_ffmpeg", "pyarrow", "ray", "onnx", "onnxruntime"} <= brought


def test_a_missing_package_is_said_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_extra("view", "a picture", "numpy") is None
    monkeypatch.setitem(sys.modules, "viser", None)
    assert missing_extra("view", "a picture", "numpy", "viser") == "a picture needs viser: pip install 'occlift[view]'"
    said = pytest.raises(ConfigError, match=r"^a picture needs viser, which cannot .*: pip install 'occlift\[view\]'$")
    with said, needs_extra("view", "a picture"):
        import viser  # noqa: F401
