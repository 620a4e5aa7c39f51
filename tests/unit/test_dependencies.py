"""What the package imports is what it says that it needs."""

import ast
import re
import sys
from collections import defaultdict
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(requirements: list[str]) -> set[str]:
    return {_normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}


def _imported(folder: str) -> dict[str, set[str]]:
    """Top-level modules from outside, and the files that import them."""
    found = defaultdict(set)
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_extra", "import_module"):
                modules = [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
            for module in modules:
                found[module.partition(".")[0]].add(str(file.relative_to(ROOT)))
    return {name: files for name, files in found.items() if name not in sys.stdlib_module_names}


def test_every_import_is_declared() -> None:
    """Optional parts in an extra of their own; those of the tests do not count."""
    extras = {name: _names(texts) for name, texts in PROJECT["optional-dependencies"].items()}
    declared = _names(PROJECT["dependencies"]).union(*(extras[name] for name in extras if name not in ("test", "lint")))
    distributions = packages_distributions()
    undeclared = {
        module: sorted(files)
        for module, files in _imported("lexalcm").items()
        if module not in ("lexalcm", "sonar")  # sonar-space is installed apart
        and not declared & {_normal(name) for name in distributions.get(module, [module])}
    }
    assert not undeclared


def test_every_dependency_is_imported() -> None:
    """A dependency that nothing imports any more is gone."""
    modules = _imported("lexalcm")
    imported = {_normal(name) for module in modules for name in packages_distributions().get(module, [module])}
    assert _names(PROJECT["dependencies"]) - imported == {"tensorboard"}  # torch.utils.tensorboard imports it
