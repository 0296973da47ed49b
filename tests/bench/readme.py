"""Put a measured table into the README, so that no figure there is typed by hand."""

import platform
import re
from pathlib import Path

import numpy as np

README = Path(__file__).parents[2] / "README.md"


def machine() -> str:
    """One line about what the figures were measured on."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*:\s*(.+)$", info.read_text() if info.exists() else "", re.M)
    cores = f"{len(models)} cores of {models[0]}" if models else platform.machine()
    return f"{cores}, {platform.system()}, Python {platform.python_version()}, NumPy {np.__version__}"


def rows(name: str) -> list[list[str]]:
    """The rows of the table between the marks of `name`, the head first."""
    block = re.search(rf"<!-- {name} -->(.*)<!-- /{name} -->", README.read_text(), re.S)[1]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line[:1] == "|"]
    return [row for i, row in enumerate(found) if i != 1]


def put(name: str, table: list[list[str]], remark: str) -> None:
    """Replace what stands between the marks of `name` by a table (its first row is the head) and a remark."""
    lines = [table[0], ["---"] * len(table[0]), *table[1:]]
    text = "\n".join("| " + " | ".join(row) + " |" for row in lines)
    block = f"<!-- {name} -->\n{text}\n\n{remark}\n<!-- /{name} -->"
    readme = README.read_text()
    README.write_text(re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _: block, readme, flags=re.S))
