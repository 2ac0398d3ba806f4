"""Rules of docs/conventions.md that can be read off the source."""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
MODULES = sorted(SOURCE.rglob("*.py"))
TRANSFORM = re.compile(r"^_?(?P<to>[a-z]\w*?)_from_(?P<source>[a-z]\w*)$")


def _frames(node: ast.expr) -> tuple[str, str] | None:
    """(destination, source) of an expression whose name says so; a call has the frames of what is called."""
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "inverse" and len(node.args) == 1:
            inner = _frames(node.args[0])
            return (inner[1], inner[0]) if inner else None
        return _frames(node.func)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
        left, right = _frames(node.left), _frames(node.right)
        return (left[0], right[1]) if left and right else None
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    match = TRANSFORM.match(name)
    return (match["to"], match["source"]) if match else None


def broken_chains(code: str) -> list[str]:
    """Products of transforms, and assignments of such products, whose frames do not fit."""
    broken = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            left, right = _frames(node.left), _frames(node.right)
            if left and right and left[1] != right[0]:
                broken.append(f"line {node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.value, ast.BinOp | ast.Call):
            to, value = _frames(node.targets[0]), _frames(node.value)
            is_transform = isinstance(node.value, ast.BinOp) or ast.unparse(node.value).startswith("inverse(")
            if to and value and is_transform and to != value:
                broken.append(f"line {node.lineno}: {ast.unparse(node)}")
    return broken


def test_the_check_finds_products_that_do_not_chain() -> None:
    assert not broken_chains("global_from_camera = frame.global_from_ego @ inverse(camera_from_ego)")
    assert broken_chains("x = global_from_ego @ camera_from_ego")
    assert broken_chains("ego_from_camera = global_from_ego @ ego_from_camera")
    assert broken_chains("ego_from_global = inverse(ego_from_global)")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_transforms_chain_by_equal_inner_words(path: Path) -> None:
    assert not broken_chains(path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_module_says_what_it_is_and_none_hard_codes_a_device(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"
    calls = [
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    assert "cuda" not in calls


def test_one_data_set_is_named_by_its_adapter_only() -> None:
    """Class lists and commands may say whose classes and whose data they are."""
    may = ("occlift/datasets/", "occlift/cli/", "occlift/label_space/")
    others = [path for path in MODULES if not path.relative_to(SOURCE).as_posix().startswith(may)]
    assert len(others) > 150
    assert not [path for path in others if "nuscenes" in path.read_text(encoding="utf-8").lower()]


def test_kernels_are_compiled_again_when_what_they_call_changes() -> None:
    """numba's cache would go on with the old traversal: it looks at a kernel's own file only."""
    traversal = SOURCE / "occlift/geometry/traversal.py"
    digest = hashlib.sha256(traversal.read_bytes()).hexdigest()[:12]
    callers = [path for path in MODULES if "from occlift.geometry.traversal import" in path.read_text(encoding="utf-8")]
    assert len(callers) >= 3
    for path in callers:
        found = re.search(r"^# Of traversal\.py, .*: (\w+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert found, f"{path}: does not name the digest of traversal.py ({digest})"
        assert found[1] == digest, f"{path}: names {found[1]} as the digest of traversal.py; write {digest}"
