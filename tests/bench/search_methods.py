"""The search methods side by side on the grid of configs/grid.toml. Writes two tables of docs/search.md.

    python tests/bench/search_methods.py

Each winner is trained on all 60,000 images with five seeds, and tested at the end. This takes a quarter of an hour;
after a stop the same command continues.
"""

import argparse
import json
from pathlib import Path

from tables import ROOT, machine, mean_std, run, start, write_table

from search.space import format_value

METHODS = {"grid": [], "halving": [], "random": ["--trials", "17"], "coordinate": []}  # random: the cost of halving
SEEDS = 5
REMARK = (
    "Validation: the best epoch of seed 0. Test: the winner trained on all 60,000 images, five seeds, the last epoch."
)


def main() -> None:
    """Search, train, test, and write the tables."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = [["method", "trials", "epochs", "training, s", "winner", "validation accuracy", "test accuracy"]]
    for method, flags in METHODS.items():
        out = Path("models/final") / f"search_{method}"
        config = ["--config", "configs/grid.toml", "--method", method, *flags, "--dataset", "mnist", "--out", out]
        print(run("hp_search.py", *config).splitlines()[-1], flush=True)
        head, *results = map(json.loads, (ROOT / out / "search.jsonl").read_text().splitlines())
        longest = max(result["epochs"] for result in results)
        best = max((r for r in results if r["epochs"] == longest), key=lambda r: max(r["validation_accuracy"]))
        run("train.py", "--config", out / "config.toml", "--repeat", str(SEEDS), "--resume", "--out", out)
        models = [f"{out}-seed{seed}.npz" for seed in range(SEEDS)]
        output = run("test.py", "--model", *models)
        print(f"{method}: {output.splitlines()[-1]}", flush=True)
        mean, std = mean_std(output)
        rows.append([
            method, str(len({r["id"] for r in results})), str(sum(r["epochs"] for r in results)),
            f"{sum(r['seconds'] for r in results):.0f}", ", ".join(map(format_value, best["settings"].values())),
            f"{100 * max(best['validation_accuracy']):.2f} %", f"{mean:.2f} ± {std:.2f} %",
        ])  # fmt: skip
        if method == "grid":
            values = best_by_value(head["search"]["space"], results)
    write_table("methods", rows, f"{REMARK} {machine()}.")
    write_table("grid", values, "Best validation accuracy (%) of each value, after 10 epochs.")


def best_by_value(space: dict, results: list[dict]) -> list[list[str]]:
    """For each hyper-parameter a row with its values and the best validation accuracy of each."""
    width = max(len(dimension["values"]) for dimension in space.values())
    rows = [["setting", "value: accuracy", *[""] * (width - 1)]]
    for name, dimension in space.items():
        best = [
            max(max(r["validation_accuracy"]) for r in results if r["settings"][name] == value)
            for value in dimension["values"]
        ]
        cells = [
            f"{format_value(value)}: **{100 * a:.2f}**" for value, a in zip(dimension["values"], best, strict=True)
        ]
        rows.append([name.replace("_", "-"), *cells, *[""] * (width - len(cells))])
    return rows


if __name__ == "__main__":
    start(main)
