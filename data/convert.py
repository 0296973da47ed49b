"""Convert digits from one file format to another:  python -m data.convert SOURCE TARGET

    python -m data.convert mnist mnist.npz           all of MNIST in one archive
    python -m data.convert mnist images/ --as png    one file for each image, in images/train/0/ to images/test/9/
    python -m data.convert my-digits/ my-digits.csv  one row for each image: label,784 pixel values
    python -m data.convert mnist big --variants 100  each training image and 99 distorted variants of it: 4.7 GB

SOURCE is what --dataset takes: mnist, synthetic, or the path of files in one of these formats. The conversion is exact,
except to jpg, which changes pixel values slightly. Images that are not on black are not written as png or jpg, because
they would be read as photos.
"""

import argparse
import os
import shutil
from pathlib import Path

import data
import storage
from app import cli
from app.config import Config
from data import formats, mnist_pickle

FILE_FORMATS = {".npz": "npz", ".pkl.gz": "pickle", ".csv": "csv"}


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Read the source, write the target, print what was written."""
    arguments = parser().parse_args(argv)
    extension = check_target(arguments)
    splits = read(arguments)
    if any(isinstance(images, data.ImageFile) for images, _ in splits.values()):
        raise data.DataError(f"{arguments.source} is too large for memory: it can be trained on, but not converted")
    if extension:
        write_file(arguments.target, extension, splits)
    else:
        lock = arguments.target.with_name(f".{arguments.target.name}.lock")
        with storage.locked(lock, f"{arguments.target} is being written by another process"):
            write_folder(arguments.target, arguments.format or "idx", splits, arguments.variants)
    sizes = {name: len(labels) * (arguments.variants if name == "train" else 1) for name, (_, labels) in splits.items()}
    counts = " and ".join(f"{size:,} {split}" for split, size in sizes.items())
    lossy = " (JPEG: not exactly the same)" if arguments.format == "jpg" else ""
    print(f"{counts} images: {arguments.source} -> {arguments.target}{lossy}")
    return 0


def parser() -> cli.Parser:
    """The command line."""
    result = cli.Parser(prog="python -m data.convert", description="Convert digits from one file format to another.")
    result.add_argument("source", metavar="SOURCE", help="mnist, synthetic, or the path of a file or folder of digits")
    result.add_argument("target", metavar="TARGET", type=Path, help="NAME.npz, NAME.pkl.gz, NAME.csv, or a new folder")
    text = "format of the files in the folder (idx)"
    result.add_argument("--as", dest="format", choices=["idx", "csv", "png", "jpg"], help=text)
    result.add_argument("--part", choices=["train", "test"], help="only the training or only the test images")
    text = "images written for each training image: itself and distorted variants (idx, not gzipped) [1]"
    result.add_argument("--variants", type=cli.positive_int, default=1, metavar="N", help=text)
    result.add_data_dir()
    return result


def check_target(arguments: argparse.Namespace) -> str:
    """The extension of the target file, "" for a folder. DataError if the target exists: nothing is overwritten."""
    source, target = arguments.source, arguments.target
    extension = next((extension for extension in FILE_FORMATS if target.name.endswith(extension)), "")
    if target.suffix and not extension:
        parser().error(f"{target} should end in {', '.join(FILE_FORMATS)}, or name a folder without a dot in its name")
    if extension and arguments.format:
        parser().error(f"--as is for folders; {target.name} will be {FILE_FORMATS[extension]}, because of its name")
    if arguments.variants > 1 and (extension or arguments.format not in (None, "idx") or arguments.part == "test"):
        parser().error("--variants is for training images and a folder of IDX files")
    check_absent(target)
    inside = Path(os.path.realpath(target)).is_relative_to(os.path.realpath(source))
    if inside and source not in data.NAMES:
        raise data.DataError(f"{target} is inside {source}: choose another folder")
    return extension


def check_absent(target: Path) -> None:
    """DataError if the target exists."""
    if target.exists() or target.is_symlink():
        raise data.DataError(f"{target} exists: remove it, or choose another name")


def read(arguments: argparse.Namespace) -> formats.Splits:
    """Both splits of the source, or the one that --part names. Data without splits count as training images."""
    source, split = arguments.source, arguments.part
    has_splits = source in data.NAMES or formats.has_splits(Path(source))
    splits: formats.Splits = {}
    try:
        for name in [split] if split else ["train", "test"] if has_splits else ["train"]:
            splits[name] = data.load(source, name, arguments.data_dir, cli.warn, cli.progress)[:2]
    except data.DataError as error:
        hint = "; --part train converts the training images alone" if splits else ""
        raise data.DataError(f"{error}{hint}") from None
    return splits


def write_file(target: Path, extension: str, splits: formats.Splits) -> None:
    """Write one file, atomically."""
    if extension == ".csv" and len(splits) > 1:
        raise data.DataError("a CSV file holds one split: choose it with --part, or give a folder and --as csv")
    if extension == ".pkl.gz" and "train" not in splits:
        raise data.DataError("a pickled triple needs training images: leave out --part, or choose another format")
    if extension == ".pkl.gz" and sum(len(labels) for _, labels in splits.values()) > mnist_pickle.MAX_IMAGES:
        raise data.DataError(f"a pickle holds {mnist_pickle.MAX_IMAGES:,} images at most: choose another format")
    with storage.atomic_write(target) as file:
        if extension == ".npz":
            formats.write_npz(file, splits)
        elif extension == ".csv":
            formats.write_csv(file, *next(iter(splits.values())), cli.progress)
        else:
            images, labels = splits["train"]
            mnist_pickle.write(file, (images, labels), splits.get("test", (images[:0], labels[:0])))
        check_absent(target)  # another process may have made it in the meantime


def write_folder(target: Path, format: str, splits: formats.Splits, variants: int) -> None:
    """Write a folder, completely or not at all."""
    check_absent(target)  # another process may have made it in the meantime
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        for split, pair in splits.items():
            if variants > 1 and split == "train":
                distort = Config(augment=True).distortion()
                formats.write_variants(unfinished, split, pair, variants, distort, cli.progress)
            elif format == "idx":
                formats.write_idx(unfinished, split, *pair)
            elif format == "csv":
                with (unfinished / f"{split}.csv").open("wb") as file:
                    formats.write_csv(file, *pair, cli.progress)
            else:
                formats.write_class_folders(unfinished / split, f".{format}", *pair, cli.progress)
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


if __name__ == "__main__":
    cli.exit_process(main())
