"""Test a trained network on digits it has never seen:  python test.py --model models/two_layer.npz

    models/two_layer.npz: accuracy 0.9841, loss 0.0505
      digit            0       1       2       3       4       5       6       7       8       9
      accuracy    0.9939  0.9912  0.9806  0.9842  0.9827  0.9798  0.9812  0.9825  0.9815  0.9822
    test accuracy 0.9841 (mnist, 10000 images)

No command that trains or chooses reads the test files. Writes confusion.png, mistakes.png and mistakes.csv into
models/NAME/. With several models, say those of `train.py --repeat 5`, it also tells their mean and standard deviation.
"""

import statistics
import sys
from pathlib import Path

import numpy as np

import cli
import data
import storage

SHOWN = 40  # mistakes in the picture


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Load the models, read the test images once, say how each model did on them, then draw."""
    arguments = parser().parse_args(argv)
    networks = {path: cli.model(path) for path in arguments.model}
    for path in networks:
        if path.suffix != ".npz":
            raise storage.StorageError(f"{path} should be named {path.name}.npz: its pictures go to {path.name}/")
    trained_on = {str(network.about.get("dataset", "data it does not name")) for network in networks.values()}
    wanted = arguments.dataset or choose(trained_on)
    images, labels, dataset = data.load(wanted, "test", cli.folder(arguments.data_dir), cli.note, cli.bar)
    if trained_on != {dataset}:
        cli.note(
            f"WARNING: trained on {', '.join(sorted(trained_on))}, but tested on {dataset}: not a figure for either"
        )
    if data.fingerprint(images, labels) in {network.about.get("data") for network in networks.values()}:
        cli.note("WARNING: these are the very images it was trained on: this is no test")
    predicted = {path: network.predict(images) for path, network in networks.items()}
    for path, network in networks.items():
        report(path, network.evaluate(images, labels), labels, predicted[path])
    accuracies = [(answers == labels).mean() for answers in predicted.values()]
    if len(accuracies) > 1:
        mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
        print(f"test accuracy {mean:.4f} +- {deviation:.4f} ({dataset}, {len(images)} images, {len(networks)} models)")
    else:
        print(f"test accuracy {accuracies[0]:.4f} ({dataset}, {len(images)} images)")
    for path, network in networks.items():
        suffix = "" if trained_on == {dataset} else f"-{dataset}"
        draw(path.with_suffix(""), suffix, images, labels, predicted[path], network.predict_proba(images), dataset)
    return 0


def parser() -> cli.Parser:
    """The command line."""
    result = cli.Parser(prog="test.py", description="Test trained networks on digits they have never seen.")
    result.add_argument("--model", type=Path, nargs="+", required=True, help="model files that train.py wrote")
    result.add_argument("--dataset", help="auto, mnist, synthetic, or a path (what the model was trained on)")
    result.add_argument("--data-dir", help="folder with MNIST's files ($MNIST_DIR, else data/raw)")
    return result


def choose(trained_on: set[str]) -> str:
    """What to test on if nobody says so: what the models were trained on."""
    if len(trained_on) > 1:
        raise data.DataError(f"the models were trained on {', '.join(sorted(trained_on))}: say --dataset")
    (name,) = trained_on
    if name not in ("mnist", "synthetic"):
        raise data.DataError(f"the model was trained on {name}: say with --dataset PATH where to find its images")
    return {"mnist": "auto"}.get(name, name)


def count(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The confusion matrix: how often digit i (row) was taken for digit j (column)."""
    counts = np.zeros((10, 10), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def report(path: Path, scores: dict[str, float], labels: np.ndarray, predicted: np.ndarray) -> None:
    """Print how one model did, digit by digit."""
    print(f"{path}: accuracy {scores['accuracy']:.4f}, loss {scores['loss']:.4f}")
    rows = {digit: row for digit, row in enumerate(count(labels, predicted)) if row.any()}
    print("  digit     " + "".join(f"{digit:8d}" for digit in rows))
    print("  accuracy  " + "".join(f"{row[digit] / row.sum():8.4f}" for digit, row in rows.items()))


def draw(
    folder: Path,
    suffix: str,
    images: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    dataset: str,
) -> None:
    """Write the confusion matrix and the mistakes, the most confident one first."""
    import plots  # late, because matplotlib takes its time

    wrong = np.flatnonzero(predicted != labels)
    sure = probabilities[wrong, predicted[wrong]]
    wrong = wrong[np.argsort(-sure, kind="stable")]
    rows = [(i, predicted[i], labels[i], probabilities[i, predicted[i]], probabilities[i, labels[i]]) for i in wrong]
    with storage.replace(folder / f"mistakes{suffix}.csv") as file:
        file.write(b"index,predicted,real,probability,probability_of_real\n")
        file.writelines(b"%d,%d,%d,%.6f,%.6f\n" % row for row in rows)
    title = f"{folder.name} on {dataset}"
    head = f"{title}: {100 * (1 - len(wrong) / len(images)):.2f}% of {len(images):,} right"
    plots.save(plots.confusion(count(labels, predicted), head), folder / f"confusion{suffix}.png")
    captions = [f"#{i}\n{p}, not {real}\n{100 * sure:.1f}% sure" for i, p, real, sure, _ in rows[:SHOWN]]
    which = f"the {SHOWN} most confident of {len(wrong)} mistakes"
    if len(wrong) <= SHOWN:
        which = f"all {len(wrong)} mistakes, the most confident first"
    head = f"{title}: {which}"
    plots.save(plots.gallery(images[wrong[:SHOWN]], captions, head), folder / f"mistakes{suffix}.png")


if __name__ == "__main__":
    sys.exit(main())
