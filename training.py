"""One training run with all that belongs to it: its table, its checkpoint, the model file, the history, the pictures.

What train.py does for every seed, and hp_search.py for the winner.
"""

import contextlib
import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import cli
import storage
from convolution import Conv2D
from layers import Dense
from network import DivergenceError, Network
from recipe import Recipe

SHOWN = 6  # images in the pictures of features and variants
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
    """A training run so far. With the network's parameters and velocity it is all that is needed to go on."""

    about: dict
    history: list[dict] = field(default_factory=list)
    first: dict = field(default_factory=dict)  # the first layer's weights after the first epoch, for its picture
    best: dict = field(default_factory=dict)  # parameters after the best epoch

    def add(self, record: dict, network: Network) -> None:
        """Take in a finished epoch, wholly or not at all: Ctrl-C may come at any moment."""
        now = network.snapshot()
        history = [*self.history, record]
        best = now if best_epoch(history) == record["epoch"] else self.best
        first = self.first or {name: a for name, a in now.items() if name == "0.W"}
        self.history, self.first, self.best = history, first, best

    def save(self, path: Path, network: Network) -> None:
        """Write run and network to a checkpoint."""
        groups = {"now": network.arrays(), "first": self.first, "best": self.best}
        arrays = {f"{group}.{name}": a for group, members in groups.items() for name, a in members.items()}
        storage.write(path, {"about": self.about, "history": self.history}, arrays | {"velocity": network.velocity})

    def resume(self, path: Path, network: Network) -> None:
        """Go back to the state in a checkpoint. StorageError if it belongs to another run."""
        description, arrays = storage.read(path, "checkpoint")
        if not same_run(self.about, description["about"]):
            raise storage.StorageError(f"{path} belongs to a run with other settings: use those, or remove it")
        groups = {group: {} for group in ("now", "first", "best")}
        network.velocity = arrays.pop("velocity")
        for name, a in arrays.items():
            group, _, name = name.partition(".")
            groups[group][name] = a
        network.restore(groups["now"])
        self.history, self.first, self.best = description["history"], groups["first"], groups["best"]


def model_path(out: str, name: str, dataset: str) -> Path:
    """The file of a model: `out`, or models/NAME.npz, with the data set in its name if that is not MNIST."""
    path = Path(out or f"models/{name}" + ("" if dataset == "mnist" else f"-{dataset}"))
    return path.with_name(path.name.removesuffix(".npz") + ".npz")


def same_run(about: dict, saved: dict) -> bool:
    """Whether a model or checkpoint is of this run. A setting that came after it was written had its default then."""
    saved = saved | {"recipe": Recipe().settings() | saved.get("recipe", {})}
    return about.items() <= saved.items()


def best_epoch(history: list[dict]) -> int:
    """The epoch of the highest validation accuracy, of several that with the lowest loss; without any, the last."""
    if "validation_accuracy" not in history[0]:
        return history[-1]["epoch"]
    return max(history, key=lambda record: (record["validation_accuracy"], -record["validation_loss"]))["epoch"]


def train(
    settings: Recipe,
    about: dict,
    training: tuple,
    validation: tuple | None,
    path: Path,
    resume: bool,
    again: str = "the same command with --resume goes on",
) -> tuple[dict | None, int]:
    """One run, from its first epoch or the last finished one to the model file and its pictures.

    Returns what the model file says about the run, None if there is no model, and the exit code. `again` tells the user
    what to do after Ctrl-C.
    """
    folder = path.with_suffix("")
    checkpoint = folder / "checkpoint.npz"
    storage.claim(path)
    storage.sweep(folder)
    network = settings.network()
    run = Run(about | {"recipe": settings.settings()})
    if resume and checkpoint.exists():
        run.resume(checkpoint, network)
    elif resume and path.exists():
        saved = Network.load(path).about
        if saved.get("finished") and same_run(run.about, saved):
            return saved, 0
    images = f"{len(training[0]):,} training and {len(validation[0]) if validation else 0:,} validation images"
    print(f"{path.stem}: {settings.title}, {network.parameter_count:,} parameters; {settings.dataset}: {images}")
    folder.mkdir(parents=True, exist_ok=True)  # if that cannot be, better now than after an epoch
    columns = [key for key in COLUMNS if validation or "validation" not in key]
    print("  ".join(COLUMNS[key][0] for key in columns))
    for record in run.history:
        print(line(record, columns))
    options = settings.fit_settings() | {"history": run.history, "progress": cli.bar}
    code = 0
    try:
        for record in network.fit(*training, validation, **options):
            run.add(record, network)
            run.save(checkpoint, network)
            print(line(record, columns), flush=True)
    except KeyboardInterrupt:
        done = f"after epoch {len(run.history)}; {again}"
        code = cli.fail(f"stopped {done if run.history else 'before the first epoch ended'}", 130)
    except DivergenceError as error:
        code = cli.fail(str(error), 1)
    if run.history:
        keep(run, network, path, finished=not code)
        draw(network, settings, run, folder, training[0][:SHOWN])
    if code != 130:
        checkpoint.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it is not empty
        folder.rmdir()
    return network.about or None, code


def keep(run: Run, network: Network, path: Path, finished: bool) -> None:
    """Write the network of the best epoch, and the history."""
    network.restore(run.best)
    scores = run.history[best_epoch(run.history) - 1]
    network.about = run.about | {key: scores[key] for key in scores if key != "seconds"} | {"finished": finished}
    network.save(path)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, run.history[0])
    writer.writeheader()
    writer.writerows(run.history)
    with storage.replace(path.with_suffix("") / "history.csv") as file:
        file.write(text.getvalue().encode())


def line(record: dict, columns: list[str]) -> str:
    """A row of the table."""
    cells = ((record[key], *COLUMNS[key]) for key in columns)
    return "  ".join(f"{value:{len(title)}{form}}" for value, title, form in cells)


def draw(network: Network, settings: Recipe, run: Run, folder: Path, images: np.ndarray) -> None:
    """The pictures of a run."""
    import plots  # late, because matplotlib takes its time

    title = f"{folder.name} ({run.about['dataset']})"
    best = best_epoch(run.history)
    figures = {
        "curves": plots.curves(run.history, best if "validation_loss" in run.history[0] else None, title),
        "histograms": plots.histograms(network.parameters(), title),
    }
    first, weights = network.layers[0], network.parameters().get("0.W")
    if isinstance(first, Dense):
        figures["weights"] = plots.tiles(weights.reshape(-1, 28, 28), f"{title}: first-layer weights")
        stages = {
            "initial": settings.network().parameters()["0.W"],
            "after epoch 1": run.first["0.W"],
            f"final (epoch {best})": weights,
        }
        head = f"{title}: three principal components of the first layer, as red, green, blue"
        figures["pca"] = plots.pca(stages, head)
    elif isinstance(first, Conv2D):
        figures["weights"] = plots.tiles(weights[:, :, 0], f"{title}: first-layer filters")
        maps = first.forward(network.standardize(images)).transpose(3, 1, 0, 2)
        order = plots.strongest(weights[:, :, 0], 12)
        head = f"{title}: what the {len(order)} strongest of its filters find (dark: high)"
        figures["features"] = plots.rows(images, maps[:, order], head)
    if distortion := settings.distortion():
        variants = [distortion(images, np.random.default_rng(i)) for i in range(12)]
        head = f"{title}: images, and variants like those it was trained on"
        figures["augment"] = plots.rows(images, np.stack(variants, axis=1), head)
    for name, figure in figures.items():
        plots.save(figure, folder / f"{name}.png")
