"""How well are photos of several digits read? Strips and sheets of MNIST's digits, on the kinds of paper of photos.py.

    python tests/bench/digit_numbers.py [--count N] [--split train] [--write] [MODEL...]

A strip has 1 to 10 digits of different sizes, up to a factor of two, with gaps of one to three widths of a stroke. A
sheet has 5 rows of 8, and slopes by up to 10 degrees. In a pair the strokes of two digits meet. Prints in how many
photos exactly the digits were found, in reading order, and how many digits are read right; for strips beside the same
digits alone. --split train uses the validation images (the last 10,000), as all choices in data/segment.py do.
"""

import itertools
import os
import sys
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # not when this file is imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
from photos import PAPERS, gray, large, parse_arguments, process_pool  # noqa: E402
from PIL import Image, ImageFilter  # noqa: E402
from tables import start, write_table  # noqa: E402

from data import mnist, photo, segment  # noqa: E402
from network import Network  # noqa: E402
from predict import is_unsure  # noqa: E402

Ink = tuple[Image.Image, np.ndarray]  # white on black, and the centre (x, y) of each digit
STROKES = {"thin strokes": -3, "thick strokes": 5}  # pixels of 187, as in photos.py
STRIPS = [*PAPERS, "rotated by +-10 degrees"]
OTHERS = ["sheet", "pair"]


def drawn(digit: np.ndarray, side: float, widen: int = 0) -> np.ndarray:
    """The ink of a digit, the 28 x 28 image enlarged to this side, its strokes widened as in photos.py, cut out."""
    image = Image.fromarray(np.pad(digit, 2)).resize((round(side * 32 / 28),) * 2, Image.Resampling.BICUBIC)
    if pixels := round(abs(widen) * side / 187):
        image = image.filter((ImageFilter.MaxFilter if widen > 0 else ImageFilter.MinFilter)(2 * pixels + 1))
    return np.asarray(image.crop(image.point(lambda value: value > 30 and 255).getbbox()))


def stroke_width(ink: np.ndarray) -> float:
    """The mean width of its strokes, pixels."""
    return photo.mean_stroke_width(np.pad(ink > 127, 1))


def strip(digits: np.ndarray, rng: np.random.Generator, widen: int = 0) -> Ink:
    """Digits in a line, from the left; each gap is one to three times the wider stroke of the two beside it."""
    sides = rng.uniform(120, 240, len(digits)) if len(digits) > 1 else [187]
    inks = [drawn(digit, side, widen) for digit, side in zip(digits, sides, strict=True)]
    widths = [stroke_width(ink) for ink in inks]
    gaps = [round(rng.uniform(1, 3) * max(two)) + 1 for two in itertools.pairwise(widths)]
    height = 100 + max(len(ink) for ink in inks)
    canvas = np.zeros((height, 100 + sum(ink.shape[1] for ink in inks) + sum(gaps)), np.uint8)
    left, centres = 50, []
    for ink, gap in zip(inks, [*gaps, 0], strict=True):
        h, w = ink.shape
        top = min(max(30, (height - h) // 2 + int(rng.integers(-15, 16))), height - h - 30)
        canvas[top : top + h, left : left + w] = ink
        centres.append((left + w / 2, top + h / 2))
        left += w + gap
    return Image.fromarray(canvas), np.array(centres)


def pair(digits: np.ndarray, rng: np.random.Generator) -> Ink:
    """Two digits, the second moved to the left until the strokes meet."""
    one, two = (drawn(digit, 187) for digit in digits)
    canvas = np.zeros((300, 550), np.uint8)
    (height, width), top = one.shape, 150 - len(one) // 2
    canvas[top : top + height, 50 : 50 + width] = one
    top = 150 - len(two) // 2 + int(rng.integers(-15, 16))
    for left in range(50 + width, 50, -1):
        place = canvas[top : top + len(two), left : left + two.shape[1]]
        if np.count_nonzero(np.minimum(place, two) > 127) >= 20:
            break
    np.maximum(place, two, out=place)
    centres = [(50 + width / 2, 150), (left + two.shape[1] / 2, top + len(two) / 2)]
    return Image.fromarray(canvas[:, : 50 + max(left + two.shape[1], 50 + width)]), np.array(centres)


def sheet(digits: np.ndarray, rng: np.random.Generator) -> Ink:
    """Rows of 8 digits in cells of 150 pixels, with a margin."""
    canvas, centres = np.zeros((len(digits) // 8 * 150 + 400, 8 * 150 + 400), np.uint8), []
    for i, digit in enumerate(digits):
        ink = drawn(digit, rng.uniform(90, 150))
        cell = 200 + 150 * np.array(divmod(i, 8)) + rng.integers(-10, 11, 2)
        top, left = cell + (150 - np.array(ink.shape)) // 2
        canvas[top : top + len(ink), left : left + ink.shape[1]] = ink
        centres.append((left + ink.shape[1] / 2, top + len(ink) / 2))
    return rotated((Image.fromarray(canvas), np.array(centres)), rng.uniform(-10, 10))


def rotated(ink: Ink, degrees: float) -> Ink:
    """The ink and the centres, rotated; the canvas grows."""
    image, t = ink[0].rotate(degrees, Image.Resampling.BICUBIC, expand=True), np.deg2rad(degrees)
    rotation = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    return image, (ink[1] - np.array(ink[0].size) / 2) @ rotation + np.array(image.size) / 2


Answer = tuple[bool, np.ndarray, np.ndarray, list[segment.Digit]]


def work(task: tuple[str, np.ndarray, int]) -> Answer:
    """One photo: whether exactly its digits were found, in order; the image at each digit's place; each alone; all.

    Black stands for a digit that was not found.
    """
    kind, digits, seed = task
    rng = np.random.default_rng([seed, *kind.encode()])
    paper = "coloured paper" if kind == "sheet" else kind if kind in set(PAPERS) - set(STROKES) else "black on white"
    make = {"sheet": sheet, "pair": pair}.get(kind) or partial(strip, widen=STROKES.get(kind, 0))
    ink = make(digits, rng)
    if angle := rng.choice([-10, 10]) if "rotated" in kind else 0:
        ink = rotated(ink, angle)
    image, centres = ink
    try:
        found = segment.digits(gray(PAPERS[paper](image, rng), paper))
    except photo.PhotoError:
        found = []
    seen, alone, places = np.zeros_like(digits), np.zeros_like(digits), []
    for i, (x, y) in enumerate(centres / image.size):
        distance = [np.hypot(x - (d.box[0] + d.box[2]) / 2, y - (d.box[1] + d.box[3]) / 2) for d in found]
        places.append(int(np.argmin(distance)) if found else -1)
        if found and found[places[i]].box[0] < x < found[places[i]].box[2]:
            seen[i] = found[places[i]].image
        if kind in STRIPS:
            kind_alone = kind if kind in PAPERS else paper
            alone[i] = photo.prepare(gray(PAPERS[kind_alone](large(digits[i], angle=angle), rng), kind_alone))
    return places == list(range(len(found))), seen, alone, found


def accuracy(network: Network, images: np.ndarray, labels: np.ndarray) -> str:
    """In percent; black images are wrong."""
    return f"{100 * ((network.predict(images) == labels) & images.any(axis=(1, 2))).mean():.2f} %"


def main() -> None:
    """Draw, read, and print the table."""
    arguments = parse_arguments(1000, "photos of each kind")
    networks = {path.stem: Network.load(path) for path in arguments.models}
    images, labels = (each[-10_000:] for each in mnist.load(arguments.split))
    table = [["photo", "exactly found", *itertools.chain(*([f"`{name}`", "alone"] for name in networks))]]
    form = "{:24}" + "{:>15}" * (len(table[0]) - 1)
    print(form.format(*table[0]))
    with process_pool() as workers:
        for kind in [*STRIPS, *OTHERS]:
            rng = np.random.default_rng([*kind.encode()])
            counts = [{"sheet": 40, "pair": 2}.get(kind) or int(rng.integers(1, 11)) for _ in range(arguments.count)]
            counts = counts[: max(1, len(counts) // 4)] if kind == "sheet" else counts
            chosen = [rng.integers(0, 10_000, count) for count in counts]
            tasks = [(kind, images[each], seed) for seed, each in enumerate(chosen)]
            answers = list(workers.map(work, tasks, chunksize=10))
            exact, seen, alone, found = zip(*answers, strict=True)
            seen, alone, real = np.concatenate(seen), np.concatenate(alone), labels[np.concatenate(chosen)]
            row = [kind, f"{100 * np.mean(exact):.1f} %"]
            for network in networks.values():
                row += [accuracy(network, seen, real), accuracy(network, alone, real) if kind in STRIPS else ""]
            if kind != "pair":
                table.append(row)
                print(form.format(*row), flush=True)
    split = f"{100 * np.mean(exact):.1f} %"
    remark = f"{arguments.count:,} photos of each kind, a quarter as many sheets. "
    remark += f"Of {arguments.count:,} touching pairs, {split} are split."
    single = [digits[0] for digits in found if len(digits) == 1]
    for name, network in networks.items():
        probabilities = network.predict_proba(np.stack([digit.image for digit in single]))
        unsure = sum(is_unsure(p, digit) for p, digit in zip(probabilities, single, strict=True))
        shares = [f"{100 * count / len(found):.1f} %" for count in (unsure, len(single) - unsure)]
        remark += f" `{name}` calls {shares[0]} unsure, and reads {shares[1]} as one digit."
    print(remark)
    if arguments.write:
        write_table("numbers", table, remark)


if __name__ == "__main__":
    start(main)
