"""What digits are there, and fetch MNIST's files that are not:  python -m data

train images   60,000 x 28 x 28  MNIST  data/raw/train-images-idx3-ubyte.gz
...
MNIST is complete (4 files, data/raw)
"""

import sys
from pathlib import Path

import cli
from data import formats, mnist


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Say of each file what it is, then fetch those that are missing."""
    parser = cli.Parser(prog="python -m data", description="Show MNIST's files, and fetch those that are missing.")
    parser.add_argument("--data-dir", help="folder with MNIST's files ($MNIST_DIR, else data/raw)")
    folder = cli.folder(parser.parse_args(argv).data_dir) or mnist.default_folder()
    for part, kind in mnist.NAMES:
        print(f"{part + ' ' + kind:13}  {state(part, kind, folder)}")
    for part, kind in mnist.NAMES:
        mnist.obtain(part, kind, folder, cli.note)
        if formats.find_idx(folder, part, kind) is None:
            raise formats.DataError(f"MNIST was fetched but cannot be kept in {folder}: make that folder writable")
    print(f"MNIST is complete ({len(mnist.NAMES)} files, {folder})")
    return 0


def state(part: str, kind: str, folder: Path) -> str:
    """What there is of one of the four files."""
    path = formats.find_idx(folder, part, kind)
    if path is None:
        return "missing"
    try:
        array = formats.parse_idx(mnist.verified(part, kind, path), str(path))
    except formats.DataError as error:
        return f"bad: {error}"
    return f"{' x '.join(f'{size:,}' for size in array.shape):16}  MNIST  {path}"


if __name__ == "__main__":
    sys.exit(main())
