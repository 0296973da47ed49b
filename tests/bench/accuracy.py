"""Test accuracy of the recipes, trained on all 60,000 images. Writes their rows of the README's table.

    python tests/bench/accuracy.py [recipe ...]

The settings were chosen on validation images beforehand; the test images are read once, by test.py, at the end. Models
are kept in models/final/ and not trained again; stopped, the same command goes on. What each seed came to is in
models/final/test_accuracy.csv.
"""

import csv
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from readme import machine, put, rows

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from recipe import Recipe  # noqa: E402

RECIPES = ["softmax", "two_layer", "two_layer_searched", "three_layer", "mlp", "mlp_batchnorm", "cnn_dilated"]
LONG = ["two_layer_elastic", "deep_elastic", "cnn"]  # two at a time, each on one BLAS thread, which takes less time
SEEDS, LONG_SEEDS = 5, 3
EACH = ROOT / "models" / "final" / "test_accuracy.csv"


def run(*command: str | Path, **environment: str) -> str:
    """What a command of the project prints."""
    command, environment = [sys.executable, *command], os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout


def train(name: str) -> list[Path]:
    """Train a recipe with every seed; returns the model files."""
    seeds = range(LONG_SEEDS if name in LONG else SEEDS)
    models = [ROOT / "models" / "final" / f"{name}-seed{seed}.npz" for seed in seeds]
    flags = ["--config", f"configs/{name}.toml", "--validation", "0", "--dataset", "mnist", "--resume"]
    commands = (
        ["train.py", *flags, "--seed", str(seed), "--out", out] for seed, out in zip(seeds, models, strict=True)
    )
    environment = {"OPENBLAS_NUM_THREADS": "1"} if name in LONG else {}
    with ThreadPoolExecutor(2 if name in LONG else 1) as workers:
        list(workers.map(lambda command: run(*command, **environment), commands))
    return models


def seconds(model: Path) -> float:
    """How long its training took. (Other work on the machine makes some take longer: the fastest one tells most.)"""
    with (model.with_suffix("") / "history.csv").open() as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def note_down(name: str, accuracies: list[str]) -> None:
    """Put what each seed of a recipe came to into the file with all of them."""
    table: dict[str, list[str]] = {}
    if EACH.exists():
        with EACH.open(newline="") as file:
            table = {recipe: each for recipe, *each in list(csv.reader(file))[1:]}
    table[name] = accuracies
    with EACH.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["recipe", *(f"seed {seed}" for seed in range(SEEDS))])
        writer.writerows([recipe, *table[recipe]] for recipe in [*RECIPES, *LONG] if recipe in table)


def main() -> None:
    """Train, test, and put the table into the README."""
    unknown = {*sys.argv[1:]} - {*RECIPES, *LONG}
    if unknown:
        sys.exit(f"no row for {', '.join(sorted(unknown))}: there are {', '.join([*RECIPES, *LONG])}")
    head, *old = rows("accuracy")
    table = {row[0].strip("`"): row for row in old}
    for name in sys.argv[1:] or [*RECIPES, *LONG]:
        models = train(name)
        *each, result = run("test.py", "--model", *models).splitlines()
        note_down(name, re.findall(r"^\S+: accuracy (0\.\d+)", "\n".join(each), re.M))
        print(f"{name}: {result}", flush=True)
        mean, deviation = (100 * float(text) for text in re.search(r"(0\.\d+) \+- (0\.\d+)", result).groups())
        network = Recipe.read(ROOT / "configs" / f"{name}.toml", {}).title
        command = f"python train.py --config configs/{name}.toml --validation 0 --repeat {len(models)}"
        command = f"`{'OPENBLAS_NUM_THREADS=1 ' * (name in LONG)}{command}`"
        time = f"{min(map(seconds, models)):.0f}"
        table[name] = [f"`{name}`", network, f"{mean:.2f} ± {deviation:.2f} %", str(len(models)), time, command]
        put("accuracy", [head, *(table[name] for name in [*RECIPES, *LONG] if name in table)], f"{machine()}.")


if __name__ == "__main__":
    main()
