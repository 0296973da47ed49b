"""One training run and its files: the table, the checkpoint, the model, the history, the figures.

Used by train.py for every seed, and by hp_search.py for the winner.
"""

import functools
import hashlib
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import storage
from app import cli
from app.config import Config, differing_keys
from app.models import keep_shipped, load_teacher
from network import DivergenceError, Network
from nn.convolution import Conv2D
from nn.layers import Dense
from nn.parallel import ParallelError, blas_threads

MAX_CHECKPOINT_TEXT = 2**26  # bytes of a checkpoint's description; an epoch takes about 200, so 300,000 epochs
BUSY, WATCHED_SECONDS, WATCHED_STEPS = 0.75, 1.0, 30  # see `watch_load`
FIGURES = set("curves histograms weights pca features augment".split())  # that `save_figures` may draw
# that test.py writes:
TEST_FILES = "confusion.png mistakes.png mistakes.csv confusion-*.png mistakes-*.png mistakes-*.csv".split()
SHOWN_IMAGES = 6  # in the figures of feature maps and augmented images
COLUMNS = {  # of the table: title and format of each key of a record
    "epoch": ("epoch", "d"),
    "train_loss": ("train loss", ".4f"),
    "train_accuracy": ("train accuracy", ".4f"),
    "validation_loss": ("validation loss", ".4f"),
    "validation_accuracy": ("validation accuracy", ".4f"),
    "lr": ("     lr", ".5f"),
    "seconds": ("seconds", ".2f"),
}


@dataclass
class Run:
    """The state of a training run. With the network's arrays and velocity it is all that is needed to resume."""

    metadata: dict
    history: list[dict] = field(default_factory=list)
    after_epoch_1: dict = field(default_factory=dict)  # the first layer's weights, for the figure
    best: dict = field(default_factory=dict)  # all arrays after the best epoch

    def record_epoch(self, record: dict, network: Network) -> None:
        """Add a finished epoch. All is assigned at the end, so that Ctrl-C leaves a consistent state."""
        current = network.snapshot()
        history = [*self.history, record]
        best = current if best_epoch(history) == record["epoch"] else self.best
        after_epoch_1 = self.after_epoch_1 or {name: a for name, a in current.items() if name == "0.W"}
        self.history, self.after_epoch_1, self.best = history, after_epoch_1, best

    def save(self, path: Path, network: Network) -> None:
        """Write run and network to a checkpoint."""
        description = {"about": self.metadata, "history": self.history}
        storage.write(path, description, self.arrays(network), MAX_CHECKPOINT_TEXT)

    def arrays(self, network: Network) -> dict[str, np.ndarray]:
        """All arrays of a checkpoint, by name: "now.0.W", "first.0.W", "best.0.W", ..., "velocity".

        Before the first epoch ends, the network's own arrays stand in for the others, which have the same shapes.
        """
        current = network.arrays()
        first = self.after_epoch_1 or {name: a for name, a in current.items() if name == "0.W"}
        groups = {"now": current, "first": first, "best": self.best or current}
        arrays = {f"{group}.{name}": a for group, members in groups.items() for name, a in members.items()}
        return arrays | {"velocity": network.velocity}

    def resume(self, path: Path, network: Network) -> None:
        """Restore run and network from a checkpoint. StorageError, and nothing is changed, if that is impossible."""
        description, arrays = storage.read(path, "checkpoint", MAX_CHECKPOINT_TEXT)
        if different := differing_settings(self.metadata, description.get("about")):
            reason = f"{path} belongs to a run with other settings ({different}): use those, or remove it"
            raise storage.StorageError(reason)
        layout, expected = (
            {name: (a.shape, a.dtype) for name, a in each.items()} for each in (arrays, self.arrays(network))
        )
        try:
            if layout != expected:
                raise ValueError("its arrays do not match the network")
            if not all(np.isfinite(a).all() for a in arrays.values()):
                raise ValueError("not all its values are finite")
            check_history(description.get("history"), self.metadata["recipe"])
        except ValueError as error:
            reason = f"{path} is damaged or not a checkpoint of this program ({error}): remove it"
            raise storage.StorageError(reason) from None
        groups = {"now": {}, "first": {}, "best": {}}
        network.velocity[:] = arrays.pop("velocity")
        for name, a in arrays.items():
            group, _, name = name.partition(".")
            groups[group][name] = a
        network.restore(groups["now"])
        self.history, self.after_epoch_1, self.best = description["history"], groups["first"], groups["best"]


def check_history(history: Any, settings: dict) -> None:
    """ValueError unless this is a record, with finite numbers, for each of the first epochs of such a run."""
    if not isinstance(history, list) or not 1 <= len(history) <= settings["epochs"]:
        raise ValueError("its history is not a list of epochs")
    keys = {key for key in COLUMNS if settings["validation"] or "validation" not in key}
    for epoch, record in enumerate(history, 1):
        valid = isinstance(record, dict) and record.keys() == keys and all(map(is_finite_number, record.values()))
        if not valid or type(record["epoch"]) is not int or record["epoch"] != epoch:
            raise ValueError(f"the record of epoch {epoch} has other keys, or values that cannot be")


def is_finite_number(value: Any) -> bool:
    """Whether this is an int or a float, not a bool, that a float can hold and that is not infinite or NaN."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def differing_settings(metadata: dict, saved: Any) -> str:
    """The settings, and "data", in which this run differs from that of a model or checkpoint: "lr, data", or "".

    Settings missing in the file have their defaults. Teachers are compared by their content, not by their path.
    """
    recipe = saved.get("recipe") if isinstance(saved, dict) else None
    if not isinstance(recipe, dict):
        return "config"
    mine, other = ({name: each.get(name) for name in ("data", "teacher")} for each in (metadata, saved))
    return differing_keys(metadata["recipe"] | mine, Config().settings() | recipe | other)


def best_epoch(history: list[dict]) -> int:
    """The epoch with the highest validation accuracy, then the lowest loss; without validation, the last epoch."""
    if "validation_accuracy" not in history[0]:
        return history[-1]["epoch"]
    return max(history, key=lambda record: (record["validation_accuracy"], -record["validation_loss"]))["epoch"]


def train(
    config: Config,
    fingerprint: str,
    training: tuple,
    validation: tuple | None,
    path: Path,
    resume: bool,
    resume_hint: str = "the same command with --resume continues",
) -> tuple[dict | None, int]:
    """Train one model, from its first epoch or from the last checkpoint, and write the model file and the figures.

    Returns the metadata of the model, None if there is no model, and the exit code. `resume_hint` tells the user how
    to continue after Ctrl-C or a signal. StorageError if another process trains this model.
    """
    folder = path.with_suffix("")
    checkpoint = folder / "checkpoint.npz"
    with storage.locked(folder / ".lock", f"{path} is being trained by another process"):
        storage.remove_temporary_files(path.parent, path.name)  # here, where the lock is held
        storage.remove_temporary_files(folder)
        storage.check_writable(path)
        network = config.build_network()
        run = Run({"dataset": config.dataset, "data": fingerprint, "recipe": config.settings()})
        teacher = None
        if config.teacher:
            teacher = load_teacher(Path(config.teacher), path)
            run.metadata["teacher"] = hashlib.sha256(Path(config.teacher).read_bytes()).hexdigest()
            if validation and not has_same_split(config, fingerprint, teacher.metadata):
                cli.warn(f"WARNING: {config.teacher} may have been trained on images that are for validation here: "
                         "then the validation accuracy is too high")  # fmt: skip
        if resume and checkpoint.exists():
            # as `fit` does, but now: Ctrl-C in a run that has a history saves the network
            network.prepare(training[0], config.standardize, config.label_smoothing)
            run.resume(checkpoint, network)
        elif resume and path.exists():
            saved = Network.load(path).metadata
            scores = [saved.get(key) for key in COLUMNS if key != "seconds" and (validation or "validation" not in key)]
            different = differing_settings(run.metadata, saved)
            if saved.get("finished") and not different and all(map(is_finite_number, scores)):
                print(f"{path.stem}: was finished before")
                return saved | run.metadata, 0
            if different:
                cli.warn(f"WARNING: {path} was trained with other settings ({different}): there is "
                         "nothing to continue, and it will be replaced")  # fmt: skip
        images = f"{len(training[0]):,} training and {len(validation[0]) if validation else 0:,} validation images"
        images += " of unseen writers" * config.unseen_writers
        print(f"{path.stem}: {config.title}, {network.parameter_count:,} parameters; {config.dataset}: {images}")
        # if one of these is impossible, it should fail now and not after an epoch
        storage.check_size(checkpoint, run.arrays(network))
        folder.mkdir(parents=True, exist_ok=True)
        exit_code = 0
        try:
            fit_and_record(config, run, network, teacher, training, validation, checkpoint)
        except KeyboardInterrupt as interrupt:
            done = f"after epoch {len(run.history)}; {resume_hint}" if run.history else "before the first epoch ended"
            exit_code = cli.fail_stopped(interrupt, f"stopped {done}")
        except DivergenceError as error:
            exit_code = cli.fail(str(error), error.exit_code)
        except ParallelError as error:
            raise ParallelError(f"{error}; {resume_hint}" if run.history else str(error)) from None
        if run.history:
            save_best(run, network, path, finished=not exit_code)
            try:
                save_figures(network, config, run, folder, np.asarray(training[0][:SHOWN_IMAGES]))
            except KeyboardInterrupt as interrupt:
                exit_code = cli.fail_stopped(interrupt, f"stopped while the figures were drawn; {resume_hint}")
        if run.history and exit_code < 128:  # not stopped; before an epoch, a checkpoint is that of another run
            checkpoint.unlink(missing_ok=True)
        return network.metadata or None, exit_code


def has_same_split(config: Config, fingerprint: str, teacher: dict) -> bool:
    """Whether a teacher with this metadata, and no teacher of its own, has the same validation images as this run."""
    keys = ["dataset", "validation", "unseen_writers"]
    if config.unseen_writers or config.dataset not in ("mnist", "synthetic"):
        keys.append("seed")  # of a random split
    if not isinstance(teacher.get("recipe"), dict) or teacher.get("data") != fingerprint or "teacher" in teacher:
        return False
    mine, other = config.settings(), Config().settings() | teacher["recipe"]
    return all(mine[key] == other[key] for key in keys)


def fit_and_record(
    config: Config,
    run: Run,
    network: Network,
    teacher: Network | None,
    training: tuple,
    validation: tuple | None,
    checkpoint: Path,
) -> None:
    """Train for the epochs that are left; print the table; after each epoch record it and write the checkpoint."""
    columns = {key: COLUMNS[key] for key in COLUMNS if validation or "validation" not in key}
    print("  ".join(title for title, _ in columns.values()))
    for record in run.history:
        print(format_record(record, columns))
    progress = cli.progress
    if isinstance(training[0], np.ndarray) and config.processes == 1:  # otherwise it may wait for a disk or a process
        progress = lambda steps: watch_load(cli.progress(steps))  # noqa: E731
    settings = config.fit_settings() | {"teacher": teacher, "history": run.history, "progress": progress}
    for record in network.fit(*training, validation, **settings):
        run.record_epoch(record, network)
        run.save(checkpoint, network)
        print(format_record(record, columns), flush=True)


def watch_load(steps: Iterable) -> Iterator:
    """The steps of an epoch. If other programs keep the cores busy during the first second, `warn_busy`.

    On a quiet machine a thread that trains has a core all the time: it computes, or waits for the other BLAS threads
    without giving up the core. Measured on two cores: 93 to 99 % of the time; beside another program, 44 to 69 %.
    Our own thread that augments images takes a core too, but then this process uses nearly all cores.
    """
    clocks, started = (time.perf_counter, time.thread_time, time.process_time), None
    for done, step in enumerate(steps):
        if done == 0 and blas_threads() != "1" and cli.cores() > 1:
            started = [clock() for clock in clocks]
        elif started and done >= WATCHED_STEPS and time.perf_counter() - started[0] > WATCHED_SECONDS:
            seconds, thread, process = (clock() - start for clock, start in zip(clocks, started, strict=True))
            if max(thread, process / cli.cores()) < BUSY * seconds:
                warn_busy()
            started = None
        yield step


@functools.cache  # once, also for several models
def warn_busy() -> None:
    """Tell the user what to do on a busy machine."""
    cli.warn("WARNING: other programs keep the cores busy, and BLAS threads that wait for each other then take many "
             "times as long: stop with Ctrl-C, set OPENBLAS_NUM_THREADS=1, and train again")  # fmt: skip


def save_best(run: Run, network: Network, path: Path, finished: bool) -> None:
    """Write the network of the best epoch, and the history."""
    network.restore(run.best)
    scores = run.history[best_epoch(run.history) - 1]
    network.metadata = run.metadata | {key: scores[key] for key in scores if key != "seconds"} | {"finished": finished}
    keep_shipped(path)
    network.save(path)
    storage.write_csv(path.with_suffix("") / "history.csv", [key for key in COLUMNS if key in scores], run.history)


def format_record(record: dict, columns: dict[str, tuple[str, str]]) -> str:
    """A row of the table."""
    cells = [f"{record[key]:{form}}" for key, (_, form) in columns.items()]
    return cli.format_row(cells, [len(title) for title, _ in columns.values()])


def save_figures(network: Network, config: Config, run: Run, folder: Path, images: np.ndarray) -> None:
    """Draw the figures of a run."""
    import plots  # late: matplotlib is slow to import

    title = f"{folder.name} ({run.metadata['dataset']})"
    best = best_epoch(run.history)
    figures = {
        "curves": plots.curves(run.history, best if "validation_loss" in run.history[0] else None, title),
        "histograms": plots.histograms(network.parameters(), f"{title}: parameters"),
    }
    first, weights = network.layers[0], network.parameters().get("0.W")
    if isinstance(first, Dense):
        names = list("0123456789") if len(network.layers) == 1 else []
        head = f"{title}: weights of each digit" if names else f"{title}: first-layer weights"
        figures["weights"] = plots.weight_grid(weights.reshape(-1, 28, 28), head, names=names)
        stages = {
            "initial": config.build_network().parameters()["0.W"],
            "after epoch 1": run.after_epoch_1["0.W"],
            f"final (epoch {best})": weights,
        }
        figures["pca"] = plots.pca(stages, f"{title}: three principal components of the first layer (RGB)")
    elif isinstance(first, Conv2D):
        figures["weights"] = plots.weight_grid(weights[:, :, 0], f"{title}: first-layer filters")
        maps = first.forward(network.standardize(images)).transpose(3, 1, 0, 2)
        order = plots.by_norm(weights[:, :, 0], 12)
        some = f" with the largest norm, {len(order)} of {len(weights)}" if len(order) < len(weights) else ""
        head = f"{title}: feature maps of the filters{some} (red > 0 > blue)"
        figures["features"] = plots.image_grid(images, maps[:, order], head)
    if distortion := config.distortion():
        augmented = [distortion(images, np.random.default_rng(i)) for i in range(12)]
        head = f"{title}: images and augmented versions"
        figures["augment"] = plots.image_grid(images, np.stack(augmented, axis=1), head)
    for pattern in [*(f"{each}.png" for each in FIGURES - figures.keys()), *TEST_FILES]:
        for file in filter(Path.is_file, folder.glob(pattern)):  # of an earlier network
            file.unlink(missing_ok=True)
    for name, figure in figures.items():
        plots.save(figure, folder / f"{name}.png")
