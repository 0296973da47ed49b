"""The plan of the house: who may import whom. Imports point down, no command imports another, libraries are silent."""

import ast
import sys

import pytest

from .conftest import ROOT

MAY_IMPORT = {  # of our own modules
    "layers": set(),
    "storage": set(),
    "plots": {"storage"},
    "convolution": {"layers"},
    "architecture": {"convolution", "layers"},
    "network": {"architecture", "layers", "storage"},
    "recipe": {"architecture", "data.augment", "layers", "network"},
    "data": {"data", "data.formats"},
    "data.augment": set(),
    "data.formats": {"data"},
    "data.picture": set(),
    "data.triple": set(),
    "data.mnist": {"data", "data.formats", "storage"},
    "data.synthetic": {"storage"},
    "search": {"search.methods", "search.plan", "search.trial"},
    "search.plan": {"network", "recipe"},
    "search.trial": {"network", "recipe"},
    "search.methods": {"recipe", "search.plan", "search.trial", "storage"},
    "search.workers": set(),
    "cli": {"data", "network", "recipe", "storage"},
    "training": {"cli", "network", "plots", "recipe", "storage"},
    "drawing": {"data", "plots", "storage"},
    "data.__main__": {"cli", "data"},
    "data.convert": {"cli", "data", "storage"},
    "train": {"cli", "data", "network", "recipe", "training"},
    "hp_search": {"cli", "data", "network", "plots", "recipe", "search", "storage", "training"},
    "test": {"cli", "data", "plots", "storage"},
    "predict": {"cli", "data", "drawing", "network", "plots", "storage"},
}
COMMANDS = {"train", "test", "hp_search", "predict", "data.__main__", "data.convert"}
FOREIGN = {
    "layers": {"numpy"},
    "network": {"numpy"},
    "storage": {"numpy"},
    "plots": {"numpy", "matplotlib"},
    "search.workers": {"numpy", "distributed"},
}
RUNTIME = {"numpy", "tqdm", "matplotlib", "PIL"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


FILES = {
    module_name(p): p for p in [*ROOT.glob("*.py"), *(ROOT / "data").glob("*.py"), *(ROOT / "search").glob("*.py")]
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("name", FILES)
def test_imports(name):
    found = set(imports(FILES[name]))
    ours = {i for i in found if i in FILES or i.split(".")[0] in {"data", "search"}}
    assert ours <= MAY_IMPORT[name]
    foreign = {i.split(".")[0] for i in found - ours} - set(sys.stdlib_module_names)
    assert foreign <= FOREIGN.get(name, RUNTIME)


@pytest.mark.parametrize("name", sorted(set(FILES) - COMMANDS - {"cli", "training"}))
def test_libraries_are_silent(name):
    calls = {
        n.func.id
        for n in ast.walk(ast.parse(FILES[name].read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert not calls & {"print", "input", "exit"}
