"""The ways to search, side by side on the grid of configs/grid.toml. Writes two of the README's tables.

    python tests/bench/search_methods.py

Each winner is trained on all 60,000 images with five seeds, and tested at the end. Takes a quarter of an hour; stopped,
it goes on where it was.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from readme import machine, put

ROOT = Path(__file__).parents[2]
METHODS = {"grid": [], "halving": [], "random": ["--trials", "17"], "coordinate": []}  # random: at the cost of halving
SEEDS = 5
REMARK = (
    "Validation: the best epoch of seed 0. Test: the winner trained on all 60,000 images, five seeds, the last epoch."
)


def run(*command: str | Path) -> str:
    """What a command of the project prints."""
    return subprocess.run([sys.executable, *command], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def main() -> None:
    """Search, train, test, and put the tables into the README."""
    rows = [["method", "trials", "epochs", "training, s", "winner", "validation accuracy", "test accuracy"]]
    for method, flags in METHODS.items():
        out = Path("models/final") / f"search_{method}"
        plan = ["--config", "configs/grid.toml", "--method", method, *flags, "--dataset", "mnist", "--out", out]
        print(run("hp_search.py", *plan).splitlines()[-1], flush=True)
        head, *lines = map(json.loads, (ROOT / out / "search.jsonl").read_text().splitlines())
        best = max(lines, key=lambda line: max(line["validation_accuracy"]))
        run("train.py", "--config", out / "recipe.toml", "--repeat", str(SEEDS), "--resume", "--out", out)
        models = [f"{out}-seed{seed}.npz" for seed in range(SEEDS)]
        result = run("test.py", "--model", *models).splitlines()[-1]
        print(f"{method}: {result}", flush=True)
        mean, deviation = (100 * float(x) for x in re.search(r"(0\.\d+) \+- (0\.\d+)", result).groups())
        rows.append([
            method, str(len({line["id"] for line in lines})), str(sum(line["epochs"] - line["from"] for line in lines)),
            f"{sum(line['seconds'] for line in lines):.0f}", ", ".join(map(text, best["settings"].values())),
            f"{100 * max(best['validation_accuracy']):.2f} %", f"{mean:.2f} ± {deviation:.2f} %",
        ])  # fmt: skip
        if method == "grid":
            tables = by_value(head["search"]["space"], lines)
    put("methods", rows, f"{REMARK} {machine()}.")
    put("grid", tables, "Best validation accuracy (%) of each value, after 10 epochs.")


def by_value(space: dict, lines: list[dict]) -> list[list[str]]:
    """For each hyper-parameter a row with its values and the best validation accuracy of each."""
    width = max(len(axis["values"]) for axis in space.values())
    rows = [["setting", "value: accuracy", *[""] * (width - 1)]]
    for name, axis in space.items():
        best = [
            max(max(line["validation_accuracy"]) for line in lines if line["settings"][name] == value)
            for value in axis["values"]
        ]
        cells = [f"{text(value)}: **{100 * a:.2f}**" for value, a in zip(axis["values"], best, strict=True)]
        rows.append([name.replace("_", "-"), *cells, *[""] * (width - len(cells))])
    return rows


def text(value: list | float) -> str:
    """A setting as people write it."""
    return "-".join(map(str, value)) if isinstance(value, list) else f"{value:g}"


if __name__ == "__main__":
    main()
