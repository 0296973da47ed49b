"""data/mnist.py: finding, verifying and downloading MNIST's files."""

import gzip
import hashlib
import http.server
import io
import threading
import time

import numpy as np
import pytest

import data
from data import mnist
from data.formats import DataError, idx_bytes, idx_names

PREFIXES = {"train": "train", "test": "t10k"}


@pytest.fixture
def tiny_mnist(digits, monkeypatch):
    """Make `mnist` accept the 800 small digits as MNIST; returns {(split, kind): IDX bytes}."""
    files = {}
    for split, (images, labels) in zip(PREFIXES, digits, strict=True):
        files[split, "images"], files[split, "labels"] = idx_bytes(images), idx_bytes(labels)
    monkeypatch.setattr(mnist, "DIGESTS", {key: hashlib.sha256(b).hexdigest() for key, b in files.items()})
    return files


def write(folder, files, mark="-", compressed=True):
    folder.mkdir(exist_ok=True)
    for (split, kind), content in files.items():
        name = f"{PREFIXES[split]}-{kind}{mark}idx{3 if kind == 'images' else 1}-ubyte"
        (folder / (name + (".gz" if compressed else ""))).write_bytes(
            gzip.compress(content, 1) if compressed else content
        )


@pytest.mark.parametrize("mark", "-.")
@pytest.mark.parametrize("compressed", [True, False])
def test_every_usual_name(tiny_mnist, tmp_path, digits, mark, compressed):
    write(tmp_path / "here", tiny_mnist, mark, compressed)
    for split, (images, labels) in zip(PREFIXES, digits, strict=True):
        x, y, name = data.load("auto", split, tmp_path / "here")
        assert (x == images).all() and (y == labels).all() and name == "mnist"


def test_a_gz_that_a_browser_decompressed(tiny_mnist, tmp_path, digits):
    write(tmp_path / "here", tiny_mnist, compressed=False)
    for path in (tmp_path / "here").iterdir():
        path.rename(f"{path}.gz")
    assert (data.load("mnist", "train", tmp_path / "here")[0] == digits[0][0]).all()


def test_mnist_dir(tiny_mnist, tmp_path, monkeypatch):
    write(tmp_path / "here", tiny_mnist)
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "here"))
    assert data.load("auto", "train")[2] == "mnist"


@pytest.mark.parametrize("dataset", ["auto", "mnist"])
@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda b: gzip.compress(b)[:-20], "damaged gzip"),
        (lambda b: b[:-20], "cut short"),
        (lambda b: b"<html>404</html>", "HTML"),
        (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "not MNIST's train images"),
    ],
)
def test_a_bad_file_of_the_user_is_an_error_not_a_fallback(tiny_mnist, tmp_path, dataset, damage, message):
    write(tmp_path / "here", tiny_mnist, compressed=False)
    path = tmp_path / "here" / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        data.load(dataset, "train", tmp_path / "here")
    assert str(path) in str(caught.value) and "remove it" in str(caught.value)
    assert path.exists()


def test_no_file_is_decompressed_beyond_mnists_largest(tiny_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "MAX_CONTENT", 600 * 784 + 16)
    write(tmp_path / "here", tiny_mnist)
    data.load("mnist", "train", tmp_path / "here")
    write(tmp_path / "here", {("train", "images"): tiny_mnist["train", "images"] + b"!"})
    with pytest.raises(DataError, match="more than 470,416 bytes"):
        data.load("mnist", "train", tmp_path / "here")


def test_only_the_files_of_the_split_are_opened(tiny_mnist, tmp_path):
    write(tmp_path / "here", {key: b for key, b in tiny_mnist.items() if key[0] == "train"})
    for kind in ("images-idx3", "labels-idx1"):
        (tmp_path / "here" / f"t10k-{kind}-ubyte.gz").write_text("must not be read")
    assert data.load("mnist", "train", tmp_path / "here")[2] == "mnist"


# --- downloads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tiny_mnist, digits):
    """A mirror on this machine; each of its folders fails in its own way."""
    buffer = io.BytesIO()
    (x, y), (u, v) = digits
    np.savez(buffer, x_train=x, y_train=y, x_test=u, y_test=v)
    names = {key: idx_names(*key)[0] for key in tiny_mnist}
    files = {f"/good/{names[key]}": gzip.compress(b, 1) for key, b in tiny_mnist.items()}
    files |= {f"/cut/{name.removeprefix('/good/')}": b[:-100] for name, b in files.items()}
    files |= {f"/html/{name}": b"<html>please log in</html>" for name in names.values()}
    files |= {f"/other/{names[key]}": gzip.compress(b + b"!", 1) for key, b in tiny_mnist.items()}
    files["/all.npz"] = buffer.getvalue()

    class Handler(http.server.BaseHTTPRequestHandler):
        requests: list = []  # noqa: RUF012

        def do_GET(self):
            self.requests.append(self.path)
            if self.path.startswith("/slow/"):
                self.send_response(200)
                self.end_headers()
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            elif self.path.startswith("/drip/"):  # a header without end
                self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            elif self.path.startswith("/talk/"):
                self.send_error(503, "no \x1b[31m" + 3000 * "so ")
            elif self.path.startswith("/lost/"):  # promises more than it sends
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"x" * 10)
            elif self.path in files:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(files[self.path])
            else:
                self.send_error(404)

        def log_message(self, *_):
            pass

        def handle_one_request(self):
            try:
                super().handle_one_request()
            except OSError:  # the client has closed the connection
                self.close_connection = True

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, args=[0.01], daemon=True).start()
        listening.address = f"http://127.0.0.1:{listening.server_port}"
        listening.requests = Handler.requests
        Handler.requests.clear()
        yield listening
        listening.shutdown()


@pytest.mark.parametrize(
    "first", ["missing/", "html/", "cut/", "other/", "lost/", "slow/", "drip/", "talk/", "all.npz", ":refused"]
)
def test_the_next_mirror_is_tried(server, tmp_path, monkeypatch, digits, first):
    bad = "http://127.0.0.1:9/" if first == ":refused" else f"{server.address}/{first}"
    monkeypatch.setattr(mnist, "MIRRORS", [bad, f"{server.address}/good/"])
    monkeypatch.setattr(mnist, "DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(mnist, "MAX_BYTES", 600 * 784)  # less than all.npz has
    x, y, name = data.load("mnist", "train", tmp_path / "new")
    assert (x == digits[0][0]).all() and (y == digits[0][1]).all() and name == "mnist"
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    }
    count = len(server.requests)
    data.load("mnist", "train", tmp_path / "new")
    assert len(server.requests) == count, "downloaded again"


def test_the_npz_mirror(server, tmp_path, monkeypatch, digits):
    monkeypatch.setattr(mnist, "MIRRORS", [f"{server.address}/all.npz"])
    assert (data.load("mnist", "test", tmp_path / "new")[0] == digits[1][0]).all()
    assert (data.load("mnist", "test", tmp_path / "new")[0] == digits[1][0]).all()


@pytest.mark.parametrize("mirror", ["all.npz", "good/"])
def test_nothing_from_a_mirror_is_decompressed_beyond_mnists_largest(server, tmp_path, monkeypatch, mirror):
    monkeypatch.setattr(mnist, "MIRRORS", [f"{server.address}/{mirror}"])
    monkeypatch.setattr(mnist, "MAX_CONTENT", 599 * 784)
    with pytest.raises(DataError, match="too large"):
        data.load("mnist", "train", tmp_path / "new")


def test_if_all_fail_every_cause_is_told_and_nothing_is_left(server, tmp_path, monkeypatch):
    causes = {
        "missing/": "404",
        "html/": "SHA-256",
        "cut/": "damaged gzip",
        "other/": "SHA-256",
        "lost/": "IncompleteRead",
        "slow/": "too slow",
        "drip/": "too slow",
        "talk/": "503",
        "all.npz": "far more bytes",
    }
    monkeypatch.setattr(mnist, "MIRRORS", [f"{server.address}/{mirror}" for mirror in causes])
    monkeypatch.setattr(mnist, "DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(mnist, "MAX_BYTES", 600 * 784)
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        data.load("mnist", "train", tmp_path / "new")
    assert time.monotonic() - start < 3, "each mirror gets 0.3 s"
    message = str(caught.value)
    assert message.isprintable() and all(len(part) < 250 for part in message.split(";"))
    for mirror, cause in causes.items():
        part = next(part for part in message.split(";") if f"/{mirror}" in part)
        assert cause in part.rpartition(f"/{mirror}")[2]
    assert "MNIST_DIR" in message and "\n" not in message
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-images.idx3-ubyte"])
def test_a_bad_file_in_the_default_folder_is_downloaded_again(server, tiny_mnist, tmp_path, monkeypatch, digits, name):
    monkeypatch.setattr(mnist, "__file__", str(tmp_path / "mnist.py"))
    monkeypatch.delenv("MNIST_DIR", raising=False)
    monkeypatch.setattr(mnist, "MIRRORS", [f"{server.address}/good/"])
    write(tmp_path / "raw", {("train", "labels"): tiny_mnist["train", "labels"]})
    (tmp_path / "raw" / name).write_bytes(b"half")
    messages = []
    assert (data.load("mnist", "train", None, messages.append)[0] == digits[0][0]).all()
    assert any("again" in message for message in messages)
    mnist.read_verified("train", "images", tmp_path / "raw" / "train-images-idx3-ubyte.gz")
    messages.clear()
    assert (data.load("mnist", "train", None, messages.append)[0] == digits[0][0]).all() and not messages


def test_mirrors_with_the_same_failure_are_named_together(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "MIRRORS", ["http://127.0.0.1:9/a/", "http://127.0.0.1:9/b/"])
    with pytest.raises(mnist.NotFound, match=r"http://127.0.0.1:9/a/, http://127.0.0.1:9/b/: [^;]*refused\)"):
        mnist.load("train", tmp_path / "new")


def test_writers(server, tmp_path, monkeypatch):
    table = np.arange(24, dtype=">i4").reshape(3, 8)
    content = bytes([0, 0, 12, 2]) + np.array(table.shape, ">i4").tobytes() + table.tobytes()
    monkeypatch.setitem(mnist.DIGESTS, ("train", "writers"), hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(mnist, "WRITERS_MIRRORS", [f"{server.address}/good/"])
    with pytest.raises(mnist.NotFound, match=r"404.*: put it there"):
        mnist.load_writers(tmp_path)
    path = tmp_path / "qmnist-train-labels-idx2-int.gz"
    for stored in gzip.compress(content), content:
        path.write_bytes(stored)
        assert mnist.load_writers(tmp_path).tolist() == [2, 10, 18]
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(DataError, match="qmnist"):
        mnist.load_writers(tmp_path)
