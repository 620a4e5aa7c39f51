"""Imports point down: what is below knows nothing of what is above it (docs/design.md)."""

from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import lexalcm

LAYERS = (
    ("__main__",),
    ("cli",),
    ("evaluate", "verify"),
    ("pages",),
    ("train",),
    ("generate",),
    ("objective",),
    ("model",),
    ("diffusion",),
    ("data",),
    ("codec",),
    ("distributed", "text"),
    ("io",),
)
"""Packages from top to bottom; those of one layer do not know each other. The modules beside them are below all."""

WHEN_CALLED = {"lexalcm.generate.text", "lexalcm.model.storage.folder"}
"""What `LCM.generate`, and `LCM.from_pretrained` and `save_pretrained`, import when they are called."""


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    made = grimp.build_graph("lexalcm", exclude_type_checking_imports=True, cache_dir=None)
    for imported in WHEN_CALLED & made.find_modules_directly_imported_by("lexalcm.model.lcm"):
        made.remove_import(importer="lexalcm.model.lcm", imported=imported)
    return made


def layer(module: str) -> tuple[int, str]:
    """How far up a module is, and its package: 0 and nothing for those beside the packages."""
    _, name, *_ = f"{module}..".split(".")
    number = next((place for place, names in enumerate(LAYERS) if name in names), None)
    return (0, "") if number is None else (len(LAYERS) - number, name)


def test_imports_point_down(graph: grimp.ImportGraph) -> None:
    wrong = [
        f"{module} imports {imported}"
        for module in sorted(graph.modules)
        for imported in sorted(graph.find_modules_directly_imported_by(module))
        if layer(module)[1] != layer(imported)[1] and layer(module)[0] <= layer(imported)[0]
    ]
    assert wrong == []


def test_every_package_has_its_layer(graph: grimp.ImportGraph) -> None:
    packages = {module.split(".")[1] for module in graph.modules if module.count(".") > 1}
    assert packages <= {name for names in LAYERS for name in names}


def test_no_modules_import_each_other(graph: grimp.ImportGraph) -> None:
    """Also not by way of others: a circle is told with all that are in it."""
    TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()


def test_the_registries_import_nothing_of_what_they_list(graph: grimp.ImportGraph) -> None:
    assert graph.find_upstream_modules("lexalcm.registries") <= {
        *("lexalcm", "lexalcm.errors", "lexalcm.registry", "lexalcm.registries")
    }


def test_no_package_is_crowded() -> None:
    """At most twelve modules beside each other, but for the commands and the pages, which are lists."""
    root = Path(lexalcm.__file__).parent
    folders = [root, *(folder for folder in root.rglob("*") if (folder / "__init__.py").is_file())]
    counts = {str(one.relative_to(root)): len({*one.glob("*.py")} - {one / "__init__.py"}) for one in folders}
    assert {name: count for name, count in counts.items() if count > 12 and name not in ("cli", "pages")} == {}
