"""Test accuracy of the configs, trained on all 60,000 images: the tables of results and docs/accuracy_time.png.

    python tests/bench/accuracy.py [CONFIG ...]        only these; "none" writes the tables and the figure again

The settings were chosen beforehand, nearly all on validation images (docs/results.md names the exceptions); here the
test images are read, once, by test.py. Models are kept in models/final/ and not trained again; after a stop the same
command continues. Each training takes one core, and there is one on every core (`taskset -c 0` leaves one). The
accuracy of each seed is in models/final/test_accuracy.csv.
"""

import csv
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tables import LOG, ROOT, chosen, machine, mean_std, read_rows, run, start, write_table

import plots
from app import cli
from app.config import Config

SHORT = ["softmax", "two_layer", "two_layer_searched", "three_layer", "mlp", "mlp_batchnorm", "cnn_dilated"]
LONG = ["two_layer_elastic", "deep_elastic", "deep_distilled", "cnn"]
SEEDS, LONG_SEEDS = 5, 3
TEACHER = ["configs/cnn.toml", "--label-smoothing", "0", "--processes", "2"]  # of deep_distilled
HEADLINE = {"two_layer": "", "two_layer_elastic": "`models/best.npz`", "cnn": "`models/cnn.npz`: a former version"}
PUBLISHED = [  # test accuracy of a single network, where it comes from, the config to compare
    ("92.51 %", "softmax regression, Theano's tutorial", "softmax"),
    ("85 %", "784-256-64-10, in public repositories", "three_layer"),
    ("97.0 %", "784-256-128-10, the same", "mlp"),
    ("97.1 to 97.3 %", "784-256-128-10 with batch norm, the same", "mlp_batchnorm"),
    ("98.37 %", "784-1000-10, the same", "two_layer_searched"),
    ("98.4 %", "800 hidden units, cross-entropy, Simard et al. 2003", "two_layer"),
    ("97.0 to 97.6 %", "dilated convolution, in public repositories", "cnn_dilated"),
    ("99.3 %", "800 hidden units, elastic distortion, Simard et al. 2003", "two_layer_elastic"),
    ("99.65 %", "five hidden layers, elastic distortion, Ciresan et al. 2010", "deep_elastic"),
    ("99.6 %", "convolution, elastic distortion, Simard et al. 2003", "cnn"),
]
RIGHT = 7, 0, "left", "center"  # of a point in the figure: where its name stands, in points
LABELS = {
    "softmax": (7, -8, "left", "center"), "three_layer": (-7, 0, "right", "center"), "mlp": (0, -5, "center", "top"),
    "mlp_batchnorm": (0, 8, "center", "bottom"), "two_layer": (6, 3, "left", "bottom"),
    "two_layer_elastic": (-7, 0, "right", "center"), "deep_distilled": (0, 12, "center", "bottom"),
    "cnn": (0, 8, "center", "bottom"),
}  # fmt: skip
LINES = {"softmax", "two_layer", "two_layer_elastic", "deep_elastic", "cnn"}  # configs whose PUBLISHED is in the figure
ACCURACY_CSV = ROOT / "models" / "final" / "test_accuracy.csv"


def train(name: str) -> list[Path]:
    """Train a config with every seed; returns the model files."""
    count = LONG_SEEDS if name in LONG else SEEDS
    models = [ROOT / "models" / "final" / f"{name}-seed{seed}.npz" for seed in range(count)]
    flags = ["--validation", "0", "--dataset", "mnist", "--resume", "--config"]
    commands = [
        ["train.py", *flags, f"configs/{name}.toml", "--seed", str(seed), "--out", model]
        for seed, model in enumerate(models)
    ]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    if teacher := Config.read(ROOT / "configs" / f"{name}.toml", {}).teacher:
        run("train.py", *flags, *TEACHER, "--out", ROOT / teacher, env=environment)
    with ThreadPoolExecutor(cli.cores()) as workers:
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


@plots.styled
def draw(table: dict[str, list[str]]) -> None:
    """Accuracy against the time of training, with published networks as lines. The scale is that of log(error)."""
    figure, (ax,) = plots.new_figure(8.5, 5.2, title="test accuracy (mean and std of the seeds), trained on one core")
    ticks = [90, 95, 98, 99, 99.5, 99.8]
    for name, (_, _, accuracy, _, time) in table.items():
        mean, std = map(float, accuracy.removesuffix(" %").split(" ± "))
        ax.errorbar(float(time), 100 - mean, std, fmt=".", color=plots.BLUE, markersize=9, zorder=3)
        x, y, ha, va = LABELS.get(name, RIGHT)
        label = {"textcoords": "offset points", "ha": ha, "va": va, "color": plots.BLUE, "fontsize": 10}
        ax.annotate(name, (float(time), 100 - mean), (x, y), **label)
    for accuracy, source, config in PUBLISHED:
        if config in LINES:
            error = 100 - float(accuracy.removesuffix(" %"))
            ax.axhline(error, color=plots.ORANGE, linestyle="--", linewidth=1)
            above = config not in ("cnn", "two_layer", "two_layer_elastic")  # there is something else
            style = {"textcoords": "offset points", "va": "bottom" if above else "top", "color": plots.ORANGE}
            place = (0, error), (4, 2 if above else -2)
            ax.annotate(f"{source}: {accuracy}", *place, ax.get_yaxis_transform(), fontsize=9, **style)
    ax.set(xscale="log", yscale="log", xlabel="training time (s)", ylabel="test accuracy (%)", xlim=(0.5, 10_000))
    ax.set_yticks([100 - tick for tick in ticks], ticks)
    ax.set_ylim(12, 0.18)
    ax.yaxis.set_minor_formatter("")
    ax.xaxis.set_major_formatter("{x:,g}")
    plots.save(figure, ROOT / "docs" / "accuracy_time.png")


def main() -> None:
    """Train, test, and write the tables."""
    names = chosen(__doc__, [*SHORT, *LONG, "none"]).names
    header, *old = read_rows("accuracy")
    table = {row[0].strip("`"): row for row in old}
    *_, remark = (LOG / "accuracy.md").read_text().splitlines()
    machines = remark.removesuffix(".").split("; ")  # of the rows without an entry of their own, then of the others
    for name in (name for name in names if name != "none"):
        models = train(name)
        output = run("test.py", "--model", *models)
        print(f"{name}: {output.splitlines()[-1]}", flush=True)
        write_accuracies(name, re.findall(r"^\S+: accuracy (0\.\d+)", output, re.M))
        mean, std = mean_std(output)
        title = Config.read(ROOT / "configs" / f"{name}.toml", {}).title
        time = f"{min(map(seconds, models)):.0f}"
        table[name] = [f"`{name}`", title, f"{mean:.2f} ± {std:.2f} %", str(len(models)), time]
        machines = [each for each in machines if not each.startswith(f"`{name}`: ")]
        machines += [f"`{name}`: {machine()}"] if machine() != machines[0] else []
        write_table("accuracy", [header, *(table[n] for n in [*SHORT, *LONG] if n in table)], f"{'; '.join(machines)}.")
    rows = [[*table[n][:3], table[n][4], shipped] for n, shipped in HEADLINE.items() if n in table]
    write_table("headline", [["config", "network", "test accuracy", "seconds", "shipped as"], *rows])
    rows = [[source, accuracy, table[n][2], f"`{n}`"] for accuracy, source, n in PUBLISHED if n in table]
    write_table("published", [["published network", "published", "here", "config"], *rows])
    draw(table)


if __name__ == "__main__":
    start(main)
