"""Classify the digits in photos, scans or drawings:  python predict.py digits/

    photo           digit  probability  runner-up  probability
    digits/me.jpg       7       0.9981          1       0.0012
    digits/you.png      4       0.5120          9       0.4410  unsure
    2 photos: 2 read, 1 of them unsure (models/best.npz)

One digit per photo, in any size, colour, lighting and polarity. --show FILE.png saves a figure of what the network saw;
--draw opens a window to draw a digit in. With --labels the true label is taken from the folder (0/ to 9/), else from
the first character of the file name, and the accuracy is printed.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import storage
from app import cli
from app.models import SHIPPED, confusion_matrix, load_digit_classifier
from data import photo
from network import Network

# Predictions with a lower probability are called unsure. On photos of 16 kinds, made of validation images, half of the
# predictions below it were right, and 99.9 % of those above it (tests/bench/photos.py --split train --count 1000).
CONFIDENCE_THRESHOLD = 0.9
SHOWN = 24  # photos in the figure of --show
MAX_NAME_WIDTH = 60  # characters of a file's name in the table
TITLES = ["digit", "probability", "runner-up", "probability"]  # of the table
COLUMNS = "file digit probability runner_up runner_up_probability unsure real error".split()  # of the CSV file
PNG_SOFTWARE = "predict.py --show"
OWN_HEADERS = {".csv": ",".join(COLUMNS).encode(), ".png": PNG_SOFTWARE.encode()}  # mark the files of earlier runs


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Classify each photo, print its row, then write the files that were asked for."""
    arguments = parse_arguments(argv)
    network = load_digit_classifier(arguments.model)
    if arguments.draw:
        from app import drawing  # late: matplotlib is slow to import

        drawing.open_window(lambda image: network.predict_proba(image[None])[0])
        return 0
    results = classify_files(network, find_files(arguments.paths, arguments.show), arguments)
    if arguments.json:
        print("[" + ",\n ".join(json.dumps(result) for result in results) + "]")
    else:
        print_summary(results, arguments.labels, arguments.model)
    if arguments.csv:
        storage.write_csv(arguments.csv, COLUMNS, results)
    if arguments.show:
        save_figure(results, arguments.show)
    return 1 if any("error" in result for result in results) else 0


def parser() -> cli.Parser:
    """The command line."""
    result = cli.Parser(prog="predict.py", description="Classify the digits in photos, scans or drawings.")
    result.add_argument("paths", type=Path, nargs="*", metavar="PATH", help="photos, and folders of photos")
    result.add_argument("--model", type=Path, default=SHIPPED[0], help="a model file (models/best.npz)")
    result.add_argument("--labels", action="store_true", help="print the accuracy; folder or file names are labels")
    result.add_argument("--csv", type=Path, metavar="FILE", help="write the predictions to a CSV file")
    result.add_argument("--json", action="store_true", help="print the predictions as JSON, with all ten probabilities")
    result.add_argument("--show", type=Path, metavar="FILE", help=f"save what the network saw (first {SHOWN}) as PNG")
    result.add_argument("--draw", action="store_true", help="open a window to draw a digit with the mouse")
    return result


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The arguments. Only files of earlier runs may be overwritten: with `--show *.png` a shell may name a photo."""
    arguments = parser().parse_args(argv)
    if arguments.draw == bool(arguments.paths):
        parser().error("give photos or folders, or --draw")
    for path, suffix in (arguments.csv, ".csv"), (arguments.show, ".png"):
        if path and path.suffix.lower() != suffix:
            parser().error(f"{path} must end in {suffix}")
        if path and path.exists() and not (path.is_file() and OWN_HEADERS[suffix] in path.read_bytes()[:1000]):
            parser().error(f"{path} exists and is not from an earlier run: choose another name")
        if path and os.path.realpath(path) in map(os.path.realpath, arguments.paths):
            parser().error(f"{path} cannot be both input and output")
    return arguments


def find_files(paths: list[Path], figure: Path | None) -> dict[Path, str]:
    """All photos at these paths, as in `find_photos`, without the figure of an earlier run."""
    with cli.progress_bar(None, "looking for photos", " files") as bar:
        found = (item for path in paths for item in find_photos(path, bar.update))
        return {f: error for f, error in found if not figure or os.path.realpath(f) != os.path.realpath(figure)}


def find_photos(path: Path, count: Callable[[int], object]) -> Iterator[tuple[Path, str]]:
    """The photos at a path, each with the error if it cannot be opened, or "".

    A path that is not a folder is a photo. In a folder and its subfolders, everything with an image suffix is one,
    even a folder, so that it is reported and not ignored. `count` is called with the number of files in each folder.
    """
    try:
        if not path.is_dir():
            yield path, ""
            return
    except OSError as error:
        yield path, f"cannot be opened: {error.strerror}"
        return
    errors, found = [], False
    for folder, subfolders, names in photo.walk(path, errors.append):
        count(len(names))
        for name in sorted([*names, *subfolders]):
            if Path(name).suffix.lower() in photo.SUFFIXES and not name.startswith("."):
                found = True
                yield Path(folder, name), ""
    for error in errors:
        yield Path(error.filename), f"cannot be opened: {error.strerror}"
    if not found and not errors:
        yield path, f"contains no photos: their names must end in {', '.join(photo.SUFFIXES)}"


def classify_files(network: Network, files: dict[Path, str], arguments: argparse.Namespace) -> list[dict]:
    """The result of each file, see `classify`; prints the table and the errors."""
    width = min(max(len(cli.printable(str(file))) for file in ["photo", *files]), MAX_NAME_WIDTH)
    if not arguments.json:
        print(f"{'photo':{width}}  {'  '.join(TITLES)}")
    results = []
    for file, error in cli.progress(files.items(), "classifying photos"):
        result = {"file": str(file), "error": error} if error else classify(network, file, arguments.labels)
        if "error" in result:
            cli.warn(f"{file} {result['error']}")
        elif not arguments.json:
            cli.print_row(format_result(result, width))
        results.append(result)
    return results


def classify(network: Network, file: Path, labels: bool) -> dict:
    """The prediction for one photo, with its true label if `labels`; or the error."""
    try:
        image = photo.digit(file)
        real = {"real": true_label(file)} if labels else {}
    except photo.PhotoError as error:
        return {"file": str(file), "error": str(error)}
    probabilities = network.predict_proba(image[None])[0]
    second, first = np.argsort(probabilities, kind="stable")[-2:].tolist()
    return {
        "file": str(file),
        "digit": first,
        "probability": round(float(probabilities[first]), 6),
        "runner_up": second,
        "runner_up_probability": round(float(probabilities[second]), 6),
        "unsure": bool(probabilities[first] < CONFIDENCE_THRESHOLD),
        **real,
        "probabilities": [round(float(p), 6) for p in probabilities],
    }


def true_label(file: Path) -> int:
    """The digit that names the file's folder, else the first character of the file's name. PhotoError."""
    for text in file.absolute().parent.name, file.name[:1]:
        if text in list("0123456789"):
            return int(text)
    raise photo.PhotoError("has no label: put it into a folder 0 to 9, or start its name with the digit")


def format_result(result: dict, width: int) -> str:
    """A row of the table; `width` is that of the file's name."""
    name = cli.printable(result["file"])
    if len(name) > width:
        name = f"...{name[3 - width :]}"
    cells = [result["digit"], f"{result['probability']:.4f}"]
    cells += [result["runner_up"], f"{result['runner_up_probability']:.4f}"]
    remarks = ["unsure"] if result["unsure"] else []
    if result.get("real", result["digit"]) != result["digit"]:
        remarks.append(f"wrong: it is {result['real']}")
    return f"{name:{width}}  {cli.format_row(cells, [*map(len, TITLES)])}  {', '.join(remarks)}".rstrip()


def print_summary(results: list[dict], labels: bool, model: Path) -> None:
    """Print how many photos could be read; with labels also the confusion matrix and the accuracy."""
    read = [result for result in results if "error" not in result]
    if labels and read:
        real, predicted = (np.array([result[key] for result in read]) for key in ("real", "digit"))
        widths = [len(r"true \ predicted"), *[4] * 10]
        print(cli.format_row([r"true \ predicted", *range(10)], widths))
        for digit, row in enumerate(confusion_matrix(real, predicted)):
            print(cli.format_row([digit, *(count or "." for count in row)], widths))
        right = np.count_nonzero(real == predicted)
        print(f"accuracy {right / len(read):.4f} ({right} of {len(read)} photos)")
    unsure, plural = sum(result["unsure"] for result in read), "" if len(results) == 1 else "s"
    print(f"{len(results):,} photo{plural}: {len(read):,} read, {unsure:,} of them unsure ({model})")


def save_figure(results: list[dict], path: Path) -> None:
    """Save a figure of the first photos: the photo, the network's input, and the probabilities."""
    import plots  # late: matplotlib is slow to import

    shown = []
    for result in [result for result in results if "error" not in result][:SHOWN]:
        file = Path(result["file"])
        with contextlib.suppress(photo.PhotoError):  # it was removed in the meantime
            shown.append((file.name, photo.thumbnail(file), photo.digit(file), result["probabilities"]))
    if shown:
        plots.save(plots.predictions(shown), path, PNG_SOFTWARE)


if __name__ == "__main__":
    sys.exit(main())
