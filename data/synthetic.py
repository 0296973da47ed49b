"""Synthetic digits, rendered from the fonts that come with matplotlib: a substitute where MNIST is not available.

Every digit of every font is rendered in MNIST's form, with three stroke widths. Each image is a random distortion of
one of these. There are 60,000 images for training and 10,000 for testing, always the same.
"""

import contextlib
import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import storage
from data import photo
from data.augment import Distortion
from data.formats import Progress, no_progress

VERSION = 2  # of the images; files with another version are not used
COUNTS = {"train": 60_000, "test": 10_000}
STREAMS = {"train": 0, "test": 1}  # of the random numbers
FONTS = (
    "DejaVuSans DejaVuSans-Bold DejaVuSans-Oblique DejaVuSansMono DejaVuSansMono-Oblique DejaVuSerif DejaVuSerif-Bold "
    "DejaVuSerif-Italic STIXGeneral STIXGeneralBol STIXGeneralItalic cmr10 cmb10 cmss10 cmtt10"
).split()
FONT_SIZE = 216  # pixels; a digit is about 160 high, 8 times as high as in MNIST's form
STROKES = (0, 4, 8)  # pixels that are added around a glyph of this size: three stroke widths
DISTORTION = Distortion(rotate=15, scale=0.2, shear=0.35, shift=1, elastic=1, smooth=5)
BRIGHTNESS = (0.9, 1.6)  # range of the factor of the pixel values; they are clipped to 255
CHUNK = 1000  # images at a time


def load(split: str, folder: Path | None = None, progress: Progress = no_progress) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels int64 (N,) of "train" or "test"; the first call saves them in `folder`."""
    path = (folder or Path(__file__).parent / "raw") / f"synthetic-{split}.npz"
    expected = {"kind": "synthetic digits", "version": VERSION}
    with contextlib.suppress(storage.StorageError, OSError, KeyError):
        description, arrays = storage.read(path, "synthetic digits")
        if description == expected:
            return arrays["images"], arrays["labels"]
    images, labels = render(COUNTS[split], np.random.default_rng([0, STREAMS[split]]), progress)
    with contextlib.suppress(OSError):  # if the folder is not writable, they are rendered again next time
        storage.write(path, expected, {"images": images, "labels": labels})
    return images, labels


def render(count: int, rng: np.random.Generator, progress: Progress = no_progress) -> tuple[np.ndarray, np.ndarray]:
    """`count` random digits: images uint8 (N, 28, 28), labels int64 (N,)."""
    styles = glyphs()
    images = np.empty((count, 28, 28), np.uint8)
    labels = rng.integers(0, 10, count)
    for start in progress(range(0, count, CHUNK), "rendering synthetic digits"):
        digits = labels[start : start + CHUNK]
        chunk = DISTORTION(styles[rng.integers(0, len(styles), len(digits)), digits], rng)
        factors = rng.uniform(*BRIGHTNESS, (len(digits), 1, 1)).astype(np.float32)
        images[start : start + CHUNK] = np.minimum(factors * chunk, 255)
    return images, labels


@functools.cache
def glyphs() -> np.ndarray:
    """Every digit in every style, in MNIST's form: uint8 (styles, 10, 28, 28)."""
    import matplotlib  # late: slow to import

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    result = []
    for font in FONTS:
        face = ImageFont.truetype(folder / f"{font}.ttf", FONT_SIZE)
        for stroke in STROKES:
            for digit in "0123456789":
                canvas = Image.new("L", (2 * FONT_SIZE, 2 * FONT_SIZE))
                ImageDraw.Draw(canvas).text((FONT_SIZE // 2, FONT_SIZE // 2), digit, 255, face, stroke_width=stroke)
                result.append(photo.centre(np.asarray(canvas) > 127))
    return np.stack(result).reshape(-1, 10, 28, 28)
