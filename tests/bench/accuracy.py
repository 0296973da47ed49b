"""Test accuracy of the recipes: five seeds each, trained on all 60,000 images. Writes their rows of the README's table.

    python tests/bench/accuracy.py [recipe ...]

The settings were chosen on validation images beforehand; the test images are read once, by test.py, at the end.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

from readme import machine, put, rows

ROOT = Path(__file__).parents[2]
RECIPES = ["softmax", "two_layer", "three_layer", "mlp", "mlp_batchnorm", "cnn_dilated", "best"]
SEEDS = 5


def run(*command: str | Path) -> str:
    """What a command of the project prints."""
    return subprocess.run([sys.executable, *command], cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout


def main() -> None:
    """Train, test, and put the table into the README."""
    head, *old = rows("accuracy")
    table = {row[0].strip("`"): row for row in old}
    for name in sys.argv[1:] or RECIPES:
        out = f"models/final/{name}.npz"
        recipe = "models/best/recipe.toml" if name == "best" else f"configs/{name}.toml"
        flags = f"--config {recipe} --validation 0 --repeat {SEEDS}"
        start = time.perf_counter()
        printed = run("train.py", *flags.split(), "--dataset", "mnist", "--out", out)
        seconds = (time.perf_counter() - start) / SEEDS
        models = sorted((ROOT / "models" / "final").glob(f"{name}-seed*.npz"))
        result = run("test.py", "--model", *models).splitlines()[-1]
        print(f"{name}: {result}", flush=True)
        mean, deviation = re.search(r"(0\.\d+) \+- (0\.\d+)", result).groups()
        network = re.search(r": (.*), [\d,]+ parameters", printed)[1]
        score = f"{100 * float(mean):.2f} ± {100 * float(deviation):.2f} %"
        table[name] = [f"`{name}`", network, score, f"{seconds:.0f}", f"`python train.py {flags}`"]
        put(
            "accuracy",
            [head, *(table[name] for name in RECIPES if name in table)],
            f"Seeds 0 to {SEEDS - 1}; {machine()}.",
        )


if __name__ == "__main__":
    main()
