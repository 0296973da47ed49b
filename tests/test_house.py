"""The plan of the house: who imports whom. Imports point down, no command imports another, libraries are silent."""

import ast
import sys

import pytest

from .conftest import ROOT

IMPORTS = {  # of our own modules
    "layers": set(),
    "storage": set(),
    "plots": {"storage"},
    "convolution": {"layers"},
    "architecture": {"convolution", "layers"},
    "network": {"architecture", "layers", "storage"},
    "recipe": {"architecture", "data.augment", "layers", "network"},
    "data": {"data.formats", "data.mnist", "data.synthetic"},
    "data.augment": set(),
    "data.formats": {"data.picture", "data.triple"},
    "data.picture": set(),
    "data.triple": set(),
    "data.mnist": {"data.formats", "storage"},
    "data.synthetic": {"data.formats", "storage"},
    "search": {"search.methods", "search.plan", "search.trial"},
    "search.plan": {"network", "recipe"},
    "search.trial": {"network", "recipe"},
    "search.methods": {"recipe", "search.plan", "search.trial", "storage"},
    "search.workers": set(),
    "cli": {"data", "network", "recipe", "storage"},
    "training": {"cli", "convolution", "layers", "network", "plots", "recipe", "storage"},
    "drawing": {"data", "data.picture", "plots", "storage"},
    "data.__main__": {"cli", "data.formats", "data.mnist"},
    "data.convert": {"cli", "data", "data.formats", "data.triple", "storage"},
    "train": {"cli", "data", "network", "recipe", "training"},
    "hp_search": {"cli", "data", "network", "plots", "recipe", "search", "search.workers", "storage", "training"},
    "test": {"cli", "data", "plots", "storage"},
    "predict": {"cli", "data.picture", "drawing", "network", "plots", "storage"},
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
        elif isinstance(node, ast.ImportFrom):  # from data import mnist: that is data.mnist, and data for the rest
            inside = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            yield from (module if module in FILES else node.module for module in inside.values())


@pytest.mark.parametrize("name", FILES)
def test_imports(name):
    found = set(imports(FILES[name]))
    ours = {i for i in found if i in FILES or i.split(".")[0] in {"data", "search"}}
    assert ours == IMPORTS[name]
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
