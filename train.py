"""Train a network on MNIST:  python train.py

    epoch  train loss  train accuracy  validation loss  validation accuracy       lr  seconds
        1      0.2899          0.9445           0.1979               0.9713  0.05000     1.08
      ...
    validation accuracy 0.9867 (mnist, epoch 18 of 20) -> models/two_layer.npz

Never reads the test files. Every setting is a flag and a key of a config file (--config configs/two_layer.toml).
Writes models/NAME.npz, and into models/NAME/ the history and the figures.
"""

from dataclasses import replace
from pathlib import Path

import data
from app import cli
from app.config import Config, add_flags, settings_from_flags
from app.models import model_path
from app.training import train


@cli.command
def main(argv: list[str] | None = None) -> int:
    """Read the config and the data, train once for every seed, print the result."""
    arguments = parser().parse_args(argv)
    config = Config.read(arguments.config, settings_from_flags(arguments))
    folder = Path(config.data_dir) if config.data_dir else None
    images, labels, dataset = data.load(config.dataset, "train", folder, cli.warn, cli.progress)
    writers = data.load_writers(dataset, folder, cli.warn) if config.unseen_writers and config.validation else None
    path = model_path(config.out, arguments.config.stem, dataset)
    fingerprint = data.fingerprint(images, labels)
    finished = {}
    for seed in range(config.seed, config.seed + config.repeat):
        out = path if config.repeat == 1 else path.with_stem(f"{path.stem}-seed{seed}")
        seeded = replace(config, seed=seed, dataset=dataset, unseen_writers=writers is not None)
        training, validation = seeded.split(images, labels, writers)
        result, exit_code = train(seeded, fingerprint, training, validation, out, arguments.resume)
        if exit_code:
            skipped = "; with --resume the finished seeds are not trained again" if finished else ""
            print(result_message({out: result}) if result else f"no model was saved in {out}{skipped}")
            break
        finished[out] = result
    if finished:
        print(result_message(finished))
    return exit_code


def parser() -> cli.Parser:
    """The command line."""
    result = cli.Parser(prog="train.py", description="Train a network on MNIST.")
    default = Path(__file__).parent / "configs" / "two_layer.toml"
    result.add_argument("--config", type=Path, default=default, help="config file (configs/two_layer.toml)")
    result.add_argument("--resume", action="store_true", help="continue a stopped run after its last finished epoch")
    title = "settings; each overrides the config file [in brackets: the value if the file has none]"
    add_flags(result.add_argument_group(title))
    return result


def result_message(results: dict[Path, dict]) -> str:
    """The accuracy, and where the models are."""
    paths, models = list(results), list(results.values())
    split = "validation" if "validation_accuracy" in models[0] else "train"
    scores = cli.format_mean_std([model[f"{split}_accuracy"] for model in models])
    dataset, epochs = models[0]["dataset"], models[0]["recipe"]["epochs"]
    details = f"epoch {models[0]['epoch']} of {epochs}" if len(models) == 1 else f"{len(models)} seeds"
    where = cli.first_and_last(paths)
    return f"{split.replace('train', 'training')} accuracy {scores} ({dataset}, {details}) -> {where}"


if __name__ == "__main__":
    cli.exit_process(main())
