"""Find good hyper-parameters, and train the best network:  python hp_search.py

    trial  seed  epochs    hidden        lr  weight-decay  validation accuracy  seconds
        1     0       1      1024     0.061       7.15e-4               0.9592     3.29  <- best so far
      ...
    best of 125 trials: validation accuracy 0.9848 +- 0.0002 (mnist), then trained on 60,000 images -> models/best.npz

What may be tried is given in a file (--config configs/search.toml) and in flags. Trials are chosen on validation
images; the test files are never read. Every result goes into models/best/search.jsonl: stopped, the same command goes
on where it was. The winner's recipe goes into models/best/recipe.toml; `train.py --config` makes the same model of it.
"""

import argparse
import contextlib
import statistics
import sys
import textwrap
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np

import cli
import data
import recipe
import storage
from network import SPLIT, random_stream
from recipe import Recipe
from search import FIXED, Axis, Journal, Plan, Search, SearchError, advance, score, show, workers
from training import model_path, train

DEFAULT = Path(__file__).parent / "configs" / "search.toml"
AGAIN = "the same command goes on"
SEARCHABLE = {spec.name for spec in fields(Recipe)} - FIXED


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Read the plan and the digits, search, show what was found, train the winner."""
    arguments = parser().parse_args(argv)
    changes = recipe.given(arguments, Plan, Recipe)
    axes = {name: Axis.parse(name, changes.pop(name)) for name in SEARCHABLE if name in changes}
    plan = Plan.read(arguments.config, changes, axes)
    asked = plan.recipe
    images, labels, dataset = data.load(asked.dataset, "train", cli.folder(asked.data_dir), cli.note, cli.bar)
    plan.recipe = replace(asked, dataset=dataset)
    name = {"search": "best"}.get(arguments.config.stem, arguments.config.stem)
    path = model_path(asked.out, name, dataset)
    storage.claim(path)  # now, not after the search
    about = {"dataset": dataset, "data": data.fingerprint(images, labels)}
    training, validation = data.split(images, labels, asked.validation, dataset, random_stream(asked.seed, SPLIT))
    file = path.with_suffix("") / "search.jsonl"
    try:
        with contextlib.closing(Journal(file, plan.description() | {"data": about["data"]})) as journal:
            search = run(plan, journal, [*training, *validation], about["data"], arguments)
            report(search)
            draw(search, path.with_suffix(""), f"{path.stem} ({dataset})")
            return finish(search, asked.dataset, about, images, labels, path)
    except (SearchError, workers.WorkersError) as error:
        return cli.fail(str(error), 1)
    except KeyboardInterrupt:
        return cli.fail(f"stopped; {AGAIN}", 130)


def parser() -> cli.Parser:
    """The command line."""
    result = cli.Parser(prog="hp_search.py", description="Search for good hyper-parameters and train the best network.")
    result.add_argument("--config", type=Path, default=DEFAULT, help="plan to start from (configs/search.toml)")
    result.add_argument("--workers", type=positive, metavar="N", help="processes to train in (one for each core)")
    result.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler to work for, like tcp://host:8786")
    group = result.add_argument_group("settings of the search; each overrides the plan [value if neither says]")
    recipe.add_flags(group, Plan)
    recipe.add_flags(group, Recipe, FIXED - {"repeat"})
    group = result.add_argument_group(
        "settings of the trials",
        "one value: for all trials; several, or a range like 0.01..0.1 or 0..1:linear: searched",
    )
    for spec in fields(Recipe):
        if spec.name in SEARCHABLE:
            options = {"nargs": "+", "metavar": "VALUE", "help": spec.metadata["text"]}
            group.add_argument(f"--{recipe.flag(spec.name)}", **options, default=argparse.SUPPRESS)
    return result


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def run(
    plan: Plan, journal: Journal, digits: list[np.ndarray], fingerprint: str, arguments: argparse.Namespace
) -> Search:
    """Search, and show a line for each result as it comes in."""
    if arguments.scheduler:
        place = workers.cluster(arguments.scheduler, digits)
    else:
        place = workers.local(arguments.workers or workers.cores(), digits, journal.path.parent)
    print(f"{plan.method} search over {', '.join(map(recipe.flag, plan.space))}: {len(digits[0]):,} training and "
          f"{len(digits[2]):,} validation images of {plan.recipe.dataset}")  # fmt: skip
    titles = ["trial", "seed", "epochs"]
    titles += [f"{recipe.flag(name):>{max(8, *map(len, map(show, axis.values)))}}" for name, axis in plan.space.items()]
    titles += ["validation accuracy", "seconds"]
    print("  ".join(titles), flush=True)
    with place as (submit, width):
        search = Search(plan, fingerprint, journal, partial(submit, advance), 2 * width)
        with cli.meter(search.cost(), "epochs") as bar:
            best = -1.0
            for line in search.run():
                accuracy, _ = score(line)
                cli.show(row(line, titles) + ("  <- best so far" if accuracy > best else ""))
                best = max(best, accuracy)
                bar.update(line["epochs"] - line["from"])
    return search


def row(line: dict, titles: list[str]) -> str:
    """A row of the table."""
    accuracy = f"{score(line)[0]:.4f}" if line["status"] == "ok" else line["status"]
    settings = map(show, line["settings"].values())
    cells = [line["trial"], line["seed"], line["epochs"], *settings, accuracy, f"{line['seconds']:.2f}"]
    return "  ".join(f"{cell:>{len(title)}}" for cell, title in zip(cells, titles, strict=True))


def report(search: Search) -> None:
    """Print the best accuracy for each value of each hyper-parameter, and the finalists."""
    lines = search.results()
    for name, axis in search.plan.space.items():
        best = [(-1.0, 0)] * len(axis.labels)
        for line in lines:
            place = axis.place(line["settings"][name])
            best[place] = max(best[place], (score(line)[0], line["epochs"]))
        table = {heading(name, axis): axis.labels, "best accuracy": [f"{a:.4f}" if a >= 0 else "-" for a, _ in best]}
        if len({line["epochs"] for line in lines}) > 1:  # they cannot be compared then
            table["after epochs"] = [str(epochs) if a >= 0 else "-" for a, epochs in best]
        print()
        for title, cells in table.items():
            widths = (max(8, len(label)) + 2 for label in axis.labels)
            print(f"{title:20}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    columns = [[recipe.flag(name), *(show(getattr(standing.recipe, name)) for standing in search.standings)]
               for name in search.plan.space]  # fmt: skip
    columns = [[f"{cell:>{max(12, *map(len, column))}}" for cell in column] for column in columns]
    ranks = ["finalists", *(f"{rank:9}" for rank in range(1, len(search.standings) + 1))]
    scores = ["validation accuracy", *(spread(standing.scores) for standing in search.standings)]
    print()
    for cells in zip(ranks, *columns, scores, strict=True):
        print("  ".join(cells))
    epochs = sum(line["epochs"] - line["from"] for line in search.lines())
    seconds = sum(line["seconds"] for line in search.lines())
    print(f"\n{len(lines)} trials, {epochs} epochs, {seconds:.0f} s of training\n", flush=True)


def heading(name: str, axis: Axis) -> str:
    """The name over the places of an axis."""
    return recipe.flag(name) + (" (about)" if axis.low is not None else "")


def spread(scores: list[float]) -> str:
    """0.9850, or with several seeds 0.9850 +- 0.0004."""
    deviation = f" +- {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.4f}{deviation}"


def draw(search: Search, folder: Path, title: str) -> None:
    """The pictures of a search."""
    import plots  # late, because matplotlib takes its time

    lines = [line for line in search.results() if line["validation_accuracy"]]
    accuracies = [score(line)[0] if line["status"] == "ok" else float("nan") for line in lines]
    places = {
        heading(name, axis): (
            [textwrap.fill(label, 16) for label in axis.labels],
            [axis.place(line["settings"][name]) for line in lines],
        )
        for name, axis in search.plan.space.items()
    }
    titles = [textwrap.shorten(search.trials[line["id"]].recipe.title, 60, placeholder=" ...") for line in lines]
    seconds = [search.seconds(line["id"]) for line in lines]
    histories = [line["validation_accuracy"] for line in lines]
    epochs = [line["epochs"] for line in lines]
    figures = {
        "pairs": plots.pairs(places, accuracies, epochs, f"{title}: the best trial of each pair"),
        "values": plots.values(places, accuracies, epochs, f"{title}: {len(lines)} trials"),
        "rungs": plots.rungs(histories, sorted({*epochs}), f"{title}: {len(lines)} trials, {search.plan.method}"),
        "times": plots.times(seconds, accuracies, epochs, titles, f"{title}: time and accuracy of {len(lines)} trials"),
    }
    for name, figure in figures.items():
        plots.save(figure, folder / f"search_{name}.png")


def finish(search: Search, asked: str, about: dict, images: np.ndarray, labels: np.ndarray, path: Path) -> int:
    """Write the winner's recipe, and train it, on all training images unless its schedule needs some to look at."""
    best, trials = search.standings[0], len(search.results())
    final = best.recipe if best.recipe.schedule == "plateau" else replace(best.recipe, validation=0)
    file = path.with_suffix("") / "recipe.toml"
    source = asked if about["dataset"] not in data.NAMES else about["dataset"]
    found = f"the best of {trials} trials ({search.plan.method}), {spread(best.scores)} on validation images"
    text = f"# From hp_search.py: {found}.\n"
    with storage.replace(file) as out:
        out.write((text + replace(final, dataset=source).to_toml()).encode())
    sets = data.split(images, labels, final.validation, about["dataset"], random_stream(final.seed, SPLIT))
    try:
        _, code = train(final, about, *sets, path, resume=search.journal.resumed, again=AGAIN)
    except storage.StorageError:  # what is there is damaged, or of another winner, and cannot be gone on with
        _, code = train(final, about, *sets, path, resume=False, again=AGAIN)
    if not code:
        print(f"best of {trials} trials: validation accuracy {spread(best.scores)} ({about['dataset']}), then "
              f"trained on {len(sets[0][0]):,} images -> {path}, {file}")  # fmt: skip
    return code


if __name__ == "__main__":
    sys.exit(main())
