"""Classify the digits in photos, scans or drawings:  python predict.py digits/

    photo             digits        probability  runner-up  probability
    digits/me.jpg     7                  0.9981          1       0.0012
    digits/phone.png  20 / 47            0.9113                          1 of 4 unsure
    digits/you.png    4                  0.5120          9       0.4410  unsure
    3 photos: 3 read, 6 digits, 2 of them unsure (models/best.npz)

One or several digits per photo, of any size and colour, in any light, dark on light or light on dark. Of several it
prints the digits in reading order, rows divided by " / ", and the lowest probability. --draw opens a window to draw in.
"""

import argparse
import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import storage
from app import cli
from app.models import SHIPPED, confusion_matrix, load_digit_classifier
from data import photo, segment
from network import Network

# A prediction is called unsure if p1 / (p1 + p2) is lower; p1 and p2 are the two largest probabilities. The higher one
# is for digits that may be two that touch, or cut off by the border. How often each kind is right: docs/photos.md.
SHARE_THRESHOLD, WIDE_THRESHOLD = 0.9, 0.99
SHOWN = 24  # photos in the figure of --show
MAX_NAME_WIDTH = 60  # characters of a file's name in the table
TITLES = ["probability", "runner-up", "probability"]  # of the table, after the photo and its digits
READING_WIDTH = 12  # characters for the digits
BOX = "left top right bottom".split()  # fractions of the photo's width and height
COLUMNS = ["file", "digit", "probability", "runner_up", "runner_up_probability", "unsure", "real", "error", "row", *BOX]
PNG_SOFTWARE = "predict.py --show"
OWN_HEADERS = {".csv": ",".join(COLUMNS).encode(), ".png": PNG_SOFTWARE.encode()}  # how files of earlier runs begin


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Classify the digits of each photo, print their row, then write the files that were asked for."""
    arguments = parse_arguments(argv)
    network = load_digit_classifier(arguments.model)
    if arguments.draw:
        from app import drawing  # late: matplotlib is slow to import

        drawing.open_window(network.predict_proba)
        return 0
    for file in filter(None, (arguments.csv, arguments.show)):
        storage.try_write(file)
    results = classify_files(network, find_files(arguments.paths, arguments.show), arguments)
    if arguments.json:
        print("[" + ",\n ".join(json.dumps(result) for result in results) + "]")
    if arguments.csv:
        storage.write_csv(arguments.csv, COLUMNS, results)
    if arguments.show:
        save_figure(results, arguments)
    if not arguments.json and (arguments.csv or any("digit" in result for result in results)):
        print_summary(results, arguments)
    return 1 if any("error" in result for result in results) else 0


def parser() -> cli.Parser:
    """The command line."""
    result = cli.Parser(prog="predict.py", description="Classify the digits in photos, scans or drawings.")
    result.add_argument("paths", type=Path, nargs="*", metavar="PATH", help="photos, and folders of photos")
    result.add_argument("--model", type=Path, default=SHIPPED[0], help="a model file (models/best.npz)")
    result.add_argument(
        "--labels", action="store_true", help="print the accuracy; folder or file names are labels; implies --one"
    )
    result.add_argument("--one", action="store_true", help="read each photo as one digit, whatever it shows")
    result.add_argument("--csv", type=Path, metavar="FILE", help="write the predictions to a CSV file")
    result.add_argument("--json", action="store_true", help="print the predictions as JSON, with all ten probabilities")
    result.add_argument("--show", type=Path, metavar="FILE", help=f"save what the network saw (first {SHOWN}) as PNG")
    result.add_argument("--draw", action="store_true", help="open a window to draw digits in with the mouse")
    return result


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The arguments. Only files of earlier runs may be overwritten: with `--show *.png` a shell may name a photo."""
    arguments = parser().parse_args(argv)
    options = arguments.labels, arguments.one, arguments.csv, arguments.json, arguments.show
    if arguments.draw == bool(arguments.paths) or (arguments.draw and any(options)):
        parser().error("give photos or folders, or only --draw and --model")
    for path, suffix in (arguments.csv, ".csv"), (arguments.show, ".png"):
        if path and path.suffix.lower() != suffix:
            parser().error(f"{path} must end in {suffix}")
        if path and path.exists() and not (path.is_file() and OWN_HEADERS[suffix] in path.read_bytes()[:1000]):
            parser().error(f"{path} exists and is not from an earlier run: choose another name")
    return arguments


def find_files(paths: list[Path], figure: Path | None) -> dict[Path, str]:
    """All photos at these paths, as in `find_photos`, without the figure of an earlier run; if none is left, errors."""
    with cli.progress(text="looking for photos", unit=" files") as bar:
        found = (item for path in paths for item in find_photos(path, bar.update))
        files = {f: error for f, error in found if not figure or os.path.realpath(f) != os.path.realpath(figure)}
    return files or dict.fromkeys(paths, "contains no photos but the figure of an earlier run")


def find_photos(path: Path, count: Callable[[int], object]) -> Iterator[tuple[Path, str]]:
    """The photos at a path, each with the error if it cannot be opened, or "".

    A path that is not a folder is a photo. In a folder and its subfolders, everything with an image suffix is one,
    even a folder, so that it is reported and not ignored. `count` is called with the number of files in each folder.
    """
    if not os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises errors)
        yield path, ""
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
    """The results of all files, see `classify`; prints the table and the errors."""
    width = min(max(len(cli.printable(str(file))) for file in ["photo", *files]), MAX_NAME_WIDTH)
    head = f"{'photo':{width}}  {'digits':{READING_WIDTH}}  {'  '.join(TITLES)}"
    results = []
    for file, error in cli.progress(files.items(), "classifying photos"):
        found = [{"file": str(file), "error": error}] if error else classify(network, file, arguments)
        if "error" in found[0]:
            cli.fail(f"{file} {found[0]['error']}", 1)
        elif not arguments.json:
            if head:
                cli.print_row(head)
            head = ""
            cli.print_row(format_row(found, width))
        results += found
    return results


def find_digits(file: Path, arguments: argparse.Namespace) -> list[segment.Digit]:
    """The digits in a photo. PhotoError if there is none."""
    one = arguments.one or arguments.labels
    return [segment.Digit(photo.digit(file))] if one else segment.digits(photo.read(file))


def classify(network: Network, file: Path, arguments: argparse.Namespace) -> list[dict]:
    """The prediction for each digit in a photo, in reading order, with its true label if `labels`; or the error."""
    try:
        found = find_digits(file, arguments)
        real = {"real": true_label(file)} if arguments.labels else {}
    except photo.PhotoError as error:
        return [{"file": str(file), "error": str(error)}]
    results = []
    for digit, probabilities in zip(found, network.predict_proba(np.stack([d.image for d in found])), strict=True):
        second, first = np.argsort(probabilities, kind="stable")[-2:].tolist()
        results.append(
            {
                "file": str(file),
                "digit": first,
                "probability": round(float(probabilities[first]), 6),
                "runner_up": second,
                "runner_up_probability": round(float(probabilities[second]), 6),
                "unsure": is_unsure(probabilities, digit),
                **real,
                "row": digit.row,
                **dict(zip(BOX, digit.box, strict=True)),
                "probabilities": [round(float(p), 6) for p in probabilities],
            }
        )
    return results


def is_unsure(probabilities: np.ndarray, digit: segment.Digit) -> bool:
    """Whether p1 / (p1 + p2) is below the threshold of such a digit, or it looks like two."""
    second, first = np.sort(probabilities)[-2:]
    share = first / (first + second)
    return bool(share < (WIDE_THRESHOLD if digit.wide or digit.cut else SHARE_THRESHOLD)) or (digit.wide and digit.long)


def reading(results: list[dict]) -> str:
    """The digits of one photo, its rows divided by " / "."""
    rows = itertools.groupby(results, lambda result: result["row"])
    return " / ".join("".join(str(result["digit"]) for result in row) for _, row in rows)


def true_label(file: Path) -> int:
    """The digit that names the file's folder, else the first character of the file's name. PhotoError."""
    for text in file.absolute().parent.name, file.name[:1]:
        if text in list("0123456789"):
            return int(text)
    raise photo.PhotoError("has no label: put it into a folder 0 to 9, or start its name with the digit")


def format_row(results: list[dict], width: int) -> str:
    """The row of one photo in the table; `width` is that of the file's name."""
    name = cli.printable(results[0]["file"])
    if len(name) > width:
        name = f"...{name[3 - width :]}"
    first, unsure = results[0], sum(result["unsure"] for result in results)
    cells = [f"{min(result['probability'] for result in results):.4f}", "", ""]
    remarks = ["unsure" if len(results) == 1 else f"{unsure} of {len(results)} unsure"] if unsure else []
    if len(results) == 1:
        cells[1:] = [first["runner_up"], f"{first['runner_up_probability']:.4f}"]
    if first.get("real", first["digit"]) != first["digit"]:
        remarks.append(f"wrong: it is {first['real']}")
    row = f"{name:{width}}  {reading(results):{READING_WIDTH}}  {cli.format_row(cells, [*map(len, TITLES)])}"
    return f"{row}  {', '.join(remarks)}".rstrip()


def print_summary(results: list[dict], arguments: argparse.Namespace) -> None:
    """Print how many photos could be read, and the files written; with labels also confusion matrix and accuracy."""
    read = [result for result in results if "error" not in result]
    if arguments.labels and read:
        real, predicted = (np.array([result[key] for result in read]) for key in ("real", "digit"))
        widths = [len(r"true \ predicted"), *[4] * 10]
        print(cli.format_row([r"true \ predicted", *range(10)], widths))
        for digit, row in enumerate(confusion_matrix(real, predicted)):
            print(cli.format_row([digit, *(count or "." for count in row)], widths))
        right = np.count_nonzero(real == predicted)
        print(f"accuracy {right / len(read):.4f} ({right} of {len(read)} photos)")
    unsure, photos = sum(result["unsure"] for result in read), len({result["file"] for result in read})
    total = photos + len(results) - len(read)
    digits = f", {len(read):,} digits" if len(read) > photos else ""
    files = [str(arguments.csv)] * bool(arguments.csv)
    if arguments.show and read:
        files.append(str(arguments.show) + (f" (the first {SHOWN})" if photos > SHOWN else ""))
    where = f" -> {', '.join(files)}" if files else ""
    summary = f"{total:,} photo{'s' * (total != 1)}: {photos:,} read{digits}"
    summary += f", {unsure:,} of them unsure" if read else ""
    model = arguments.model
    with contextlib.suppress(OSError, ValueError):  # it is elsewhere, or the current folder was removed
        model = model.relative_to(Path.cwd())
    print(f"{summary} ({model}){where}")


def save_figure(results: list[dict], arguments: argparse.Namespace) -> None:
    """Save a figure of the first photos: the photo, the network's input for each digit, and the probabilities."""
    import plots  # late: matplotlib is slow to import

    shown, read = [], [result for result in results if "error" not in result]
    for name, found in itertools.islice(itertools.groupby(read, lambda result: result["file"]), SHOWN):
        file, found = Path(name), list(found)
        probabilities, unsure = ([result[key] for result in found] for key in ("probabilities", "unsure"))
        with contextlib.suppress(photo.PhotoError):  # it was removed in the meantime
            digits = find_digits(file, arguments)
            boxes = [digit.box for digit in digits] if len(digits) > 1 else []
            small = photo.thumbnail(file, 480 if boxes else 160)
            name = f"{file.name}, true: {found[0]['real']}" if arguments.labels else file.name
            shown.append((name, small, [digit.image for digit in digits], probabilities, unsure, boxes))
    if shown:
        plots.save(plots.predictions(shown), arguments.show, PNG_SOFTWARE)


if __name__ == "__main__":
    cli.exit_process(main())
