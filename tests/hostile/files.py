"""Hostile files: models, datasets, photos, checkpoints, journals."""

import contextlib
import functools
import gzip
import io
import json
import pickle
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import storage
from app import training
from app.config import Config
from data import formats, mnist_pickle, photo, segment
from network import DivergenceError, Network
from nn.convolution import Conv2D, Flatten, MaxPool2D
from nn.layers import BatchNorm, Dense, ReLU
from search import report
from search.config import SearchConfig
from search.trial import SearchError, checksum
from tests import search_helpers
from tests.hostile import Case, check, digits, encoded, mutants, part, refused, split


def layout(arrays: dict[str, np.ndarray]) -> dict[str, tuple]:
    """Arrays in a form in which == means the same to the bit."""
    return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}


@part(cases=1_000_000, quick=3000, cpu=2)
def models(folder: Path) -> Case:
    """Model files."""
    path, samples = folder / "m.npz", []
    stacks = {(4,): [[Dense(3), ReLU(), Dense(2)], [Dense(3)]]}
    stacks[5, 1, 5] = [[Conv2D(2, 3), BatchNorm(), ReLU(), MaxPool2D(2), Flatten(), Dense(2)]]
    for shape, layers in ((shape, layers) for shape, some in stacks.items() for layers in some):
        network = Network(layers, input_shape=shape, seed=1)
        network.metadata = {"dataset": "mnist", "recipe": {"epochs": 2, "hidden": [3]}, "accuracy": 0.5}
        network.save(path)
        samples.append((path.read_bytes(), *storage.read(path, "model")))

    def case(rng: random.Random, number: int) -> str:
        content, description, arrays = rng.choice(samples)
        signed = rng.random() < 0.4
        content = mutants.resigned(rng, description, arrays) if signed else mutants.archive(rng, content)
        path.write_bytes(content if number % 10_000 else mutants.many_members(300_000))
        try:
            network = Network.load(path)
        except storage.StorageError as error:
            return refused(error)
        if not signed:
            found = storage.read(path, "model")
            same = found[0] == description and layout(found[1]) == layout(arrays)
            check(same, "it was read as another model", "different")
            return "same"
        images = np.repeat(np.array([[0], [100], [255]], np.uint8), np.prod(network.input_shape), axis=1)
        try:
            check(np.isfinite(network.predict_proba(images)).all(), "predictions that are not finite")
        except DivergenceError as error:
            return refused(error)
        return "accepted"

    return case


def data_files() -> dict[str, dict[str, bytes]]:
    """Digits in every format: format -> path -> content."""
    x, y, u, v = split(8, 4)
    idx = {
        formats.idx_names(name, kind)[1]: formats.idx_bytes(array)
        for name, pair in {"train": (x, y), "test": (u, v)}.items()
        for kind, array in zip(("images", "labels"), pair, strict=True)
    }
    stored, deflated, triple, table = (io.BytesIO() for _ in range(4))
    np.savez(stored, x_train=x, y_train=y, x_test=u, y_test=v)
    formats.write_npz(deflated, {"train": (x, y), "test": (u, v)})
    mnist_pickle.write(triple, (x, y), (u, v))
    formats.write_csv(table, x, y)
    files = {
        "idx": idx,
        "idx.gz": {f"{name}.gz": gzip.compress(content, 1) for name, content in idx.items()},
        "npz": {"a.npz": stored.getvalue()},
        "npz, deflated": {"a.npz": deflated.getvalue()},
        "pkl.gz": {"a.pkl.gz": triple.getvalue()},
        "csv": {"a.csv": table.getvalue()},
        "csv.gz": {"train.csv.gz": gzip.compress(table.getvalue(), 1)},
        "folders": {f"{y[i]}/{i}.{kind}": encoded(x[i], kind) for i, kind in enumerate(["png", "jpg"] * 2)},
    }
    return files | {f"pkl {p}": {"a.pkl": pickle.dumps(((x, y), (u, v)), p)} for p in range(6)}


@functools.cache
def data_bombs() -> list[tuple[str, dict[str, bytes]]]:
    """Small files that decompress to 400 MB, or take long: the path to read, and the files, by path."""
    zeros, count, few = bytes(2**20), 400, split(8, 4)[1]
    images, labels = (f"{name}.gz" for name in list(data_files()["idx"])[:2])

    def idx(*shape: int) -> bytes:
        return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()

    def npy(*shape: int) -> bytes:
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117)
        return b"\x93NUMPY\1\0" + (118).to_bytes(2, "little") + f"{header}\n".encode()

    argument = b"\x80\x02B" + np.array([count * 2**20], "<u4").tobytes()
    pickles = (
        mutants.gzip_bomb(argument, zeros, count, b"."),
        mutants.gzip_bomb(b"\x80\2(", b"K\0" * 2**19, count, b"t."),
    )
    archives = [
        mutants.zip_bomb(("x_train.npy", npy(534_000, 28, 28), zeros, count), ("y_train.npy", npy(0), b"", 0)),
        mutants.zip_bomb(("x_train.npy", npy(8, 28, 28), b"", 0), ("y_train.npy", npy(400_000_000), zeros, count)),
        mutants.zip_bomb(("x_train.npy", npy(8, 28, 28), zeros, count), ("y_train.npy", npy(8), zeros, count)),
        mutants.many_members(300_000),
    ]
    blocks = zeros, b"\n" * 2**20, b"0," * 2**19, b"a" * 2**20
    good = gzip.compress(formats.idx_bytes(split(8, 4)[0]))
    return [
        *(("", {images: mutants.gzip_bomb(head, zeros, count), labels: formats.idx_bytes(few)})
          for head in (b"", idx(8, 28, 28), idx(534_000, 28, 28))),
        ("", {images: good, labels: mutants.gzip_bomb(idx(400_000_000), zeros, count)}),
        *(("a.pkl.gz", {"a.pkl.gz": content}) for content in pickles),
        *(("a.npz", {"a.npz": content}) for content in archives),
        *(("a.csv.gz", {"a.csv.gz": mutants.gzip_bomb(b"", block, count)}) for block in blocks),
    ]  # fmt: skip


@part(cases=100_000, quick=1400, cpu=2)
def datasets(folder: Path) -> Case:
    """Files and folders of digits in every format that data/formats.py reads."""
    files, bombs = data_files(), data_bombs()
    for form, contents in files.items():
        for name, content in contents.items():
            (folder / form / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / form / name).write_bytes(content)

    def mutant(rng: random.Random, form: str, name: str) -> bytes:
        content = files[form][name]
        if name.endswith(".gz"):
            return mutants.zipped(rng, content, mutants.pickled if "pkl" in form else mutants.flip)
        change = {"npz": mutants.archive, "pkl": mutants.pickled, "png": mutants.png}.get(name[-3:], mutants.flip)
        return change(rng, content) if rng.random() < 0.7 else mutants.flip(rng, content)

    def case(rng: random.Random, number: int) -> str:
        if number % 100 == 0:
            name, contents = bombs[number // 100 % len(bombs)]
            form = "bomb"
        else:
            form = rng.choice(list(files))
            changed = rng.choice(list(files[form]))
            name = "" if len(files[form]) > 1 or form == "csv.gz" else changed
            contents = {changed: mutant(rng, form, changed)}
        (folder / form).mkdir(exist_ok=True)
        for file, content in contents.items():
            (folder / form / file).write_bytes(content)
        try:
            split = "train" if form == "bomb" else rng.choice(("train", "test"))
            images, labels = formats.read(folder / form / name, split)
        except formats.DataError as error:
            return refused(error)
        finally:
            for file in contents:
                if form == "bomb":
                    (folder / form / file).unlink()
                else:
                    (folder / form / file).write_bytes(files[form][file])
        check(images.dtype == np.uint8 and images.shape == (len(labels), 28, 28) and len(labels), "no images")
        check(labels.dtype == np.int64 and labels.min() >= 0 and labels.max() <= 9, "labels out of range")
        return "accepted"

    return case


@part(cases=20_000, quick=250, cpu=1)
def photos(folder: Path) -> Case:
    """Photos of all formats, some of them with EXIF data."""
    gray = np.pad(255 - digits()[0][0].repeat(2, axis=0).repeat(2, axis=1), 8, constant_values=255)
    colour, exif = np.stack([gray, gray, gray // 2 + 100], axis=2), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a digit"
    deep = gray.astype(np.int32) * 250
    samples = [
        (kind, encoded(image, kind)) for kind in ("png", "jpg", "bmp", "gif", "tif", "webp") for image in (gray, colour)
    ]
    samples += [(kind, encoded(colour, kind, exif=exif)) for kind in ("png", "jpg", "tif", "webp")]
    samples += [("png", encoded(deep.astype(np.uint16), "png")), ("tif", encoded(gray.astype(np.float32), "tif"))]
    samples += [("jpg", encoded(colour, "jpg", progressive=True)), ("webp", encoded(colour, "webp", lossless=True))]
    samples += [("tif", encoded(gray, "tif", compression=c)) for c in ("tiff_lzw", "tiff_deflate", "packbits")]

    def case(rng: random.Random, number: int) -> str:
        kind, content = rng.choice(samples)
        content = mutants.png(rng, content) if kind == "png" and rng.random() < 0.6 else mutants.flip(rng, content)
        path = folder / f"a.{rng.choice((kind, kind, kind, 'png'))}"
        path.write_bytes(content)
        try:
            found = segment.digits(photo.read(path))
            photo.thumbnail(path)
        except photo.PhotoError as error:
            return refused(error)
        for digit in found:
            check(digit.image.dtype == np.uint8 and digit.image.shape == (28, 28), "no image")
            left, top, right, bottom = digit.box
            check(0 <= left < right <= 1 and 0 <= top < bottom <= 1, f"a box {digit.box}")
        check(len(found) > 0, "neither a digit nor an error")
        return "accepted"

    return case


# --- checkpoints and journals ---------------------------------------------------------------------------------------


@part(cases=60_000, quick=800, cpu=2)
def checkpoints(folder: Path) -> Case:
    """Checkpoints of a training that is resumed."""
    x, y, u, v = split(40, 20)
    path, samples = folder / "checkpoint.npz", []
    configs = Config(hidden=[1]), Config(layers="conv 1 9 stride 9, batchnorm, relu", validation=0)
    for config in (replace(config, epochs=4, batch_size=20, dataset="tiny") for config in configs):
        network, run = config.build_network(), training.Run({"dataset": "tiny", "recipe": config.settings()})
        for record in network.fit(x, y, (u, v) if config.validation else None, **config.fit_settings() | {"epochs": 2}):
            run.record_epoch(record, network)
        run.save(path, network)
        samples.append((config, run, path.read_bytes(), *storage.read(path, "checkpoint")))

    def state(run: training.Run, network: Network) -> tuple:
        groups = network.arrays(), run.after_epoch_1, run.best, {"velocity": network.velocity}
        return run.history, *map(layout, groups)

    def resumed(config: Config, metadata: dict) -> tuple[training.Run, Network]:
        run, network = training.Run(metadata), config.build_network()
        run.resume(path, network)
        return run, network

    states = []
    for config, run, content, *_ in samples:
        path.write_bytes(content)
        states.append(state(*resumed(config, run.metadata)))

    def case(rng: random.Random, number: int) -> str:
        i, signed = rng.randrange(len(samples)), rng.random() < 0.6
        config, original, content, description, arrays = samples[i]
        path.write_bytes(mutants.resigned(rng, description, arrays) if signed else mutants.archive(rng, content))
        try:
            run, network = resumed(config, original.metadata)
        except storage.StorageError as error:
            return refused(error)
        if state(run, network) == states[i]:
            return "same"
        check(signed, "it was resumed in another state", "different")
        with contextlib.suppress(DivergenceError), np.errstate(all="ignore"):
            training.best_epoch(run.history)
            rest = config.fit_settings() | {"history": run.history}
            for record in network.fit(x, y, (u, v) if config.validation else None, **rest):
                run.record_epoch(record, network)
                training.format_record(record, {key: training.COLUMNS[key] for key in record})
        return "accepted"

    return case


@part(cases=40_000, quick=800, cpu=2)
def journals(folder: Path) -> Case:
    """Results files of a search that is resumed."""
    path = folder / "search.jsonl"
    space = search_helpers.dimensions(lr=[0.1, 0.2], weight_decay=[0, 0.01])
    config = SearchConfig("halving", repeats=2, recipe=search_helpers.SMALL, space=space)
    whole, _ = search_helpers.run_search(config, folder)
    lines, original, expected = path.read_bytes().splitlines(True), whole.journal.results, report.finalists(whole)

    def mutant(rng: random.Random, signed: bool) -> bytes:
        some = list(lines)
        for _ in range(rng.choice((1, 1, 2))):
            i, j = rng.randrange(len(some)), rng.randrange(len(some))
            if signed:
                row = mutants.edit_json(rng, json.loads(some[i]))
                if isinstance(row, dict):
                    row.pop("check", None)
                    row["check"] = checksum(row)
                some[i] = json.dumps(row).encode() + b"\n"
            elif rng.random() < 0.3:
                some[i : i + 1] = rng.choice([[], [some[i]] * 2, [some[j]], [b"\n"], [b"{}\n"], [b"[" * 9999 + b"\n"]])
                some = some or [b""]
            else:
                return mutants.flip(rng, b"".join(some))
        return b"".join(some)

    def case(rng: random.Random, number: int) -> str:
        signed = rng.random() < 0.3
        path.write_bytes(mutant(rng, signed))
        results = {}
        try:
            with search_helpers.open_search(config, folder, search_helpers.Submit()) as search:
                results = dict(search.journal.results)
                widths = report.column_widths(config)
                for result in search.run():
                    report.format_result(result, widths)
                report.summary(search)
        except SearchError as error:
            return refused(error)
        if results.items() <= original.items() and report.finalists(search) == expected:
            return "same"
        check(signed, "the search was resumed with other results", "different")
        return "accepted"

    return case
