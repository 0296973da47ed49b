"""Find good hyper-parameters, and train the best network:  python hp_search.py

    trial  seed  epochs    hidden        lr  weight-decay  validation accuracy  seconds
        1     0       1      1024     0.061       7.15e-4               0.9728     2.28  <- best so far
      ...
    best of 125 trials: validation accuracy 0.9852 +- 0.0008 (mnist), then trained on 60,000 images -> models/best.npz

A file (--config configs/search.toml) and flags set the space and the method. Trials are compared on validation images;
the test files are never read. Every result is in models/best/search.jsonl: the same command resumes a stopped search.
`train.py --config models/best/config.toml` trains the same model again, into models/config.npz.
"""

import argparse
import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

import data
import storage
from app import cli
from app.config import Config, add_flags, option_name, settings_from_flags
from app.models import model_path
from app.training import train
from search import report, workers
from search.config import SearchConfig
from search.methods import Search
from search.space import FIXED, NOT_IN_SEARCH, SETTINGS, Dimension
from search.trial import Journal, score, train_trial

RESUME_HINT = "the same command continues"
SEARCHABLE = {name: spec for name, spec in SETTINGS.items() if name not in FIXED}


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Read the config and the data, search, report, train the winner."""
    arguments = parser().parse_args(argv)
    flags = settings_from_flags(arguments, SearchConfig, Config)
    dimensions = {name: Dimension.parse(name, flags.pop(name)) for name in SEARCHABLE if name in flags}
    config = SearchConfig.read(arguments.config, flags, dimensions)
    source, out = config.recipe.dataset, config.recipe.out
    data_dir = Path(config.recipe.data_dir) if config.recipe.data_dir else None
    images, labels, dataset = data.load(source, "train", data_dir, cli.warn, cli.progress)
    if not isinstance(images, np.ndarray):
        raise data.DataError(f"{source} has more images than fit into memory: search on a part of them")
    writers = data.load_writers(dataset, data_dir, cli.warn) if config.recipe.unseen_writers else None
    config.recipe = replace(config.recipe, dataset=dataset, unseen_writers=writers is not None)
    training, validation = config.recipe.split(images, labels, writers)
    path = model_path(out, "best" if arguments.config.stem == "search" else arguments.config.stem, dataset)
    storage.check_writable(path)  # now, not after the search
    fingerprint, folder = data.fingerprint(images, labels), path.with_suffix("")
    try:
        with contextlib.closing(Journal(folder / "search.jsonl", config.description(fingerprint))) as journal:
            search = run(config, journal, [*training, *validation], fingerprint, arguments)
            print(f"\n{report.summary(search)}\n", flush=True)
            report.save_figures(search, folder, f"{path.stem} ({dataset})")
            return finish(search, source, (images, labels, writers), path)
    except KeyboardInterrupt as interrupt:
        return cli.fail_stopped(interrupt, f"stopped; {RESUME_HINT}")


def parser() -> cli.Parser:
    """The command line."""
    result = cli.Parser(prog="hp_search.py", description="Search for good hyper-parameters and train the best network.")
    default = Path(__file__).parent / "configs" / "search.toml"
    result.add_argument("--config", type=Path, default=default, help="config file (configs/search.toml)")
    where, text = result.add_mutually_exclusive_group(), "processes to train in (one for each core)"
    where.add_argument("--workers", type=cli.positive_int, metavar="N", help=text)
    where.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler to use, such as tcp://host:8786")
    title = "settings of the search; each overrides the config file [in brackets: the value if the file has none]"
    group = result.add_argument_group(title)
    add_flags(group, SearchConfig)
    add_flags(group, Config, FIXED - NOT_IN_SEARCH.keys())
    group = result.add_argument_group(
        "settings of the trials",
        "one value (for a switch: true or false) is for all trials; several, or a range such as 0.01..0.1 or "
        "0..1:linear, are searched",
    )
    for name, spec in SEARCHABLE.items():
        options = {"nargs": "+", "metavar": "VALUE", "help": spec.metadata["text"], "default": argparse.SUPPRESS}
        group.add_argument(f"--{option_name(name)}", **options)
    return result


def run(
    config: SearchConfig, journal: Journal, arrays: list[np.ndarray], fingerprint: str, arguments: argparse.Namespace
) -> Search:
    """Search, and print a row for each result."""
    if arguments.scheduler:
        pool = workers.dask_pool(arguments.scheduler, arrays)
    else:
        pool = workers.local_pool(arguments.workers or cli.cores(), arrays, journal.path.parent)
    names = ", ".join(map(option_name, config.space))
    images = f"{len(arrays[0]):,} training and {len(arrays[2]):,} validation images of {config.recipe.dataset}"
    print(f"{config.method} search over {names}: {images}")
    widths = report.column_widths(config)
    print(cli.format_row(list(widths), list(widths.values())), flush=True)
    with pool as submit:
        search = Search(config, fingerprint, journal, partial(submit, train_trial))
        with cli.progress(text="epochs", total=search.cost()) as bar:
            best = -1.0
            for result in search.run():
                accuracy, _ = score(result)
                better = accuracy > best and result["seed"] == config.recipe.seed  # repeats count by their mean
                cli.print_row(report.format_result(result, widths) + "  <- best so far" * better)
                if result["status"] == "failed":
                    cli.warn(f"trial {result['trial']} failed: {result['reason']}")
                best = accuracy if better else best
                bar.update(result["epochs"])
    return search


def finish(search: Search, source: str, arrays: tuple, path: Path) -> int:
    """Write the winner's config, and train it: on all training images, unless its schedule needs validation images."""
    winner, trials = search.ranking[0], len(search.final_results())
    config, scores = winner.trial.config, cli.format_mean_std(winner.scores)
    if config.schedule != "plateau":
        config = replace(config, validation=0)
    file = path.with_suffix("") / "config.toml"
    saved = replace(config, dataset=config.dataset if config.dataset in data.NAMES else source)
    found = f"the best of {trials} trials ({search.config.method}), {scores} on validation images"
    with storage.atomic_write(file) as out:
        out.write(f"# From hp_search.py: {found}.\n{saved.to_toml()}".encode())
    training, validation = config.split(*arrays)
    train_winner = partial(train, config, search.fingerprint, training, validation, path, resume_hint=RESUME_HINT)
    try:
        _, exit_code = train_winner(resume=search.journal.resumed)
    except storage.StorageError:  # the model or checkpoint there is damaged or another winner's: start again
        _, exit_code = train_winner(resume=False)
    if not exit_code:
        print(f"best of {trials} trials: validation accuracy {scores} ({config.dataset}), then trained on "
              f"{len(training[0]):,} images -> {path}, {file}")  # fmt: skip
    return exit_code


if __name__ == "__main__":
    cli.exit_process(main())
