"""Test a trained network on digits it has never seen:  python test.py --model models/two_layer.npz

    test accuracy 0.9853 (mnist, 10000 images)

The only command that reads the test files. Writes confusion.png, mistakes.png and mistakes.csv into models/NAME/. With
several models, say those of `train.py --repeat 5`, it also tells their mean and standard deviation.
"""

import statistics
import sys
from pathlib import Path

import numpy as np

import cli
import data
import storage
from network import Network

SHOWN = 40  # mistakes in the picture


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Load the models, read the test images once, say how each model did on them."""
    arguments = parser().parse_args(argv)
    networks = {path: Network.load(path) for path in arguments.model}
    trained_on = {network.about.get("dataset", "unknown data") for network in networks.values()}
    wanted = arguments.dataset
    if wanted == "auto":
        if len(trained_on) > 1:
            raise data.DataError(f"the models were trained on {', '.join(sorted(trained_on))}: say --dataset")
        (name,) = trained_on
        wanted = {"mnist": "auto", "synthetic": "synthetic"}.get(name)
        if wanted is None:
            raise data.DataError(f"the model was trained on {name}: say with --dataset PATH where to find its images")
    images, labels, dataset = data.load(wanted, "test", arguments.data_dir, cli.note, cli.bar)
    if trained_on != {dataset}:
        cli.note(f"WARNING: trained on {', '.join(sorted(trained_on))}, tested on {dataset}")
    accuracies = [examine(path, network, images, labels, dataset) for path, network in networks.items()]
    if len(accuracies) > 1:
        mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
        print(f"test accuracy {mean:.4f} +- {deviation:.4f} ({dataset}, {len(images)} images, {len(networks)} models)")
    else:
        print(f"test accuracy {accuracies[0]:.4f} ({dataset}, {len(images)} images)")
    return 0


def parser() -> cli.Parser:
    """The command line."""
    result = cli.Parser(prog="test.py", description="Test trained networks on digits they have never seen.")
    result.add_argument("--model", type=Path, nargs="+", required=True, help="model files that train.py wrote")
    result.add_argument(
        "--dataset", default="auto", help="mnist, synthetic, or a path to IDX or npz files (what it was trained on)"
    )
    cli.add_data_dir(result)
    return result


def examine(path: Path, network: Network, images: np.ndarray, labels: np.ndarray, dataset: str) -> float:
    """Print what one model gets right and wrong, draw it, return its accuracy."""
    scores = network.evaluate(images, labels)
    predicted = network.predict(images)
    counts = np.zeros((10, 10), np.int64)  # row: real digit, column: predicted
    np.add.at(counts, (labels, predicted), 1)
    print(f"{path}: accuracy {scores['accuracy']:.4f}, loss {scores['loss']:.4f}")
    present = counts.sum(axis=1) > 0
    print("  digit     " + "".join(f"{digit:8d}" for digit in range(10) if present[digit]))
    print("  accuracy  " + "".join(f"{row[d] / row.sum():8.4f}" for d, row in enumerate(counts) if present[d]))
    draw(path.with_suffix(""), images, labels, predicted, network.predict_proba(images), counts, dataset)
    return scores["accuracy"]


def draw(
    folder: Path,
    images: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    counts: np.ndarray,
    dataset: str,
) -> None:
    """Write the confusion matrix and the mistakes, the most confident one first."""
    import plots  # late, because matplotlib takes its time

    wrong = np.flatnonzero(predicted != labels)
    sure = probabilities[wrong, predicted[wrong]]
    wrong = wrong[np.argsort(-sure, kind="stable")]
    rows = [(i, predicted[i], labels[i], probabilities[i, predicted[i]], probabilities[i, labels[i]]) for i in wrong]
    with storage.replace(folder / "mistakes.csv") as file:
        file.write(b"index,predicted,real,probability,probability_of_real\n")
        file.writelines(b"%d,%d,%d,%.6f,%.6f\n" % row for row in rows)
    title = f"{folder.name} on {dataset}"
    right = 1 - len(wrong) / len(images)
    plots.save(
        plots.confusion(counts, f"{title}: {100 * right:.2f}% of {len(images):,} right"), folder / "confusion.png"
    )
    captions = [f"#{i}\n{p}, not {real}\n{100 * sure:.0f}% sure" for i, p, real, sure, _ in rows[:SHOWN]]
    head = f"{title}: the {len(captions)} most confident of {len(wrong)} mistakes"
    plots.save(plots.gallery(images[wrong[:SHOWN]], captions, head), folder / "mistakes.png")


if __name__ == "__main__":
    sys.exit(main())
