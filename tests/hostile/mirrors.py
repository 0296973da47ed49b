"""Mirrors that fail."""

import contextlib
import gc
import gzip
import hashlib
import http.server
import io
import itertools
import multiprocessing
import random
import shutil
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

from data import formats, mnist
from tests.hostile import Case, check, part, refused, split
from tests.hostile.files import data_bombs


def answer(code: int, content: bytes = b"", length: int | None = None, **headers: str) -> Callable:
    """A complete answer of a mirror."""

    def send(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        handler.end_headers()
        handler.wfile.write(content)

    return send


def drip(start: bytes, piece: bytes) -> Callable:
    """An answer that sends a few bytes at a time for a long time."""

    def send(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        for _ in range(100):
            handler.wfile.write(piece)
            time.sleep(0.05)

    return send


def reset(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Reset the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


@part(cases=0, quick=30, cpu=10)
def mirrors(folder: Path) -> Case:
    """Three mirrors, each good or with a fault, in all orders."""
    x, y, *_ = split(200, 40)
    good, npz = formats.idx_bytes(y), io.BytesIO()
    np.savez_compressed(npz, x_train=x, y_train=y)
    mnist.DIGESTS = {key: hashlib.sha256(good).hexdigest() for key in mnist.DIGESTS}
    mnist.READ_TIMEOUT, mnist.DOWNLOAD_TIMEOUT = 0.5, 1.0
    packed, other = gzip.compress(good, 1), gzip.compress(formats.idx_bytes(9 - y), 1)
    head = b"HTTP/1.0 200 OK\r\nContent-Length: 99999\r\n"
    sends = {
        "good": answer(200, packed),
        "good-npz": answer(200, npz.getvalue()),
        "404": answer(404, b"<html>not here</html>"),
        "403": answer(403),
        "503": answer(503, b"\x1b[31mtry later\n" * 99),
        "page": answer(200, b"<html>log in first</html>"),
        "empty": answer(200),
        "cut": answer(200, packed[:-9], len(packed)),
        "good-longer": answer(200, packed + b"more", len(packed)),
        "other": answer(200, other),
        "raw": answer(200, bytes(range(256)) * 10),
        "bomb": answer(200, data_bombs()[0][1]["train-images-idx3-ubyte.gz"]),
        "too-large": answer(200, bytes(mnist.MAX_BYTES + 2**20)),
        "loop": lambda handler: answer(302, Location=handler.path)(handler),
        "elsewhere": answer(302, Location="ftp://127.0.0.1:9/x"),
        "slow-head": drip(b"HTTP/1.0 200 OK\r\n", b"X-A: b\r\n"),
        "slow-body": drip(head + b"\r\n", b"x"),
        "silent": lambda handler: time.sleep(2),
        "junk": drip(b"\xff\x00\n" * 50, b""),
        "reset": reset,
    }
    orders = list(itertools.product(sends, repeat=3))
    random.Random(0).shuffle(orders)

    class Mirror(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):  # the client has gone
                sends[self.path.split("/")[1]](self)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    server.daemon_threads, server.handle_error = True, lambda *_: None
    multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True).start()

    def case(rng: random.Random, number: int) -> str:
        order = orders[number % len(orders)]
        gc.collect()  # an exception of the case before holds what was downloaded
        address = f"http://127.0.0.1:{server.server_port}"
        endings = [
            "data.npz" if kind == "good-npz" or (kind[:4] != "good" and rng.random() < 0.3) else "" for kind in order
        ]
        mnist.MIRRORS[:] = [f"{address}/{kind}/{ending}" for kind, ending in zip(order, endings, strict=True)]
        shutil.rmtree("mnist", ignore_errors=True)
        works = next((url for url, kind in zip(mnist.MIRRORS, order, strict=True) if kind.startswith("good")), None)
        log = []
        try:
            content = mnist.fetch("train", "labels", Path("mnist"), log.append)
        except mnist.NotFound as error:
            if works and mnist.READ_TIMEOUT < 5:  # on a busy machine a good mirror may be too slow
                with mock.patch.multiple(mnist, READ_TIMEOUT=10, DOWNLOAD_TIMEOUT=20):
                    return case(rng, number)
            check(not works, f"{order}: the good mirror was not used: {error}")
            check(all(url in str(error) for url in mnist.MIRRORS), f"{order}: not all are named: {error}")
            check(not Path("mnist").exists(), f"{order}: files are left")
            check(str(error).isprintable(), f"{order}: {str(error)!r}")
            return refused(error)
        check(content == good and log[-1] == f"downloaded from {works}", f"{order}: {log}")
        saved = [mnist.read_verified("train", "labels", path) for path in Path("mnist").iterdir()]
        check(saved == [good], f"{order}: something else was saved")
        return "accepted"

    case.total = len(orders)
    return case
