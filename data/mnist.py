"""MNIST: find its four files, verify them, download what is missing.

A file is MNIST's if the SHA-256 of its unzipped bytes says so, whatever it is called and wherever it lies.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np

import storage
from data import formats
from data.formats import DataError

KINDS = ("images", "labels")
DIGESTS = {  # SHA-256 of the unzipped files
    ("train", "images"): "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ("train", "labels"): "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ("test", "images"): "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ("test", "labels"): "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
NAMES = {
    ("train", "images"): "train-images-idx3-ubyte.gz",
    ("train", "labels"): "train-labels-idx1-ubyte.gz",
    ("test", "images"): "t10k-images-idx3-ubyte.gz",
    ("test", "labels"): "t10k-labels-idx1-ubyte.gz",
}
MIRRORS = [  # a folder with the four files, or one npz with all
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
]
SILENCE = 10  # seconds without a byte after which a mirror is given up
PATIENCE = 60  # seconds for one file after which the next mirror may try
LARGEST = 2**25  # bytes of a download; the largest is 11.5 million
CURE = "put MNIST's four files into a folder and name it with --data-dir or MNIST_DIR"


class NotFound(DataError):
    """MNIST is neither there nor to be had from any mirror."""


def default_folder() -> Path:
    """$MNIST_DIR, else `data/raw`."""
    return Path(os.environ.get("MNIST_DIR") or Path(__file__).parent / "raw")


def load(
    part: str, folder: Path | None = None, note: Callable[[str], None] = lambda line: None
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels int64 (N,) of "train" or "test", downloaded if they are not in `folder`.

    NotFound if that fails everywhere, with every cause; DataError for a file that has the name but not the content.
    """
    folder = folder or default_folder()
    images, labels = (formats.parse_idx(obtain(part, kind, folder, note), kind) for kind in KINDS)
    return formats.check(images, labels, str(folder))


def verified(part: str, kind: str, path: Path) -> bytes:
    """The unzipped bytes of a file. DataError unless they are MNIST's."""
    content = formats.read_bytes(path)
    if hashlib.sha256(content).hexdigest() != DIGESTS[part, kind]:
        formats.parse_idx(content, str(path))  # says so if it is cut short or a web page
        raise DataError(
            f"{path} holds digits, but not MNIST's {part} {kind} (its SHA-256 differs): remove it, "
            f"or train on it as it is with --dataset {path.parent}"
        )
    return content


def obtain(part: str, kind: str, folder: Path, note: Callable[[str], None] = lambda line: None) -> bytes:
    """The unzipped bytes of one of the four files, from `folder` or a mirror."""
    path = formats.find_idx(folder, part, kind)
    if path is None:
        return _download(part, kind, folder, note)
    try:
        return verified(part, kind, path)
    except DataError as error:
        if folder != Path(__file__).parent / "raw":  # what the user put there is the user's to mend
            raise
        note(f"{error}; downloading it again")
        content = _download(part, kind, folder, note)
        if path.name != NAMES[part, kind]:  # else it has been replaced
            path.unlink(missing_ok=True)
        return content


def _download(part: str, kind: str, folder: Path, note: Callable[[str], None]) -> bytes:
    """Fetch one file from the first mirror that has it right, keep it in `folder`, return its unzipped bytes."""
    note(f"downloading MNIST's {part} {kind}: they are not in {folder}")
    causes, name = [], NAMES[part, kind]
    for mirror in MIRRORS:
        try:
            if mirror.endswith(".npz"):
                with np.load(io.BytesIO(_fetch(mirror)), allow_pickle=False) as archive:
                    content = formats.idx_bytes(archive[f"{'x' if kind == 'images' else 'y'}_{part}"])
                packed = gzip.compress(content, 1, mtime=0)
            else:
                packed = _fetch(mirror + name)
                content = formats.unzip(packed, mirror + name)
            if hashlib.sha256(content).hexdigest() != DIGESTS[part, kind]:
                raise DataError("what it sent is not MNIST (its SHA-256 differs)")
        except Exception as error:  # whatever a mirror does wrong, the next one may do right
            reason = error.reason if type(error) is urllib.error.URLError else error
            causes.append(f"{mirror}: {str(reason) or type(error).__name__}")
            continue
        note(f"downloaded from {mirror}")
        # a folder that cannot be written to costs a download next time
        with contextlib.suppress(OSError), storage.replace(folder / name) as file:
            file.write(packed)
        return content
    raise NotFound(f"MNIST is not in {folder} and no mirror has it ({'; '.join(causes)}): {CURE}")


def _fetch(address: str) -> bytes:
    """The bytes at an address, in bounded time and memory."""
    request = urllib.request.Request(address, headers={"User-Agent": "mnist-numpy"})
    deadline = time.monotonic() + PATIENCE
    received = bytearray()
    try:
        response = urllib.request.urlopen(request, timeout=SILENCE)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise
    with response:
        while chunk := response.read1(1 << 16):
            received += chunk
            if time.monotonic() > deadline:
                raise TimeoutError(f"too slow: {len(received)} bytes in {PATIENCE} s")
            if len(received) > LARGEST:
                raise DataError("what it sends is far larger than MNIST")
        length = response.headers.get("Content-Length")
    if length and len(received) != int(length):
        raise http.client.IncompleteRead(bytes(received), int(length) - len(received))
    return bytes(received)
