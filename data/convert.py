"""Bring digits from one form into another:  python -m data.convert SOURCE TARGET

    python -m data.convert mnist mnist.npz           all of MNIST in one archive
    python -m data.convert mnist pictures/ --as png  a picture each, in pictures/train/0/ to pictures/test/9/
    python -m data.convert my-digits/ my-digits.csv  label,784 grey values, a line each

SOURCE is what --dataset takes: mnist, synthetic, or the path of files in any of these forms. Nothing is lost on the
way, except with jpg, whose compression changes the grey values a little. Digits that are not on black would not come
back unchanged from pictures, so they are not written as pictures.
"""

import argparse
import os
import shutil
import sys
from functools import partial
from pathlib import Path

import cli
import data
import storage
from data import formats, triple

FORMS = ("idx", "csv", "png", "jpg")  # in a folder
FILES = {".npz": "npz", ".pkl.gz": "pickle", ".csv": "csv"}


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Read what there is, write it, say what was written."""
    arguments = parser().parse_args(argv)
    target, form = arguments.target, arguments.form
    ending = check_target(arguments)
    parts = read(arguments)
    if ending == ".csv":
        if len(parts) > 1:
            raise data.DataError("a CSV file holds one part: choose it with --part, or give a folder and --as csv")
        (pair,) = parts.values()
        with storage.replace(target) as file:
            formats.write_csv(file, *pair, cli.bar)
    elif ending == ".pkl.gz":
        if "train" not in parts:
            raise data.DataError("a pickled triple needs training images: leave out --part, or write another form")
        images, labels = parts["train"]
        with storage.replace(target) as file:
            triple.write(file, parts["train"], parts.get("test", (images[:0], labels[:0])))
    elif ending == ".npz":
        with storage.replace(target) as file:
            formats.write_npz(file, parts)
    else:
        fill(target, form or "idx", parts)
    counts = " and ".join(f"{len(labels):,} {part}" for part, (_, labels) in parts.items())
    print(f"{counts} images: {arguments.source} -> {target}" + (" (JPEG: not exactly the same)" * (form == "jpg")))
    return 0


def parser() -> cli.Parser:
    """The command line."""
    result = cli.Parser(prog="python -m data.convert", description="Bring digits from one form into another.")
    result.add_argument("source", metavar="SOURCE", help="mnist, synthetic, or the path of a file or folder of digits")
    result.add_argument("target", metavar="TARGET", type=Path, help="NAME.npz, NAME.pkl.gz, NAME.csv, or a new folder")
    result.add_argument("--as", dest="form", choices=FORMS, help="what to put into the folder (idx)")
    result.add_argument("--part", choices=["train", "test"], help="only the training or only the test images")
    result.add_argument("--data-dir", help="folder with MNIST's files ($MNIST_DIR, else data/raw)")
    return result


def check_target(arguments: argparse.Namespace) -> str:
    """The ending that tells the form of the target file, "" for a folder. Nothing that is there is written over."""
    target = arguments.target
    ending = next((ending for ending in FILES if target.name.endswith(ending)), "")
    if not ending and any(target.name.lower().endswith(other) for other in (*formats.ENDINGS, ".gz")):
        parser().error(f"{target} should end in {', '.join(FILES)}, or name a folder")
    if ending and arguments.form:
        parser().error(f"--as is for folders; {target.name} will be {FILES[ending]} by its name")
    if target.exists() or target.is_symlink():
        raise data.DataError(f"{target} is there already: remove it, or choose another name")
    if arguments.source not in data.NAMES and Path(os.path.realpath(target)).is_relative_to(
        os.path.realpath(arguments.source)
    ):
        raise data.DataError(f"{target} is inside of {arguments.source}: choose a place elsewhere")
    return ending


def read(arguments: argparse.Namespace) -> formats.Parts:
    """All parts of the source, or the one asked for. What has no parts counts as training images."""
    source = arguments.source
    load = partial(data.load, source, folder=cli.folder(arguments.data_dir), note=cli.note, progress=cli.bar)
    names = [arguments.part] if arguments.part else ["train", "test"]
    if not arguments.part and source not in data.NAMES and not formats.has_parts(Path(source)):
        names = ["train"]
    parts = {}
    try:
        for part in names:
            parts[part] = load(part)[:2]
    except data.DataError as error:
        raise data.DataError(f"{error}" + "; --part train converts training images alone" * bool(parts)) from None
    return parts


def fill(target: Path, form: str, parts: formats.Parts) -> None:
    """Make the folder, all of it or nothing."""
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        for part, pair in parts.items():
            if form == "idx":
                formats.write_idx(unfinished, part, *pair)
            elif form == "csv":
                with (unfinished / f"{part}.csv").open("wb") as file:
                    formats.write_csv(file, *pair, cli.bar)
            else:
                formats.write_classes(unfinished / part, f".{form}", *pair, cli.bar)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
