"""The structure of the project: imports point down, libraries are silent, only test.py opens the test files."""

import ast
import graphlib
import os
import subprocess
import sys

import pytest

from .conftest import ROOT

FLOORS = [  # from the lowest: a module imports from lower floors and from its own package
    {"storage", "app.cli"},
    {"nn"},
    {"network", "plots", "data"},
    {"app.config"},
    {"app.models", "app.drawing"},
    {"app.training"},
    {"search"},
    {"train", "test", "hp_search", "predict", "data.__main__", "data.convert"},
]
COMMANDS = FLOORS[-1]
PRINTING = COMMANDS | {"plots", "app.cli", "app.training", "search.report"}
RUNTIME = {"numpy", "tqdm", "matplotlib", "PIL"}
FOREIGN = {  # what else, or what less, a module may import
    "nn": {"numpy"},
    "network": {"numpy"},
    "storage": {"numpy"},
    "plots": {"numpy", "matplotlib"},
    "search.workers": {"numpy", "distributed"},
}
FOLDERS = [ROOT, *(ROOT / name for name in ("nn", "app", "data", "search"))]


def module_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def added_by_user():
    """The files that Git does not track, such as a student's own script; none, if this is no checkout."""
    command = ["git", "ls-files", "--others", "*.py"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return set()
    return {ROOT / name for name in names}


ADDED = added_by_user()
FILES = {module_name(path): path for folder in FOLDERS for path in folder.glob("*.py") if path not in ADDED}


def imports(path):
    """The modules that a file imports; `from data import mnist` is data.mnist, and data for other names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inside = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            yield from (module if module in FILES else node.module for module in inside.values())


OWN_IMPORTS = {name: {module for module in imports(path) if module in FILES} for name, path in FILES.items()}


def room(name):
    """The entry of FLOORS that a module belongs to: itself or its package."""
    rooms = set().union(*FLOORS)
    return name if name in rooms else name.partition(".")[0]


def floor(name):
    return next((level for level, rooms in enumerate(FLOORS) if room(name) in rooms), 0)


def test_seven_files_at_the_top():
    assert {name for name, path in FILES.items() if path.parent == ROOT} == {
        "network", "train", "test", "hp_search", "predict", "plots", "storage"}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_imports_point_down(name):
    for other in OWN_IMPORTS[name]:
        assert floor(other) < floor(name) or room(other) == room(name), f"{name} imports {other}"
        assert other not in COMMANDS, "no script imports a script"
    if floor(name) < FLOORS.index({"app.config"}) and name != "plots":  # which is a command too
        assert not any(other.startswith("app") for other in OWN_IMPORTS[name]), "a library needs nothing of app"


def test_no_import_runs_in_a_circle():
    graphlib.TopologicalSorter(OWN_IMPORTS).prepare()


@pytest.mark.parametrize("name", FILES)
def test_foreign_imports(name):
    foreign = {module.split(".")[0] for module in set(imports(FILES[name])) - set(OWN_IMPORTS[name])}
    foreign -= set(sys.stdlib_module_names) | {"nn", "app", "data", "search"}
    assert foreign <= FOREIGN.get(name, FOREIGN.get(room(name), RUNTIME))


@pytest.mark.parametrize("name", sorted(set(FILES) - PRINTING))
def test_libraries_are_silent(name):
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(FILES[name].read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"print", "input", "exit"}


@pytest.mark.slow
def test_only_test_opens_the_test_files(tmp_path, idx_folder):
    """An audit hook in every process, workers too, tells of every test file that is opened."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def hook(event, args):\n"
        "    if event == 'open' and 't10k' in str(args[0]):\n"
        "        os.write(1, b'OPENED')\n"
        "sys.addaudithook(hook)\n"
    )

    def watched(script, *arguments):
        command = [sys.executable, ROOT / script, *arguments, "--dataset", idx_folder]
        environment = {**os.environ, "PYTHONPATH": str(hook)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    settings = ["--epochs", "1", "--validation", "50", "--out"]
    for command in (["train.py", *settings, "m"], ["hp_search.py", "--trials", "2", *settings, "best"]):
        result = watched(*command)
        assert "validation accuracy" in result.stdout and "OPENED" not in result.stdout, result.stderr
    assert "OPENED" in watched("test.py", "--model", "m.npz").stdout, "the hook sees such files"
    code = "import os, search.workers\nif __name__ == '__main__':\n    from pathlib import Path\n"
    code += "    with search.workers.local_pool(1, [], Path('shared')) as submit:\n"
    code += "        submit(os.open, 't10k', os.O_RDONLY | os.O_CREAT).result()\n"
    (tmp_path / "peek.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": f"{hook}{os.pathsep}{ROOT}"}
    peek = subprocess.run([sys.executable, "peek.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "OPENED" in peek.stdout, "in workers too"
