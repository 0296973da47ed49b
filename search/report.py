"""What a search prints, as text, and its figures."""

import textwrap
from pathlib import Path

from app import cli
from app.config import option_name
from search.config import SearchConfig
from search.methods import Search
from search.space import Dimension, format_value
from search.trial import score


def column_widths(config: SearchConfig) -> dict[str, int]:
    """The titles of the table of results, and the width of each column."""
    widths = {"trial": 5, "seed": 4, "epochs": 6}
    for name, dimension in config.space.items():
        cells = [option_name(name), *map(format_value, dimension.values)]
        widths[option_name(name)] = max(8, *map(len, cells))
    return widths | {"validation accuracy": 19, "seconds": 7}


def format_result(result: dict, widths: dict[str, int]) -> str:
    """A row of the table of results."""
    accuracy = f"{score(result)[0]:.4f}" if result["status"] == "ok" else result["status"]
    settings = map(format_value, result["settings"].values())
    cells = [result["trial"], result["seed"], result["epochs"], *settings, accuracy, f"{result['seconds']:.2f}"]
    return cli.format_row(cells, list(widths.values()))


def summary(search: Search) -> str:
    """The best result for each value of each hyper-parameter, the finalists, and the cost of the search."""
    final, all_results = search.final_results(), search.results(all_seeds=True)
    tables = [best_by_value(dimension, final) for dimension in search.config.space.values()]
    epochs, seconds = (sum(result[key] for result in all_results) for key in ("epochs", "seconds"))
    cost = f"{len(final)} trials, {epochs} epochs, {seconds:.0f} s of training"
    return "\n\n".join([*tables, finalists(search), cost])


def best_by_value(dimension: Dimension, results: list[dict]) -> str:
    """A table of the best accuracy in each bin, and of its epochs if not all results have the same number."""
    best = [(-1.0, 0)] * len(dimension.bin_labels)
    for result in results:
        i = dimension.bin_of(result["settings"][dimension.name])
        best[i] = max(best[i], (score(result)[0], result["epochs"]))
    rows = [
        [heading(dimension), *dimension.bin_labels],
        ["best accuracy", *(f"{accuracy:.4f}" if accuracy >= 0 else "-" for accuracy, _ in best)],
    ]
    if len({result["epochs"] for result in results}) > 1:
        rows.append(["after epochs", *(str(epochs) if accuracy >= 0 else "-" for accuracy, epochs in best)])
    return aligned([[f"{title:20}", *(f"{cell:>8}" for cell in cells)] for title, *cells in rows])


def finalists(search: Search) -> str:
    """A table of the finalists, the winner first."""
    names = list(search.config.space)
    rows = [["finalists", *map(option_name, names), "validation accuracy"]]
    for rank, finalist in enumerate(search.ranking, 1):
        settings = [format_value(getattr(finalist.trial.config, name)) for name in names]
        rows.append([str(rank), *settings, cli.format_mean_std(finalist.scores)])
    return aligned(rows)


def aligned(rows: list[list[str]]) -> str:
    """The rows of a table, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(cli.format_row(row, widths) for row in rows)


def heading(dimension: Dimension) -> str:
    """The title above the bins of a dimension."""
    return option_name(dimension.name) + (" (about)" if dimension.low is not None else "")


def save_figures(search: Search, folder: Path, title: str) -> None:
    """Draw the figures of a search."""
    import plots  # late: matplotlib is slow to import
    from search.plots import heatmaps, learning_curves, marginals

    rungs: dict[int, dict[str, list[float]]] = {}
    for result in search.results():
        rungs.setdefault(result["epochs"], {})[result["id"]] = result["validation_accuracy"]
    results = search.final_results()
    epochs, trials = [result["epochs"] for result in results], f"{len(results)} trials"
    accuracies = [score(result)[0] if result["status"] == "ok" else float("nan") for result in results]
    bins = {}
    for name, dimension in search.config.space.items():
        labels = [textwrap.fill(label, 16) for label in dimension.bin_labels]
        bins[heading(dimension)] = labels, [dimension.bin_of(result["settings"][name]) for result in results]
    winner, several = search.ranking[0].trial.id, len({*epochs}) > 1
    unless = f" (after {max(epochs)} epochs, unless shown)" if several else ""
    figures = {
        "pairs": heatmaps(bins, accuracies, epochs, f"{title}: the best trial of each pair{unless}"),
        "values": marginals(bins, accuracies, epochs, f"{title}: {trials}{unless}"),
        "rungs": learning_curves(rungs, winner, f"{title}: {trials}, {search.config.method}"),
    }
    for name, figure in figures.items():
        plots.save(figure, folder / f"search_{name}.png")
