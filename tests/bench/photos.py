"""How well do the models read photos? MNIST's digits, rendered as 16 kinds of photos, and read from files.

    python tests/bench/photos.py [--count N] [--split train] [--write] [MODEL...]

Prints the accuracy for each kind of photo. Then, for several thresholds on p1 / (p1 + p2), see predict.py: the fraction
of answers below it, and the accuracy of the answers below and above it. With --split train it uses the validation
images (the last 10,000). The threshold in predict.py was chosen on these, with models that were not trained on them.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

if __name__ == "__main__":  # not when this file is imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image, ImageFilter  # noqa: E402

from app import cli  # noqa: E402
from data import mnist  # noqa: E402
from data import photo as pipeline  # noqa: E402
from network import Network  # noqa: E402
from predict import SHARE_THRESHOLD  # noqa: E402

Draw = Callable[[np.ndarray, np.random.Generator], Image.Image]  # a digit (28, 28) as a photo
Paper = Callable[[Image.Image, np.random.Generator], Image.Image]  # ink, white on black, as a photo
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def large(digit: np.ndarray, size: int = 280, shift: tuple[float, float] = (0, 0), angle: float = 0) -> Image.Image:
    """White ink on black, the 28 x 28 image over two thirds of the photo's side."""
    side = 2 * size // 3
    image = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    if angle:
        image = image.rotate(angle, Image.Resampling.BICUBIC)
    result = Image.new("L", (size, size))
    margin = (size - side) / 2
    result.paste(image, tuple(round(margin * (1 + s)) for s in shift))
    return result


def inverted(image: Image.Image) -> Image.Image:
    """Black ink on white."""
    return Image.fromarray(255 - np.asarray(image))


def photo(ink: Image.Image, rng: np.random.Generator, uneven: bool = False) -> Image.Image:
    """Dark ink of some colour on paper of some colour, with the noise of a camera; `uneven`: and in slanting light."""
    share = np.asarray(ink)[..., None] / 255
    colours = share * rng.uniform(0, 90, 3) + (1 - share) * [*rng.uniform(150, 250, 2), rng.uniform(90, 220)]
    if uneven:
        y, x = np.mgrid[-0.5 : 0.5 : ink.height * 1j, -0.5 : 0.5 : ink.width * 1j]
        angle, corner = rng.uniform(0, 2 * np.pi), rng.uniform(-0.5, 0.5, 2)
        light = 0.8 + 0.6 * (np.cos(angle) * x + np.sin(angle) * y) - 0.4 * np.hypot(x - corner[0], y - corner[1])
        colours *= light[..., None]
    colours += rng.normal(0, 3, colours.shape)
    return Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))


def squared(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Dark ink on squared paper, its lines fine or coarse, pale or dark, in light that comes from one side."""
    step, width = rng.integers(14, 40), rng.integers(1, 4)
    lines = (np.arange(max(ink.size)) + rng.integers(step)) % step < width
    paper = np.where(lines[: ink.height, None] | lines[: ink.width], 1 - rng.uniform(0.1, 0.4), 1)
    share = np.asarray(ink) / 255
    grey = (230 * paper * (1 - share) + 50 * share) * np.linspace(rng.uniform(0.4, 1), 1, ink.width)
    return Image.fromarray(np.clip(grey + rng.normal(0, 3, grey.shape), 0, 255).astype(np.uint8))


def transparent(ink: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Ink of some dark colour on nothing."""
    result = Image.new("RGBA", ink.size, (*rng.integers(0, 120, 3).tolist(), 0))
    result.putalpha(ink)
    return result


def stroke(pixels: int) -> Paper:
    """Strokes thicker by so many pixels of 187 either way, or thinner."""
    kind = ImageFilter.MaxFilter if pixels > 0 else ImageFilter.MinFilter
    return lambda ink, rng: inverted(ink.filter(kind(2 * abs(pixels) + 1)))


PAPERS: dict[str, Paper] = {
    "white on black": lambda ink, rng: ink,
    "black on white": lambda ink, rng: inverted(ink),
    "transparent": transparent,
    "coloured paper": photo,
    "uneven light": lambda ink, rng: photo(ink, rng, uneven=True),
    "squared paper": squared,
    "JPEG of quality 60": photo,
    "thin strokes": stroke(-3),
    "thick strokes": stroke(5),
}


def on(paper: str) -> Draw:
    """One digit on this paper."""
    return lambda digit, rng: PAPERS[paper](large(digit), rng)


KINDS: dict[str, Draw] = {
    "as it is": lambda digit, rng: Image.fromarray(digit),
    "28 x 28, black on white": lambda digit, rng: inverted(Image.fromarray(digit)),
    "280 x 280, white on black": lambda digit, rng: large(digit),
    "40 x 40": lambda digit, rng: inverted(large(digit, 40)),
    "280 x 280": lambda digit, rng: inverted(large(digit)),
    "2000 x 2000": lambda digit, rng: inverted(large(digit, 2000)),
    "off the centre": lambda digit, rng: inverted(large(digit, shift=rng.uniform(-1, 1, 2))),
    "transparent": on("transparent"),
    "turned by EXIF": lambda digit, rng: inverted(large(digit)).transpose(Image.Transpose.ROTATE_90),
    "coloured paper": on("coloured paper"),
    "uneven light": on("uneven light"),
    "squared paper": on("squared paper"),
    "JPEG of quality 60": on("JPEG of quality 60"),
    "rotated by +-10 degrees": lambda digit, rng: inverted(large(digit, angle=rng.choice([-10, 10]))),
    "thin strokes": on("thin strokes"),
    "thick strokes": on("thick strokes"),
}


def gray(image: Image.Image, kind: str) -> np.ndarray:
    """A photo of this kind as `predict.py` reads it from a file."""
    file, exif = io.BytesIO(), Image.Exif()
    if "EXIF" in kind:
        exif[0x0112] = 6
    image.save(file, "JPEG" if "JPEG" in kind or exif else "PNG", quality=60, exif=exif, compress_level=0)
    with Image.open(file) as opened:
        return pipeline.to_gray(opened)


def prepared(kind: str, digit: np.ndarray, seed: int) -> np.ndarray:
    """What `photo.prepare` makes of one digit rendered as this kind of photo; all black if it finds no digit."""
    image = KINDS[kind](digit, np.random.default_rng([seed, *kind.encode()]))
    try:
        return pipeline.prepare(gray(image, kind))
    except pipeline.PhotoError:
        return np.zeros((28, 28), np.uint8)


def work(task: tuple[str, np.ndarray, int]) -> np.ndarray:
    """A few hundred digits."""
    kind, digits, first = task
    return np.stack([prepared(kind, digit, first + i) for i, digit in enumerate(digits)])


def parse_arguments(count: int, counted: str) -> argparse.Namespace:
    """The command line of this program and of digit_numbers.py; count: the default, of what."""
    parser = argparse.ArgumentParser(description="Accuracy on photos that are made of MNIST's digits.")
    parser.add_argument("models", type=Path, nargs="*", default=[ROOT / "models" / f"{n}.npz" for n in ("best", "cnn")])
    parser.add_argument("--write", action="store_true", help="write the table into docs/photos.md")
    parser.add_argument("--count", type=int, default=count, help=counted)
    parser.add_argument("--split", choices=["train", "test"], default="test")
    return parser.parse_args()


def process_pool() -> ProcessPoolExecutor:
    """A process for each core; they leave Ctrl-C to this one."""
    return ProcessPoolExecutor(cli.cores(), None, signal.signal, (signal.SIGINT, signal.SIG_IGN))


def main() -> None:
    """Draw, look, and print the tables."""
    from tables import write_table  # late: the tests use this file too

    arguments = parse_arguments(10_000, "digits of each kind, out of all evenly")
    networks = [Network.load(path) for path in arguments.models]
    images, labels = mnist.load(arguments.split)
    chosen = np.linspace(0, 9_999, arguments.count).astype(int) - 10_000
    images, labels = images[chosen], labels[chosen]
    print(f"{'':26}" + "".join(f"{path.stem:>12}" for path in arguments.models))
    sure, right = ([[] for _ in networks] for _ in range(2))
    table = [["kind of photo", *(f"`{path.stem}`" for path in arguments.models)]]
    with process_pool() as workers:
        for kind in KINDS:
            tasks = [(kind, images[i : i + 250], i) for i in range(0, len(images), 250)]
            seen = np.concatenate(list(workers.map(work, tasks)))
            for i, network in enumerate(networks):
                probabilities = network.predict_proba(seen)
                runner_up, best = np.sort(probabilities)[:, -2:].T
                sure[i].append(best / (best + runner_up))
                right[i].append((probabilities.argmax(axis=1) == labels) & seen.any(axis=(1, 2)))
            print(f"{kind:26}" + "".join(f"{100 * r[-1].mean():11.2f}%" for r in right), flush=True)
            table.append([kind, *(f"{100 * r[-1].mean():.2f} %" for r in right)])
    remark = f"Accuracy on {len(images):,} digits of each kind."
    for path, s, r in zip(arguments.models, map(np.concatenate, sure), map(np.concatenate, right), strict=True):
        print(f"\n{path.stem}: threshold  below it  of those right  of the others right")
        for threshold in THRESHOLDS:
            low = s < threshold
            shares = low.mean(), r[low].sum() / max(1, low.sum()), r[~low].mean()
            print(f"{threshold:{len(path.stem) + 11}.2f}{shares[0]:10.4f}{shares[1]:16.4f}{shares[2]:21.4f}")
            if threshold == SHARE_THRESHOLD:
                percent = [f"{100 * share:.1f} %" for share in shares]
                remark += f" `{path.stem}` calls {percent[0]} unsure: {percent[1]} of these are right, "
                remark += f"{percent[2]} of the others."
    if arguments.write:
        write_table("photos", table, remark)


if __name__ == "__main__":
    from tables import start

    start(main)
