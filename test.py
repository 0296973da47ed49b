"""Test a trained network on images it was not trained on:  python test.py --model models/two_layer.npz

    models/two_layer.npz: accuracy 0.9865, loss 0.1637
      digit            0       1       2       3       4       5       6       7       8       9
      accuracy    0.9939  0.9938  0.9855  0.9832  0.9847  0.9821  0.9885  0.9815  0.9887  0.9822
    test accuracy 0.9865 (mnist, 10000 images) -> models/two_layer/

train.py and hp_search.py never read the test files. Writes confusion.png, mistakes.png and mistakes.csv into
models/NAME/. With several models, such as those of `train.py --repeat 5`, it also prints mean and standard deviation.
"""

from pathlib import Path

import numpy as np

import data
import storage
from app import cli
from app.models import confusion_matrix, load_digit_classifier
from network import Network

SHOWN = 40  # misclassified images in the figure
COLUMNS = "index predicted real probability probability_of_real".split()  # of the CSV file


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Load the models, read the test images once, print the results of each model, then write its files."""
    arguments = parser().parse_args(argv)
    networks = {path: load_digit_classifier(path) for path in arguments.model}
    for path in networks:
        if path.suffix != ".npz":
            raise storage.StorageError(f"{path} must be renamed to {path.name}.npz: its files go to {path.name}/")
    trained_on = {str(network.metadata.get("dataset", "an unnamed dataset")) for network in networks.values()}
    wanted = arguments.dataset or default_dataset(trained_on)
    images, labels, dataset = data.load(wanted, "test", arguments.data_dir, cli.warn, cli.progress)
    if trained_on != {dataset}:
        names = ", ".join(sorted(trained_on))
        cli.warn(f"WARNING: trained on {names}, but tested on {dataset}: comparable only if both are of one dataset")
    if data.fingerprint(images, labels) in [network.metadata.get("data") for network in networks.values()]:
        cli.warn("WARNING: the model was trained on these images: this is not a held-out test")
    results = {}
    for path, network in networks.items():
        loss, *results[path] = classify(network, images, labels)
        print_scores(path, loss, results[path][0])
    accuracy = cli.format_mean_std([np.trace(matrix) / len(labels) for matrix, *_ in results.values()])
    models = f", {len(networks)} models" if len(networks) > 1 else ""
    where = cli.first_and_last([f"{path.with_suffix('')}/" for path in networks])
    print(f"test accuracy {accuracy} ({dataset}, {len(images)} images{models}) -> {where}")
    for path, result in results.items():
        suffix = "" if networks[path].metadata.get("dataset") == dataset else f"-{dataset}"
        save_files(path.with_suffix(""), suffix, dataset, images, labels, result)
    return 0


def parser() -> cli.Parser:
    """The command line."""
    result = cli.Parser(prog="test.py", description="Test trained networks on images they were not trained on.")
    result.add_argument("--model", type=Path, nargs="+", required=True, help="model files that train.py wrote")
    result.add_argument("--dataset", help="auto, mnist, synthetic, or a path (default: the one it was trained on)")
    result.add_data_dir()
    return result


def default_dataset(trained_on: set[str]) -> str:
    """The dataset to test on if the user names none: the one that the models were trained on."""
    if len(trained_on) > 1:
        raise data.DataError(f"the models were trained on {', '.join(sorted(trained_on))}: choose one with --dataset")
    (name,) = trained_on
    if name not in ("mnist", "synthetic"):
        raise data.DataError(f"the model was trained on {name}: give the test images with --dataset PATH")
    return "auto" if name == "mnist" else name


def classify(network: Network, images: np.ndarray, labels: np.ndarray) -> tuple:
    """The mean loss, the confusion matrix, the indices of the misclassified images, and their probabilities."""
    loss, matrix, wrong, probabilities = 0.0, np.zeros((10, 10), int), [], []
    with cli.progress(text="testing", total=len(images), unit=" images") as bar:
        for batch, logits in network.logits(images):
            real = labels[batch]
            loss += network.loss.forward(logits, real) * len(real) / len(labels)
            chunk = network.probabilities(logits)
            predicted = chunk.argmax(axis=1)
            matrix += confusion_matrix(real, predicted)
            errors = np.flatnonzero(predicted != real)
            wrong.append(batch.start + errors)
            probabilities.append(chunk[errors])
            bar.update(len(real))
    return loss, matrix, np.concatenate(wrong), np.concatenate(probabilities)


def print_scores(path: Path, loss: float, matrix: np.ndarray) -> None:
    """Print the accuracy and the loss of one model, and its accuracy for each digit that occurs."""
    print(f"{path}: accuracy {np.trace(matrix) / matrix.sum():.4f}, loss {loss:.4f}")
    rows = {digit: row for digit, row in enumerate(matrix) if row.any()}
    print("  digit     " + "".join(f"{digit:8d}" for digit in rows))
    print("  accuracy  " + "".join(f"{row[digit] / row.sum():8.4f}" for digit, row in rows.items()))


def save_files(folder: Path, suffix: str, dataset: str, images: np.ndarray, labels: np.ndarray, result: list) -> None:
    """Write the result of `classify` for one model, the misclassified images with the highest confidence first."""
    import plots  # late: matplotlib is slow to import

    matrix, wrong, probabilities = result
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    rows, captions = [], []
    for index, scores in zip(wrong[order], probabilities[order], strict=True):
        real, predicted = labels[index], scores.argmax()
        cells = index, predicted, real, f"{scores[predicted]:.4f}", f"{scores[real]:.4f}"
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
        captions.append(f"#{index}\ntrue {real}, predicted {predicted}\nconfidence {scores[predicted]:.1%}")
    storage.write_csv(folder / f"mistakes{suffix}.csv", COLUMNS, rows)
    title = f"{folder.name} on {dataset}"
    head = f"{title}: accuracy {np.trace(matrix) / len(labels):.4f} ({len(labels):,} images)"
    plots.save(plots.confusion(matrix, head), folder / f"confusion{suffix}.png")
    shown, captions = np.asarray(images)[wrong[order[:SHOWN]]], captions[:SHOWN]
    head = f"{title}: misclassified images, {len(shown)} of {len(wrong)}, highest confidence first"
    plots.save(plots.gallery(shown, captions, head), folder / f"mistakes{suffix}.png")


if __name__ == "__main__":
    cli.exit_process(main())
