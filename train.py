"""Train a network on MNIST:  python train.py

    epoch  train loss  train accuracy  validation loss  validation accuracy       lr  seconds
        1      0.2218          0.9335           0.1224               0.9669  0.05000     0.78
      ...
    validation accuracy 0.9839 (mnist, epoch 17 of 20) -> models/two_layer.npz

Reads the training files only, like every command that trains or chooses. Every setting is a flag and a key of a recipe
(--config configs/two_layer.toml). Writes models/NAME.npz, and into models/NAME/ the history and the pictures.
"""

import statistics
import sys
from dataclasses import replace
from pathlib import Path

import cli
import data
import recipe
from network import SPLIT, random_stream
from recipe import Recipe
from training import model_path, train


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Read the recipe and the digits, train once for every seed, say what came out."""
    arguments = parser().parse_args(argv)
    settings = Recipe.read(arguments.config, recipe.given(arguments))
    images, labels, dataset = data.load(settings.dataset, "train", cli.folder(settings.data_dir), cli.note, cli.bar)
    path = model_path(settings.out, arguments.config.stem, dataset)
    about = {"dataset": dataset, "data": data.fingerprint(images, labels)}
    finished = {}
    for seed in range(settings.seed, settings.seed + settings.repeat):
        out = path if settings.repeat == 1 else path.with_stem(f"{path.stem}-seed{seed}")
        sets = data.split(images, labels, settings.validation, dataset, random_stream(seed, SPLIT))
        result, code = train(replace(settings, seed=seed, dataset=dataset), about, *sets, out, arguments.resume)
        if code:
            print(result_line({out: result}) if result else "nothing was kept")
            break
        finished[out] = result
    if finished:
        print(result_line(finished))
    return code


def parser() -> cli.Parser:
    """The command line."""
    result = cli.Parser(prog="train.py", description="Train a network on MNIST.")
    default = Path(__file__).parent / "configs" / "two_layer.toml"
    result.add_argument("--config", type=Path, default=default, help="recipe to start from (configs/two_layer.toml)")
    result.add_argument("--resume", action="store_true", help="go on after the last finished epoch of a stopped run")
    recipe.add_flags(result.add_argument_group("settings; each overrides the recipe [value if neither says]"))
    return result


def result_line(results: dict[Path, dict]) -> str:
    """What came out, and where it is."""
    paths, abouts = list(results), list(results.values())
    name = "validation accuracy" if "validation_accuracy" in abouts[0] else "training accuracy"
    scores = [about[name.replace("training", "train").replace(" ", "_")] for about in abouts]
    dataset, epochs = abouts[0]["dataset"], abouts[0]["recipe"]["epochs"]
    if len(results) == 1:
        return f"{name} {scores[0]:.4f} ({dataset}, epoch {abouts[0]['epoch']} of {epochs}) -> {paths[0]}"
    mean, deviation = statistics.mean(scores), statistics.stdev(scores)
    return f"{name} {mean:.4f} +- {deviation:.4f} ({dataset}, {len(results)} seeds) -> {paths[0]} ... {paths[-1]}"


if __name__ == "__main__":
    sys.exit(main())
