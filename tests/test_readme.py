"""Every command and every piece of code in README.md works."""

import csv
import re
import shlex
import statistics
import subprocess
import sys
import textwrap

import pytest

from data import formats
from network import Network

from .conftest import ROOT, script

README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))

TEXTS = "\n".join(page.read_text() for page in [ROOT / "README.md", *PAGES])
COMMANDS = [match.groups() for match in re.finditer(r"(?:^|&& )python (\w+)\.py *([^#&\n]*)", TEXTS, re.M)]


@pytest.mark.parametrize("name, arguments", COMMANDS)
def test_the_commands_in_the_readme_are_understood(name, arguments):
    module = script(name)
    arguments = module.parser().parse_args(shlex.split(arguments))
    config = getattr(arguments, "config", None)
    assert config is None or config.exists() or config.parent.name == "best"


def test_the_code_in_the_readme_runs(tmp_path, idx_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step, example = re.findall(r"```python\n(.*?)```", README, re.S)
    assert textwrap.indent(step, 8 * " ") in (ROOT / "network.py").read_text(), "the step is the one in the code"
    monkeypatch.setattr("data.load", lambda *_: (*formats.read(idx_folder, "train"), "tiny"))
    exec(example.replace(":50000", ":500").replace("50000:", "500:"), {})
    assert Network.load(tmp_path / "models/mine.npz").metadata == {"dataset": "tiny"}


def test_the_code_in_docs_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    for page in PAGES:
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
            exec(code, {})


def test_measured_text_is_what_was_measured():
    """Tables and output between marks are those that the programs in tests/bench wrote last, also to their log."""
    blocks = dict(re.findall(r"<!-- ([\w ]+) -->\n(.*?)\n<!-- /\1 -->", TEXTS, re.S))
    logs = {log.stem: log.read_text().rstrip("\n") for log in (ROOT / "tests/bench/log").glob("*.md")}
    assert blocks == logs and all(blocks.values()) and len(blocks) == TEXTS.count("<!-- /")


def test_the_promises_are_those_of_the_last_results():
    code = "from tests import torture; print(torture.promises(torture.read_results()))"  # it changes the environment
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / "tests/bench/log/torture.md").read_text()


def test_every_program_that_writes_into_the_pages_is_run_by_everything():
    text = (ROOT / "tests/bench/everything.py").read_text()
    named = {ROOT / "tests" / name for name in re.findall(r'"([\w/]+\.py)":', text)}
    programs = {*(ROOT / "tests/bench").glob("*.py"), ROOT / "tests/torture.py"}
    writers = {program for program in programs if re.search(r"write_(block|table)\(", program.read_text())}
    assert named == writers - {ROOT / "tests/bench/tables.py"}


def test_the_accuracy_table_is_that_of_its_seeds():
    with (ROOT / "models/final/test_accuracy.csv").open(newline="") as file:
        seeds = {config: [100 * float(accuracy) for accuracy in row if accuracy] for config, *row in csv.reader(file)
                 if config != "recipe"}  # fmt: skip
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([\d.]+) ± ([\d.]+) % \| (\d) \|", README, re.M)
    assert [row[0] for row in rows] == list(seeds)
    for config, mean, std, count in rows:
        assert statistics.mean(seeds[config]) == pytest.approx(float(mean), abs=0.006)
        assert statistics.stdev(seeds[config]) == pytest.approx(float(std), abs=0.006)
        assert len(seeds[config]) == int(count)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target
