"""Check MNIST's files, and download those that are missing:  python -m data

train images   60,000 x 28 x 28  MNIST  data/raw/train-images-idx3-ubyte.gz
...
MNIST is complete (4 files, data/raw)
"""

from pathlib import Path

from app import cli
from data import formats, mnist

FILES = [(split, kind) for split in ("train", "test") for kind in ("images", "labels")]


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Print the state of each file, then download those that are missing."""
    parser = cli.Parser(prog="python -m data", description="Check MNIST's files, and download those that are missing.")
    parser.add_data_dir()
    folder = parser.parse_args(argv).data_dir or mnist.default_folder()
    for split, kind in FILES:
        print(f"{split + ' ' + kind:13}  {state(split, kind, folder)}")
    for split, kind in FILES:
        mnist.fetch(split, kind, folder, cli.warn)
        if formats.find_idx(folder, split, kind) is None:
            raise formats.DataError(f"MNIST was downloaded but cannot be saved in {folder}: make that folder writable")
    print(f"MNIST is complete ({len(FILES)} files, {folder})")
    return 0


def state(split: str, kind: str, folder: Path) -> str:
    """One of the four files: its shape and path, or what is wrong with it."""
    path = formats.find_idx(folder, split, kind)
    if path is None:
        return "missing"
    try:
        array = formats.parse_idx(mnist.read_verified(split, kind, path), str(path))
    except formats.DataError as error:
        return f"bad: {error}"
    return f"{' x '.join(f'{size:,}' for size in array.shape):16}  MNIST  {path}"


if __name__ == "__main__":
    cli.exit_process(main())
