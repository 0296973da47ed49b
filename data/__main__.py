"""What digits are there, and fetch MNIST's files that are not:  python -m data

train images  60,000 x 28 x 28  verified  data/raw/train-images-idx3-ubyte.gz
...
MNIST is complete (4 files, data/raw)
"""

import sys

import cli
from data import formats, mnist


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Verify, download, and list the four files."""
    parser = cli.Parser(prog="python -m data", description="Show MNIST's files, and fetch those that are missing.")
    cli.add_data_dir(parser)
    folder = parser.parse_args(argv).data_dir or mnist.default_folder()
    for part, kind in mnist.NAMES:
        mnist.load(part, folder, cli.note)
        path = formats.find_idx(folder, part, kind)
        if path is None:
            raise formats.DataError(f"MNIST was fetched but cannot be kept in {folder}: make that folder writable")
        array = formats.parse_idx(mnist.verified(part, kind, path), str(path))
        shape = " x ".join(f"{size:,}" for size in array.shape)
        print(f"{part + ' ' + kind:13} {shape:16}  verified  {path}")
    print(f"MNIST is complete ({len(mnist.NAMES)} files, {folder})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
