"""The rules of the house: layers, module sizes, the public names, and what an import may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import contpeft

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
LIMIT = 400
HEAVY = {"datasets", "lightning", "matplotlib", "peft", "sklearn", "torch", "transformers"}


def test_no_module_is_longer_than_the_limit() -> None:
    modules = [
        path
        for folder in ("contpeft", "tests", "benchmarks", "examples")
        for path in (ROOT / folder).rglob("*.py")
    ]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules}
    assert {"contpeft/errors.py", "tests/test_house.py"} <= lengths.keys()
    assert {name: n for name, n in lengths.items() if n > LIMIT} == {}


def test_tests_share_only_helpers() -> None:
    """Test files of one name in two folders are one module to whoever imports it by name."""
    paths = list((ROOT / "tests").rglob("*.py"))
    tests = {path.stem for path in paths if path.stem.startswith("test_")}
    helpers = [path.stem for path in paths if path.stem not in tests | {"conftest"}]
    assert len(helpers) == len(set(helpers))
    imported = {
        f"{path.name} imports {node.module}"
        for path in paths
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module in tests
    }
    assert imported == set()


def test_rooms_import_only_the_rooms_below_them() -> None:
    checked = subprocess.run(
        [BIN / "lint-imports", "--no-logo", "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_public_names_are_sorted_and_unique() -> None:
    assert contpeft.__all__ == sorted(set(contpeft.__all__))
    assert dir(contpeft) == contpeft.__all__


@pytest.mark.parametrize("name", contpeft.__all__)
def test_public_name_resolves(name: str) -> None:
    value = getattr(contpeft, name)
    assert name == "__version__" or value.__name__ == name


def test_unknown_public_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'contpeft' has no attribute 'AdapterStor'"):
        contpeft.AdapterStor  # noqa: B018


@pytest.mark.parametrize("module", ["contpeft", "contpeft.spec", "contpeft.store", "contpeft.cli"])
def test_import_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert HEAVY & set(loaded.split()) == set()
