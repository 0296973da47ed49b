"""Test accuracy of the configs, trained on all 60,000 images. Writes the tables of results in README.md.

    python tests/bench/accuracy.py [CONFIG ...]

The settings were chosen on validation images beforehand; the test images are read once, by test.py, at the end. Models
are kept in models/final/ and not trained again; after a stop the same command continues. The accuracy of each seed is
in models/final/test_accuracy.csv.
"""

import csv
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tables import ROOT, machine, mean_std, read_rows, run, write_table

sys.path.insert(0, str(ROOT))

from app.config import Config

SHORT = ["softmax", "two_layer", "two_layer_searched", "three_layer", "mlp", "mlp_batchnorm", "cnn_dilated"]
LONG = ["two_layer_elastic", "deep_elastic", "cnn"]  # two at a time, each on one BLAS thread: this takes less time
SEEDS, LONG_SEEDS = 5, 3
HEADLINE = {"two_layer": "", "two_layer_elastic": "`models/best.npz`", "cnn": "`models/cnn.npz`"}
ACCURACY_CSV = ROOT / "models" / "final" / "test_accuracy.csv"


def train(name: str) -> list[Path]:
    """Train a config with every seed; returns the model files."""
    seeds = range(LONG_SEEDS if name in LONG else SEEDS)
    models = [ROOT / "models" / "final" / f"{name}-seed{seed}.npz" for seed in seeds]
    flags = ["--config", f"configs/{name}.toml", "--validation", "0", "--dataset", "mnist", "--resume"]
    commands = (
        ["train.py", *flags, "--seed", str(seed), "--out", out] for seed, out in zip(seeds, models, strict=True)
    )
    environment = os.environ | ({"OPENBLAS_NUM_THREADS": "1"} if name in LONG else {})
    with ThreadPoolExecutor(2 if name in LONG else 1) as workers:
        list(workers.map(lambda command: run(*command, env=environment), commands))
    return models


def seconds(model: Path) -> float:
    """How long its training took. (Other work on the machine slows some runs down: the fastest tells most.)"""
    with (model.with_suffix("") / "history.csv").open() as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def write_accuracies(name: str, accuracies: list[str]) -> None:
    """Put the accuracy of each seed of a config into the CSV file."""
    table: dict[str, list[str]] = {}
    if ACCURACY_CSV.exists():
        with ACCURACY_CSV.open(newline="") as file:
            table = {config: each for config, *each in list(csv.reader(file))[1:]}
    table[name] = accuracies
    with ACCURACY_CSV.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["recipe", *(f"seed {seed}" for seed in range(SEEDS))])
        writer.writerows([config, *table[config]] for config in [*SHORT, *LONG] if config in table)


def main() -> None:
    """Train, test, and write the tables."""
    unknown = {*sys.argv[1:]} - {*SHORT, *LONG}
    if unknown:
        sys.exit(f"no row for {', '.join(sorted(unknown))}: there are {', '.join([*SHORT, *LONG])}")
    header, *old = read_rows("accuracy")
    table = {row[0].strip("`"): row for row in old}
    for name in sys.argv[1:] or [*SHORT, *LONG]:
        models = train(name)
        output = run("test.py", "--model", *models)
        print(f"{name}: {output.splitlines()[-1]}", flush=True)
        write_accuracies(name, re.findall(r"^\S+: accuracy (0\.\d+)", output, re.M))
        mean, std = mean_std(output)
        title = Config.read(ROOT / "configs" / f"{name}.toml", {}).title
        time = f"{min(map(seconds, models)):.0f}"
        table[name] = [f"`{name}`", title, f"{mean:.2f} ± {std:.2f} %", str(len(models)), time]
        write_table("accuracy", [header, *(table[n] for n in [*SHORT, *LONG] if n in table)], f"{machine()}.")
        rows = [[*table[n][:3], table[n][4], shipped] for n, shipped in HEADLINE.items() if n in table]
        write_table("headline", [["config", "network", "test accuracy", "seconds", "shipped as"], *rows])


if __name__ == "__main__":
    main()
