"""Digits drawn from the fonts that come with matplotlib: what there is when there is no MNIST and no network.

Every digit of every font is drawn once, large; each image is one of these seen through a random affine map and a smooth
random warp. 60,000 to train and 10,000 to test, the same ones for the same seed.
"""

import contextlib
from pathlib import Path

import numpy as np

import storage
from data.formats import Progress, quiet

VERSION = 1  # of the drawing; another one makes old caches void
COUNTS = {"train": 60_000, "test": 10_000}
STREAMS = {"train": 0, "test": 1}
FONTS = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSansMono DejaVuSansMono-Oblique DejaVuSerif DejaVuSerif-Bold "
    "DejaVuSerif-Italic STIXGeneral STIXGeneralBol STIXGeneralItalic cmr10 cmb10 cmss10 cmtt10"
).split()
STROKES = (0, 1, 2)  # pixels of a glyph drawn thicker by
CANVAS, HEIGHT = 64, 40  # pixels of a large glyph's image, and of the glyph in it
CHUNK = 1000  # images at a time


def load(
    part: str,
    folder: Path | None = None,
    progress: Progress = quiet,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels int64 (N,) of "train" or "test", kept in a file once they are drawn."""
    path = (folder or Path(__file__).parent / "raw") / f"synthetic-{part}.npz"
    wanted = {"kind": "synthetic digits", "version": VERSION, "seed": seed}
    with contextlib.suppress(storage.StorageError, OSError):
        description, arrays = storage.read(path, "synthetic digits")
        if description == wanted:
            return arrays["images"], arrays["labels"]
    images, labels = draw(COUNTS[part], np.random.default_rng([seed, STREAMS[part]]), progress)
    with contextlib.suppress(OSError):  # where nothing can be kept, they are drawn again next time
        storage.write(path, wanted, {"images": images, "labels": labels})
    return images, labels


def draw(
    count: int,
    rng: np.random.Generator,
    progress: Progress = quiet,
) -> tuple[np.ndarray, np.ndarray]:
    """`count` random digits: images uint8 (N, 28, 28), labels int64 (N,)."""
    large = glyphs()  # (styles, 10, CANVAS, CANVAS)
    images = np.empty((count, 28, 28), np.uint8)
    labels = rng.integers(0, 10, count)
    for start in progress(range(0, count, CHUNK), "drawing synthetic digits"):
        part = slice(start, min(start + CHUNK, count))
        n = part.stop - part.start
        which = rng.integers(0, len(large), n) * 10 + labels[part]
        x, y = places(n, rng)
        grey = sample(large.reshape(-1, CANVAS, CANVAS), which, x, y)
        grey *= rng.uniform(0.9, 1.6, (n, 1)).astype(np.float32)  # faint pens and strong ones
        images[part] = np.minimum(grey, 255).reshape(n, 28, 28)
    return images, labels


def glyphs() -> np.ndarray:
    """Every digit in every style, uint8 (styles, 10, CANVAS, CANVAS): HEIGHT pixels high, centre of mass central."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    result = []
    for font in FONTS:
        face = ImageFont.truetype(folder / f"{font}.ttf", round(HEIGHT * 1.35))
        for stroke in STROKES:
            for digit in "0123456789":
                picture = Image.new("L", (2 * CANVAS, 2 * CANVAS))
                ImageDraw.Draw(picture).text((CANVAS // 2, CANVAS // 2), digit, 255, face, stroke_width=stroke)
                glyph = picture.crop(picture.getbbox())
                width = round(glyph.width * HEIGHT / glyph.height)
                ink = np.asarray(glyph.resize((width, HEIGHT), Image.Resampling.LANCZOS), np.float64)
                row, column = (np.indices(ink.shape) * ink).sum(axis=(1, 2)) / ink.sum()
                middle = CANVAS / 2
                picture = Image.new("L", (CANVAS, CANVAS))
                picture.paste(Image.fromarray(ink.astype(np.uint8)), (round(middle - column), round(middle - row)))
                result.append(np.asarray(picture))
    return np.stack(result).reshape(-1, 10, CANVAS, CANVAS)


def places(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Where in its large glyph each pixel of n images looks: x and y, float32 (n, 784)."""
    # out of the image (pixels from the centre), through the affine map, into the glyph
    grid = np.arange(28, dtype=np.float32) - 13.5
    x, y = np.tile(grid, 28), np.repeat(grid, 28)
    zoom = HEIGHT / 20 * rng.uniform(0.85, 1.15, (n, 1))  # MNIST's digits fill 20 of 28 pixels
    wide = rng.uniform(0.75, 1.3, (n, 1))
    angle = rng.normal(0, 0.15, (n, 1))  # radians
    shear = rng.normal(0, 0.2, (n, 1))
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    matrix = [cos * wide, (cos * shear + sin) * wide, -sin, cos - sin * shear]
    a, b, c, d = (m.astype(np.float32) for m in matrix)
    shift = rng.normal(0, 1.0, (2, n, 1)).astype(np.float32)
    # a smooth warp: a few random arrows, 5 x 5 over the image, and between them the linear blend
    corners = np.linspace(0, 4, 28, dtype=np.float32)
    blend = np.maximum(0, 1 - np.abs(corners[:, None] - np.arange(5, dtype=np.float32)))  # (28, 5)
    arrows = rng.standard_normal((2, n, 5, 5), dtype=np.float32) * np.float32(2.2)
    warp = (blend @ arrows @ blend.T).reshape(2, n, 784)
    middle = np.float32(CANVAS / 2 - 0.5)
    return a * x + b * y + shift[0] + warp[0] + middle, c * x + d * y + shift[1] + warp[1] + middle


def sample(pictures: np.ndarray, which: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear interpolation: the grey values of pictures[which] at (x, y), float32, 0 outside; all (n, pixels)."""
    size = pictures.shape[-1]
    x = np.clip(x, 0, size - 1.001)
    y = np.clip(y, 0, size - 1.001)
    left, top = x.astype(np.int32), y.astype(np.int32)
    x -= left
    y -= top
    flat = pictures.reshape(-1)
    at = (which[:, None] * size + top) * size + left
    upper = flat[at] * (1 - x) + flat[at + 1] * x
    lower = flat[at + size] * (1 - x) + flat[at + size + 1] * x
    return upper * (1 - y) + lower * y
