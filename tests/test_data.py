"""Finding, reading, verifying and downloading digits."""

import gzip
import hashlib
import http.server
import io
import threading
import time

import numpy as np
import pytest

import data
from data import formats, mnist, synthetic
from data.formats import DataError, idx_bytes, parse_idx

PARTS = {"train": "train", "test": "t10k"}


@pytest.fixture
def tiny_mnist(digits, monkeypatch):
    """Make `mnist` believe that the 800 small digits are MNIST; returns {(part, kind): IDX bytes}."""
    files = {}
    for part, (images, labels) in zip(PARTS, digits, strict=True):
        files[part, "images"], files[part, "labels"] = idx_bytes(images), idx_bytes(labels)
    monkeypatch.setattr(mnist, "DIGESTS", {key: hashlib.sha256(b).hexdigest() for key, b in files.items()})
    return files


def put(folder, files, mark="-", packed=True):
    folder.mkdir(exist_ok=True)
    for (part, kind), content in files.items():
        name = f"{PARTS[part]}-{kind}{mark}idx{3 if kind == 'images' else 1}-ubyte"
        (folder / (name + (".gz" if packed else ""))).write_bytes(gzip.compress(content, 1) if packed else content)


# --- formats ----------------------------------------------------------------------------------------------------------


def test_idx_both_ways(digits):
    for array in digits[0]:
        assert (parse_idx(idx_bytes(array), "x") == array).all()
    assert idx_bytes(np.array([7, 8], np.uint8)) == b"\0\0\x08\x01\0\0\0\x02\x07\x08"


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "not an IDX"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (idx_bytes(np.zeros((2, 3, 3), np.uint8))[:-1], "cut short"),
        (b"\0\0\x08\x03\0\0\0\x02", "not an IDX"),
        (b"\0\0\x0d\x01\0\0\0\0", "not an IDX"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "cut short"),
    ],
)
def test_broken_idx(content, says):
    with pytest.raises(DataError, match=says):
        parse_idx(content, "x")


def test_any_folder_or_npz_can_be_read(digits, archive, idx_folder):
    for part, (images, labels) in zip(PARTS, digits, strict=True):
        for path in (archive, idx_folder):
            x, y, name = data.load(str(path), part)
            assert (x == images).all() and (y == labels).all() and y.dtype == np.int64 and name == path.stem


def test_no_file_passes_for_mnist(archive, idx_folder, tmp_path):
    for name in ("mnist", "synthetic"):
        (tmp_path / f"{name}.npz").write_bytes(archive.read_bytes())
        idx_folder = idx_folder.rename(tmp_path / name)
        assert data.load(str(tmp_path / f"{name}.npz"), "train")[2] == f"{name}-files"
        assert data.load(f"{tmp_path}/{name}/", "train")[2] == f"{name}-files"


def test_unusable_data_is_named(tmp_path, digits):
    (x, y), _ = digits
    np.savez(tmp_path / "floats.npz", x_train=x / 255, y_train=y)
    np.savez(tmp_path / "labels.npz", x_train=x, y_train=y + 1)
    np.savez(tmp_path / "names.npz", images=x, labels=y)
    np.savez(tmp_path / "objects.npz", x_train=np.array([{}]), y_train=y)
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "notes.txt").write_text("hello")
    for name in ("floats.npz", "labels.npz", "names.npz", "objects.npz", "text.npz", "notes.txt", "nothing", ""):
        with pytest.raises(DataError, match=str(tmp_path / name)):
            data.load(str(tmp_path / name), "train")


def test_shares_are_rounded():
    images, labels = np.zeros((19, 28, 28), np.uint8), np.zeros(19, np.int64)
    training, validation = data.split(images, labels, 0.1, "mnist", np.random.default_rng(0))
    assert (len(training[0]), len(validation[0])) == (17, 2)


def test_split(digits):
    (x, y), _ = digits
    rng = np.random.default_rng(0)
    (a, b), (c, d) = data.split(x, y, 100, "mnist", rng)
    assert (a == x[:500]).all() and (b == y[:500]).all() and (c == x[500:]).all() and (d == y[500:]).all()
    assert len(data.split(x, y, 0.2, "mnist", rng)[1][0]) == 120
    assert data.split(x, y, 0, "mnist", rng)[1] is None
    order = np.argsort(y, kind="stable")  # sorted by class, as a folder may be: validation must not be all nines
    training, validation = data.split(x[order], y[order], 100, "mine", rng)
    assert len(set(validation[1])) == 10 and sorted([*training[1], *validation[1]]) == sorted(y)
    with pytest.raises(DataError, match="600"):
        data.split(x, y, 600, "mnist", rng)


# --- finding MNIST ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", "-.")
@pytest.mark.parametrize("packed", [True, False])
def test_every_usual_name(tiny_mnist, tmp_path, digits, mark, packed):
    put(tmp_path / "here", tiny_mnist, mark, packed)
    for part, (images, labels) in zip(PARTS, digits, strict=True):
        x, y, name = data.load("auto", part, tmp_path / "here")
        assert (x == images).all() and (y == labels).all() and name == "mnist"


def test_a_gz_that_a_browser_unzipped(tiny_mnist, tmp_path, digits):
    put(tmp_path / "here", tiny_mnist, packed=False)
    for path in (tmp_path / "here").iterdir():
        path.rename(f"{path}.gz")
    assert (data.load("mnist", "train", tmp_path / "here")[0] == digits[0][0]).all()


def test_mnist_dir(tiny_mnist, tmp_path, monkeypatch):
    put(tmp_path / "here", tiny_mnist)
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "here"))
    assert data.load("auto", "train")[2] == "mnist"


@pytest.mark.parametrize("dataset", ["auto", "mnist"])
@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda b: gzip.compress(b)[:-20], "damaged gzip"),
        (lambda b: b[:-20], "cut short"),
        (lambda b: b"<html>404</html>", "HTML"),
        (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "not MNIST's train images"),
    ],
)
def test_a_bad_file_of_the_users_is_an_error_not_a_fallback(tiny_mnist, tmp_path, dataset, damage, says):
    put(tmp_path / "here", tiny_mnist, packed=False)
    path = tmp_path / "here" / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=says) as caught:
        data.load(dataset, "train", tmp_path / "here")
    assert str(path) in str(caught.value) and "remove it" in str(caught.value)
    assert path.exists()


def test_only_the_files_of_the_part_are_opened(tiny_mnist, tmp_path):
    put(tmp_path / "here", {key: b for key, b in tiny_mnist.items() if key[0] == "train"})
    for kind in ("images-idx3", "labels-idx1"):
        (tmp_path / "here" / f"t10k-{kind}-ubyte.gz").write_text("not to be read")
    assert data.load("mnist", "train", tmp_path / "here")[2] == "mnist"


# --- downloading it ---------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tiny_mnist, digits):
    """A mirror on this machine; its folders fail each in its own way."""
    buffer = io.BytesIO()
    (x, y), (u, v) = digits
    np.savez(buffer, x_train=x, y_train=y, x_test=u, y_test=v)
    files = {f"/good/{mnist.NAMES[key]}": gzip.compress(b) for key, b in tiny_mnist.items()}
    files |= {f"/cut/{name.removeprefix('/good/')}": b[:-100] for name, b in files.items()}
    files |= {f"/html/{mnist.NAMES[key]}": b"<html>please log in</html>" for key in tiny_mnist}
    files |= {f"/other/{mnist.NAMES[key]}": gzip.compress(b + b"!") for key, b in tiny_mnist.items()}
    files["/all.npz"] = buffer.getvalue()

    class Handler(http.server.BaseHTTPRequestHandler):
        asked: list = []  # noqa: RUF012

        def do_GET(self):
            self.asked.append(self.path)
            if self.path.startswith("/slow/"):
                self.send_response(200)
                self.end_headers()
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
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
            except OSError:  # the client lost patience
                self.close_connection = True

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        listening.address = f"http://127.0.0.1:{listening.server_port}"
        listening.asked = Handler.asked
        Handler.asked.clear()
        yield listening
        listening.shutdown()


@pytest.mark.parametrize("first", ["missing/", "html/", "cut/", "other/", "lost/", "slow/", ":refused"])
def test_the_next_mirror_helps(server, tmp_path, monkeypatch, digits, first):
    bad = "http://127.0.0.1:9/" if first == ":refused" else f"{server.address}/{first}"
    monkeypatch.setattr(mnist, "MIRRORS", [bad, f"{server.address}/good/"])
    monkeypatch.setattr(mnist, "PATIENCE", 0.3)
    x, y, name = data.load("mnist", "train", tmp_path / "new")
    assert (x == digits[0][0]).all() and (y == digits[0][1]).all() and name == "mnist"
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(mnist.NAMES["train", k] for k in mnist.KINDS)
    count = len(server.asked)
    data.load("mnist", "train", tmp_path / "new")
    assert len(server.asked) == count, "downloaded again"


def test_the_npz_mirror(server, tmp_path, monkeypatch, digits):
    monkeypatch.setattr(mnist, "MIRRORS", [f"{server.address}/all.npz"])
    assert (data.load("mnist", "test", tmp_path / "new")[0] == digits[1][0]).all()
    assert (data.load("mnist", "test", tmp_path / "new")[0] == digits[1][0]).all()


def test_when_all_fail_every_cause_is_told_and_nothing_is_left(server, tmp_path, monkeypatch):
    bad = ["missing/", "html/", "cut/", "other/"]
    monkeypatch.setattr(mnist, "MIRRORS", [f"{server.address}/{b}" for b in bad])
    with pytest.raises(DataError) as caught:
        data.load("mnist", "train", tmp_path / "new")
    message = str(caught.value)
    assert all(b in message for b in [*bad, "404", "MNIST_DIR"]) and "\n" not in message
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


def test_a_bad_file_in_our_own_folder_is_fetched_again(server, tiny_mnist, tmp_path, monkeypatch, digits):
    monkeypatch.setattr(mnist, "__file__", str(tmp_path / "mnist.py"))
    monkeypatch.delenv("MNIST_DIR", raising=False)
    monkeypatch.setattr(mnist, "MIRRORS", [f"{server.address}/good/"])
    put(tmp_path / "raw", {key: b for key, b in tiny_mnist.items() if key[0] == "train"})
    (tmp_path / "raw" / mnist.NAMES["train", "images"]).write_bytes(b"half")
    notes = []
    assert (data.load("mnist", "train", None, notes.append)[0] == digits[0][0]).all()
    assert any("again" in line for line in notes)
    mnist.verified("train", "images", tmp_path / "raw" / mnist.NAMES["train", "images"])


# --- without MNIST ----------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """Only a few synthetic digits."""
    monkeypatch.setattr(synthetic, "COUNTS", {"train": 300, "test": 100})


def test_auto_falls_back_loudly(tmp_path, few):
    notes = []
    images, labels, name = data.load("auto", "train", tmp_path, notes.append)
    assert name == "synthetic" and images.shape == (300, 28, 28) and labels.shape == (300,)
    assert sum("WARNING" in line for line in notes) == 2 and any("SYNTHETIC" in line for line in notes)
    with pytest.warns(UserWarning) as warned:  # who takes no notes is told as well
        data.load("auto", "train", tmp_path)
    assert "SYNTHETIC" in str(warned[-1].message)
    with pytest.raises(DataError, match="MNIST_DIR"):
        data.load("mnist", "train", tmp_path)


def test_synthetic_digits_are_kept_and_always_the_same(tmp_path, few, monkeypatch):
    x, y = synthetic.load("train", tmp_path)
    again, _ = synthetic.load("train", tmp_path / "elsewhere")
    assert (x == again).all()
    monkeypatch.setattr(synthetic, "draw", None)  # from now on only the file can help
    kept, labels = synthetic.load("train", tmp_path)
    assert (kept == x).all() and (labels == y).all()


def test_synthetic_digits_differ_by_seed_and_part(tmp_path, few):
    x, _ = synthetic.load("train", tmp_path)
    assert (x != synthetic.load("train", tmp_path, seed=1)[0]).any()
    assert (x[:100] != synthetic.load("test", tmp_path)[0]).any()


def test_a_damaged_cache_is_drawn_again(tmp_path, few):
    x, _ = synthetic.load("train", tmp_path)
    (tmp_path / "synthetic-train.npz").write_bytes(b"half")
    assert (synthetic.load("train", tmp_path)[0] == x).all()


def test_synthetic_digits_look_like_digits(digits):
    (x, y), _ = digits
    assert x.dtype == np.uint8 and set(y) == set(range(10))
    ink = (x > 100).mean(axis=(1, 2))
    assert (ink > 0.02).all() and (ink < 0.6).all()
    assert (x[:, 0] == 0).mean() > 0.9, "the border is empty"
    rows = np.arange(28)
    centre = (x.sum(axis=2) @ rows) / x.sum(axis=(1, 2))
    assert abs(centre - 13.5).mean() < 2


def test_formats_know_mnists_names():
    for (part, kind), name in mnist.NAMES.items():
        assert name.startswith(PARTS[part]) and kind in name and formats.MAGIC[int(name.split("idx")[1][0])] == kind
