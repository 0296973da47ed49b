"""MNIST: find its four files, verify them, download those that are missing. QMNIST's file of the writers as well.

A file is accepted if the SHA-256 of its decompressed content is MNIST's.
"""

import contextlib
import gzip
import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path

import numpy as np

import storage
from data import formats
from data.formats import DataError

DIGESTS = {  # SHA-256 of the decompressed files
    ("train", "images"): "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ("train", "labels"): "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ("test", "images"): "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ("test", "labels"): "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ("train", "writers"): "bb1b6e1ec7b04fd5696f1ed50b5f58f8ef195118edd5c93c81783df9740b8ac5",
}
MIRRORS = [  # a folder with the four files, or one npz with all arrays
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
]
WRITERS_MIRRORS = ["https://raw.githubusercontent.com/facebookresearch/qmnist/master/"]
READ_TIMEOUT = 10  # seconds without a byte from a mirror
DOWNLOAD_TIMEOUT = 60  # seconds for one file, from the first step to the last byte; then the next mirror is tried
MAX_BYTES = 2**25  # of a download; the largest file has 11.5 million
MAX_CONTENT = 16 + 60_000 * 784  # bytes of the largest file, decompressed
HINT = "put MNIST's four files into a folder and name it with --data-dir or MNIST_DIR"


class NotFound(DataError):
    """MNIST is not in the folder, and no mirror has it."""


def default_folder() -> Path:
    """$MNIST_DIR, else `data/raw`."""
    return Path(os.environ.get("MNIST_DIR") or Path(__file__).parent / "raw")


def load(
    split: str, folder: Path | None = None, log: Callable[[str], None] = lambda message: None
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels int64 (N,) of "train" or "test", downloaded if they are not in `folder`.

    DataError for a file with the right name but other content; NotFound, with all causes, if no mirror has the files.
    """
    folder = folder or default_folder()
    images, labels = (formats.parse_idx(fetch(split, kind, folder, log), kind) for kind in ("images", "labels"))
    return formats.validate(images, labels, str(folder))


def load_writers(folder: Path | None = None, log: Callable[[str], None] = lambda message: None) -> np.ndarray:
    """The number of the writer of each training image, integers (60000,). Yadav & Bottou 2019. DataError.

    QMNIST's file has rows of eight int32: class, series, writer, five more.
    """
    content = fetch("train", "writers", folder or default_folder(), log)
    return np.frombuffer(content, ">i4", offset=12).reshape(-1, 8)[:, 2].astype(np.int64)


def read_verified(split: str, kind: str, path: Path) -> bytes:
    """The decompressed content of a file. DataError if it is not MNIST's."""
    content = formats.read_bytes(path, MAX_CONTENT)
    if hashlib.sha256(content).hexdigest() != DIGESTS[split, kind]:
        formats.parse_idx(content, str(path))  # a better error if it is cut short, or a web page
        raise DataError(
            f"{path} holds digits, but not MNIST's {split} {kind} (its SHA-256 differs): remove it, "
            f"or train on it with --dataset {path.parent}"
        )
    return content


def fetch(split: str, kind: str, folder: Path, log: Callable[[str], None] = lambda message: None) -> bytes:
    """The decompressed content of one of the files, from `folder` or a mirror."""
    path = formats.find_idx(folder, split, kind)
    if path is None:
        return _download(split, kind, folder, log)
    try:
        return read_verified(split, kind, path)
    except DataError as error:
        if folder.resolve() != Path(__file__).resolve().parent / "raw":  # the user's folder: left for the user to fix
            raise
        log(f"{error}; downloading it again")
        return _download(split, kind, folder, log)  # under the first name that `find_idx` looks for


def _download(split: str, kind: str, folder: Path, log: Callable[[str], None]) -> bytes:
    """Download one file from the first mirror with the right content, save it, return its decompressed content."""
    log(f"downloading {'QMNIST' if kind == 'writers' else 'MNIST'}'s {split} {kind} into {folder}")
    mirrors_by_cause: dict[str, list[str]] = {}
    name = formats.idx_names(split, kind)[0]
    for mirror in WRITERS_MIRRORS if kind == "writers" else MIRRORS:
        try:
            if mirror.endswith(".npz"):
                with storage.open_zip(_get(mirror)) as archive:
                    array = formats.read_member(archive, f"{'x' if kind == 'images' else 'y'}_{split}", MAX_CONTENT)
                content = formats.idx_bytes(array)
                compressed = gzip.compress(content, 1, mtime=0)
            else:
                compressed = _get(mirror + name)
                content = formats.decompress(compressed, "its file", MAX_CONTENT)
            if hashlib.sha256(content).hexdigest() != DIGESTS[split, kind]:
                raise DataError("it sent something that is not MNIST (its SHA-256 differs)")
        except Exception as error:  # any failure of a mirror: try the next one
            cause = _one_line(str(error)) or type(error).__name__
            mirrors_by_cause.setdefault(cause, []).append(mirror.removeprefix("https://"))
            continue
        log(f"downloaded from {mirror}")
        # if the folder is not writable, the file is downloaded again next time
        with contextlib.suppress(OSError), storage.atomic_write(folder / name) as file:
            file.write(compressed)
        return content
    causes = "; ".join(f"{', '.join(mirrors)}: {cause}" for cause, mirrors in mirrors_by_cause.items())
    if kind == "writers":
        raise NotFound(f"{name} is not in {folder} and could not be downloaded ({causes}): put it there")
    raise NotFound(f"MNIST is not in {folder} and could not be downloaded ({causes}): {HINT}")


def _one_line(text: str, length: int = 100) -> str:
    """What a mirror sent as its reason, as one short line without control characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * length]).split())
    return text if len(text) <= length else f"{text[:length]}..."


def _get(url: str) -> bytes:
    """The content at a URL. TimeoutError after DOWNLOAD_TIMEOUT.

    A socket limits only the time between two bytes, and nothing limits the search for the server's address. So a thread
    does that, which is left alone when the time is over.
    """
    answer: Future[bytes] = Future()

    def work() -> None:
        try:
            answer.set_result(_receive(url))
        except Exception as error:  # raised again by `result`
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    if not wait([answer], DOWNLOAD_TIMEOUT).done:
        raise TimeoutError(f"too slow: not complete after {DOWNLOAD_TIMEOUT} s")
    return answer.result()


def _receive(url: str) -> bytes:
    """The content at a URL, with limits on size, on the time of each step, and on the time of the transfer."""
    import http.client  # late: these are slow to import
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": "mnist-numpy"})
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT
    received = bytearray()
    try:
        response = urllib.request.urlopen(request, timeout=READ_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise
    except urllib.error.URLError as error:
        raise OSError(error.reason) from None  # without the words "urlopen error" around it
    with response:
        while chunk := response.read1(1 << 16):
            received += chunk
            if time.monotonic() > deadline:
                raise TimeoutError  # ends this thread; `_get` has given up
            if len(received) > MAX_BYTES:
                raise DataError("it sends far more bytes than MNIST has")
        length = response.headers.get("Content-Length")
    if length and len(received) != int(length):
        raise http.client.IncompleteRead(bytes(received), int(length) - len(received))
    return bytes(received)
