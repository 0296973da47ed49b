"""Name the digit in a picture of yours, or in a folder of pictures:  python predict.py digits/

    picture         digit  probability  runner-up  probability
    digits/me.jpg       7       0.9981          1       0.0012
    digits/you.png      4       0.5120          9       0.4410  unsure
    2 pictures: 2 read, 1 of them unsure (models/best.npz)

Any size, colour, light and polarity will do, one digit per picture. --show FILE.png draws what the network saw of them;
--draw opens a window to draw a digit in. With --labels the real digit is taken from the folder (0/ to 9/) or else from
the first character of the file's name, and the answers are scored.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import cli
import storage
from data import picture
from network import Network

DEFAULT = Path(__file__).parent / "models" / "best.npz"
# Probability below which an answer is called unsure. Of validation digits drawn as pictures of 16 kinds, half of the
# answers below it were right, and 99.9 % of those above it (tests/bench/pictures.py --part train --count 1000 MODEL).
UNSURE = 0.9
SHOWN = 24  # pictures that --show draws
DIGITS = list("0123456789")
WIDEST = 60  # characters of a file's name in the table
COLUMNS = "file digit probability runner_up runner_up_probability unsure real error".split()  # of the CSV file
MAKER = "predict.py --show"
OURS = {".csv": ",".join(COLUMNS).encode(), ".png": MAKER.encode()}  # by which a file of an earlier run is known


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Look at each picture, print a line for it, then write what was asked for."""
    arguments = parser().parse_args(argv)
    if arguments.draw == bool(arguments.paths):
        parser().error("give pictures or folders, or --draw")
    network = cli.model(arguments.model)
    if arguments.draw:
        import drawing  # late, because it takes matplotlib

        drawing.window(lambda image: network.predict_proba(image[None])[0])
        return 0
    check_targets(arguments)
    files = dict(item for path in arguments.paths for item in find(path))
    if arguments.show:  # what an earlier run has drawn
        shown = os.path.realpath(arguments.show)
        files = {file: trouble for file, trouble in files.items() if os.path.realpath(file) != shown}
    wide = min(max((len(cli.printable(str(file))) for file in files), default=0), WIDEST)
    if not arguments.json:
        print(f"{'picture':{wide}}  digit  probability  runner-up  probability")
    results, failures = [], 0
    for file, trouble in cli.bar(files.items(), "looking at pictures"):
        try:
            if trouble:
                raise picture.PictureError(trouble)
            result = look(network, file, arguments.labels)
        except picture.PictureError as error:
            failures += 1
            result = {"file": str(file), "error": str(error)}
            cli.note(f"{file} {error}")
        else:
            if not arguments.json:
                cli.show(line(result, wide))
        results.append(result)
    if arguments.json:
        print("[" + ",\n ".join(json.dumps(result) for result in results) + "]")
    else:
        summarise(results, arguments.labels, arguments.model)
    if arguments.csv:
        write(results, arguments.csv)
    if arguments.show:
        draw(results, arguments.show)
    return 1 if failures else 0


def parser() -> cli.Parser:
    """The command line."""
    result = cli.Parser(prog="predict.py", description="Name the digits in pictures.")
    result.add_argument("paths", type=Path, nargs="*", metavar="PATH", help="pictures, and folders of pictures")
    result.add_argument("--model", type=Path, default=DEFAULT, help="a model file (models/best.npz)")
    result.add_argument("--labels", action="store_true", help="score: real digits from folders 0/ to 9/ or file names")
    result.add_argument("--csv", type=Path, metavar="FILE", help="write the answers to a CSV file")
    result.add_argument("--json", action="store_true", help="print the answers as JSON, with all ten probabilities")
    result.add_argument("--show", type=Path, metavar="FILE", help=f"draw what the network saw (first {SHOWN}) as PNG")
    result.add_argument("--draw", action="store_true", help="open a window to draw a digit with the mouse")
    return result


def check_targets(arguments: argparse.Namespace) -> None:
    """Nothing of the user's shall be written over: a shell may turn `--show *.png` into the name of a photo."""
    for path, suffix in (arguments.csv, ".csv"), (arguments.show, ".png"):
        if path and path.suffix.lower() != suffix:
            parser().error(f"{path} should end in {suffix}")
        if path and path.exists() and not (path.is_file() and OURS[suffix] in path.read_bytes()[:1000]):
            parser().error(f"{path} is there already, and not from an earlier run: choose another name")
        if path and os.path.realpath(path) in map(os.path.realpath, arguments.paths):
            parser().error(f"{path} cannot be both looked at and written")


def find(path: Path) -> Iterator[tuple[Path, str]]:
    """The pictures at a path, and what is wrong with those that cannot even be looked at ("" for nothing).

    A path that is no folder is one; in a folder, and the folders in it, it is what is called like one.
    """
    try:
        if not path.is_dir():
            yield path, ""
            return
    except OSError as error:
        yield path, f"cannot be opened: {error.strerror}"
        return
    troubles, found = [], False
    for folder, inside, names in picture.walk(path, troubles.append):
        # a folder that is called like a picture is not passed over in silence
        for name in sorted([*names, *inside]):
            if Path(name).suffix.lower() in picture.SUFFIXES and not name.startswith("."):
                found = True
                yield Path(folder, name), ""
    for error in troubles:
        yield Path(error.filename), f"cannot be opened: {error.strerror}"
    if not found and not troubles:
        yield path, f"has no pictures in it: their names should end in {', '.join(picture.SUFFIXES)}"


def look(network: Network, file: Path, labels: bool) -> dict:
    """What there is to say of one picture. PictureError."""
    image = picture.digit(file)
    real = {"real": label(file)} if labels else {}
    probabilities = network.predict_proba(image[None])[0]
    second, first = np.argsort(probabilities, kind="stable")[-2:].tolist()
    return {
        "file": str(file),
        "digit": first,
        "probability": round(float(probabilities[first]), 6),
        "runner_up": second,
        "runner_up_probability": round(float(probabilities[second]), 6),
        "unsure": bool(probabilities[first] < UNSURE),
        **real,
        "probabilities": [round(float(p), 6) for p in probabilities],
    }


def label(file: Path) -> int:
    """The real digit, as the folder it is in or else the file's name tells it."""
    for text in file.absolute().parent.name, file.name[:1]:
        if text in DIGITS:
            return int(text)
    raise picture.PictureError("has no label: put it into a folder 0 to 9, or let its name start with the digit")


def line(result: dict, wide: int) -> str:
    """A row of the table."""
    name = cli.printable(result["file"])
    if len(name) > wide:
        name = f"...{name[3 - wide :]}"
    remarks = "unsure" if result["unsure"] else ""
    if result.get("real", result["digit"]) != result["digit"]:
        remarks += f"{', ' if remarks else ''}wrong: it is {result['real']}"
    numbers = f"{result['digit']:5}  {result['probability']:11.4f}"
    numbers += f"  {result['runner_up']:9}  {result['runner_up_probability']:11.4f}"
    return f"{name:{wide}}  {numbers}  {remarks}".rstrip()


def summarise(results: list[dict], labels: bool, model: Path) -> None:
    """Print how it went: with labels the confusion and the accuracy, and how many could be read."""
    read = [result for result in results if "error" not in result]
    unsure = sum(result["unsure"] for result in read)
    if labels and read:
        print("real \\ predicted" + "".join(f"{digit:6}" for digit in range(10)))
        for digit in range(10):
            answers = [result["digit"] for result in read if result["real"] == digit]
            print(f"{digit:16}" + "".join(f"{answers.count(other) or '.':>6}" for other in range(10)))
        right = sum(result["digit"] == result["real"] for result in read)
        print(f"accuracy {right / len(read):.4f} ({right} of {len(read)} pictures)")
    plural = "" if len(results) == 1 else "s"
    print(f"{len(results):,} picture{plural}: {len(read):,} read, {unsure:,} of them unsure ({model})")


def write(results: list[dict], path: Path) -> None:
    """The answers as a CSV file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", restval="")
    writer.writeheader()
    writer.writerows(results)
    with storage.replace(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))


def draw(results: list[dict], path: Path) -> None:
    """Each picture, the 28 x 28 the network saw of it, and the probabilities."""
    import plots  # late, because matplotlib takes its time

    looks = []
    for result in [result for result in results if "error" not in result][:SHOWN]:
        file = Path(result["file"])
        with contextlib.suppress(picture.PictureError):  # it has gone meanwhile
            looks.append((file.name, picture.thumbnail(file), picture.digit(file), result["probabilities"]))
    if looks:
        plots.save(plots.predictions(looks), path, MAKER)


if __name__ == "__main__":
    sys.exit(main())
