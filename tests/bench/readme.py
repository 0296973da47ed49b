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


def put(name: str, rows: list[list[str]], remark: str) -> None:
    """Replace what stands between the marks of `name` by a table (its first row is the head) and a remark."""
    table = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    text = "\n".join("| " + " | ".join(row) + " |" for row in table)
    block = f"<!-- {name} -->\n{text}\n\n{remark}\n<!-- /{name} -->"
    readme = README.read_text()
    README.write_text(re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _: block, readme, flags=re.S))
