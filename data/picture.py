"""Anybody's picture of a digit -> the 28 x 28 pixels that a network trained on MNIST knows.

    open -> grey -> even out the light -> mask of the ink -> the digit without specks -> 20 x 20 -> 28 x 28

Every step is a pure function of arrays. The last two repeat how MNIST was made of scanned forms (LeCun et al. 1998):
fitted into 20 x 20 pixels with its proportions kept, then moved so that its centre of mass is in the middle.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
LARGEST = 100_000_000  # pixels of a picture; more is a decompression bomb
SIDE = 400  # pixels of the longer side that the picture is worked on with
COARSE = 64  # the same for the light, which changes slowly
FAINTEST = 0.08  # share of the light that ink takes away at least; less is the texture of the paper
DIM = 64  # grey value of paper in so little light that darker is not told from black
SPECK = 0.03  # share of the ink in a piece that is no part of the digit
LEAVING = 8  # strokes on the edge of the picture at most, even if the digit was cut out tightly
MIDDLE = 14  # of 28 pixels, counted from 0: where MNIST's centres of mass are, give or take half a pixel
BRIGHT = 200  # grey value that the strokes reach (in all of MNIST's images it is 254 or 255)
FINE = 8  # the mask has so many pixels for one of the 20 x 20
NEIGHBOURS = [  # all pixels of a picture that have a neighbour to the right, below, and below to either side; and those
    (np.s_[:, :-1], np.s_[:, 1:]),
    (np.s_[:-1], np.s_[1:]),
    (np.s_[:-1, :-1], np.s_[1:, 1:]),
    (np.s_[:-1, 1:], np.s_[1:, :-1]),
]
STROKE = (2.1, 2.9)  # pixels of 20: how thick the strokes of the middle half of MNIST's digits are


class PictureError(ValueError):
    """A picture that cannot be used; the message says why."""


def digit(path: Path) -> np.ndarray:
    """The digit in a picture file, uint8 (28, 28), white on black as in MNIST. PictureError if there is none."""
    return prepare(read(path))


def prepare(grey: np.ndarray) -> np.ndarray:
    """The same for a picture's grey values, uint8 (height, width). What is in MNIST's form is returned as is."""
    if is_prepared(grey):
        return grey
    grey = without_frame(grey)
    ink = even_light(resize(grey, SIDE / max(grey.shape)))
    level = above_grid(ink, threshold(ink))
    pieces = components(ink > level)
    keep = main_pieces(pieces)
    ink[(pieces >= 0) & ~keep] = 0
    return centre(stroke_width(fine_mask(ink[bounding_box(keep)], level)))


def read(path: Path) -> np.ndarray:
    """The grey values of a picture file, uint8 (height, width), the right way up. PictureError if it is none."""
    return _opened(path, greys)


def thumbnail(path: Path, side: int = 160) -> np.ndarray:
    """A small copy of a picture in its colours, uint8 (height, width, 3), the right way up. PictureError."""

    def shrink(image: Image) -> np.ndarray:
        image = _plain(image).convert("RGB")
        image.thumbnail((side, side))
        return np.asarray(image)

    return _opened(path, shrink)


def walk(folder: Path, trouble: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk in the order of names, through links too, but once into each folder. `trouble` hears what is closed."""
    seen = set()
    for here, inside, names in os.walk(folder, onerror=trouble, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link that goes round in a circle
            inside.clear()
            continue
        seen.add(real)
        inside.sort()
        yield here, inside, sorted(names)


def _opened(path: Path, use: Callable[[Image], np.ndarray]) -> np.ndarray:
    """What `use` makes of the picture in a file. PictureError, whatever is wrong with it."""
    from PIL import Image  # late: most commands never need it

    try:
        if path.is_dir():
            raise PictureError("is a folder")
        if not path.exists():
            raise PictureError("does not exist")
        if not path.is_file():  # a pipe, say, that would never end
            raise PictureError("is no regular file")
        if not path.stat().st_size:
            raise PictureError("is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata, and large sizes
            with Image.open(path, formats=FORMATS) as image:
                image.draft(None, (2 * SIDE, 2 * SIDE))  # a large JPEG need not be read in full
                if image.width * image.height > LARGEST:
                    raise PictureError(f"is too large ({image.width:,} x {image.height:,} pixels)")
                return use(image)
    except PictureError:
        raise
    except PermissionError:
        raise PictureError("may not be read: no permission") from None
    except Image.UnidentifiedImageError:
        raise PictureError(f"is not a picture ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise PictureError("is too large") from None
    except (Exception, MemoryError) as error:  # a damaged file raises a dozen kinds; to the user they are one
        raise PictureError(f"is damaged ({str(error) or type(error).__name__})") from None


def greys(image: Image) -> np.ndarray:
    """The grey values of a Pillow image, uint8 (height, width), the right way up."""
    image = _plain(image)
    return np.asarray(image if image.mode == "L" else image.convert("L"))


def _plain(image: Image) -> Image:
    """A Pillow image with bytes of grey or of red, green, blue, the right way up, on paper if parts are transparent."""
    from PIL import Image, ImageOps

    if min(image.size) > 4 * SIDE and image.mode in ("L", "RGB", "RGBA", "LA", "I", "F", "CMYK"):  # to save memory
        exif, image = image.getexif(), image.reduce(min(image.size) // (2 * SIDE))
        image.info["exif"] = exif.tobytes()
    with contextlib.suppress(Exception):  # the camera's note may be damaged: then the picture is as it is
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # more than 8 bits
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
        top = values.max()
        full = 1 if top <= 1 and image.mode == "F" else max(255, 2 ** math.ceil(math.log2(max(top, 1) + 1)) - 1)
        return Image.fromarray(np.clip(255 * values / full, 0, 255).astype(np.uint8))
    image = _on_paper(image)
    return image if image.mode == "L" else image.convert("RGB")


def _on_paper(image: Image) -> Image:
    """A Pillow image with its transparent parts white, or black if what is drawn there is light."""
    from PIL import Image

    if not (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
        return image
    image = image.convert("RGBA")
    grey, alpha = np.asarray(image.convert("L")), np.asarray(image.getchannel("A"))
    seen = alpha > 127
    light = 0 < seen.mean() < 0.5 and grey[seen].mean() > 127
    paper = Image.new("RGBA", image.size, (0, 0, 0, 255) if light else (255, 255, 255, 255))
    paper.alpha_composite(image)
    return paper


def is_prepared(grey: np.ndarray) -> bool:
    """Whether a picture is in MNIST's form: 28 x 28, bright on black, its centre of mass in the middle."""
    if grey.shape != (28, 28) or not on_black(grey) or grey.max() < BRIGHT:
        return False
    return max(abs(place - MIDDLE) for place in centre_of_mass(grey)) <= 1.5


def on_black(grey: np.ndarray) -> bool:
    """Whether most of the border is black."""
    return bool(np.median(_border(grey)) == 0)


def _border(picture: np.ndarray, width: int = 1) -> np.ndarray:
    """The values along the four edges."""
    w = width
    return np.concatenate([a.ravel() for a in (picture[:w], picture[-w:], picture[w:-w, :w], picture[w:-w, -w:])])


def without_frame(grey: np.ndarray) -> np.ndarray:
    """The photo inside a frame of one colour, as chat programs and screenshots put around it; or the picture as it is.

    A frame is of another grey than the edge of what it surrounds, and there is something in the middle of that. (The
    margin around a digit is of the grey that surrounds the digit, and a lone stroke has nothing in its middle.)
    """
    different = np.abs(grey.astype(np.int16) - grey[0, 0]) > 16
    if not different.any():
        return grey
    inside = grey[bounding_box(different)]
    high, wide = (pixels // 8 for pixels in inside.shape)
    core = inside[high : inside.shape[0] - high, wide : inside.shape[1] - wide]
    if np.mean(np.abs(_border(inside).astype(np.int16) - grey[0, 0]) > 16) < 0.95 or np.ptp(core) < 32:
        return grey
    edge = max(1, min(inside.shape) // 50)  # where frame and photo mix
    return inside[edge:-edge, edge:-edge] if min(inside.shape) > 2 * edge else grey


def resize(picture: np.ndarray, factor: float) -> np.ndarray:
    """A picture scaled by `factor`, float32: weighted means if it shrinks, smoothly interpolated if it grows."""
    from PIL import Image

    size = [max(1, round(factor * pixels)) for pixels in reversed(picture.shape)]
    image = Image.fromarray(picture.astype(np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR if factor < 1 else Image.Resampling.BICUBIC))


def even_light(grey: np.ndarray) -> np.ndarray:
    """How much of the light the ink takes away in each pixel, 0 to 1, whatever the light, the paper and the polarity.

    The light is what is left of the picture when everything narrower than a part of it is filled up (a morphological
    closing, Serra 1982), smoothed.
    """
    coarse = resize(grey, min(1, COARSE / max(grey.shape)))
    if not is_dark_on_light(coarse):
        grey, coarse = 255 - grey, 255 - coarse
    width = round(0.25 * max(coarse.shape))
    beyond = np.pad(coarse, 2 * width, mode="reflect", reflect_type="odd")  # goes on as it came, slopes and all
    paper = -_largest(-_largest(beyond, width), width)
    for axis in (0, 1):  # smoothed
        margin = [(width // 4,) * 2 if i == axis else (0, 0) for i in (0, 1)]
        padded = np.pad(paper, margin, mode="reflect", reflect_type="odd")
        paper = sliding_window_view(padded, 2 * (width // 4) + 1, axis).mean(axis=-1)
    paper = resize(paper, max(grey.shape) / max(paper.shape))[: grey.shape[0], : grey.shape[1]]
    paper = np.pad(paper, [(0, a - b) for a, b in zip(grey.shape, paper.shape, strict=True)], mode="edge")
    return np.clip((paper - grey) / np.maximum(paper, DIM), 0, 1)


def _largest(picture: np.ndarray, width: int) -> np.ndarray:
    """The largest value in the square of so many pixels each way around each pixel that has such a square."""
    for axis in (0, 1):
        picture = sliding_window_view(picture, 2 * width + 1, axis).max(axis=-1)
    return picture


def is_dark_on_light(picture: np.ndarray) -> bool:
    """The polarity: whether what differs most from the light along the border (a plane fitted to it) is darker."""
    rows, columns = np.indices(picture.shape)
    terms = np.stack([np.ones(picture.shape), rows, columns])
    width = max(1, min(picture.shape) // 16)
    x, y = np.stack([_border(term, width) for term in terms], axis=1), _border(picture, width)
    near = np.abs(y - np.median(y)) <= np.percentile(np.abs(y - np.median(y)), 80)  # without ink that touches it
    plane = np.linalg.lstsq(x[near], y[near], rcond=None)[0]
    return float(((picture - np.tensordot(plane, terms, 1)) ** 3).sum()) <= 0


def threshold(ink: np.ndarray) -> float:
    """Half the darkness of the ink, which is what the darkest tenth has of all above Otsu's threshold (1979)."""
    counts = np.bincount((255.999 * ink).astype(np.uint8).ravel(), minlength=256)
    values = (np.arange(256) + 0.5) / 256
    below, sums = np.cumsum(counts), np.cumsum(counts * values)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    level = (np.nanargmax(spread) + 1) / 256 if np.isfinite(spread).any() else 1.0
    strong = float(np.percentile(ink[ink > level], 90)) if (ink > level).any() else 0.0
    if strong < FAINTEST:
        raise PictureError("shows no digit: it is blank, or too faint")
    return 0.5 * strong


def above_grid(ink: np.ndarray, level: float) -> float:
    """The level, raised while more strokes leave the picture than a digit's: lines of squared paper."""
    raised = level
    while raised < ink.max():
        edge = _ring(ink > raised)
        if np.count_nonzero(edge & ~np.roll(edge, 1)) <= LEAVING:
            return raised
        raised *= 1.2
    return level


def _ring(picture: np.ndarray) -> np.ndarray:
    """The values along the edge, once around."""
    return np.concatenate([picture[0, :-1], picture[:-1, -1], picture[-1, :0:-1], picture[:0:-1, 0]])


def components(mask: np.ndarray) -> np.ndarray:
    """The number of the connected piece that each pixel belongs to, -1 for none; corners connect too."""
    index = np.full(mask.shape, -1)
    index[mask] = np.arange(mask.sum())
    ends: tuple[list, list] = [], []
    for one, other in NEIGHBOURS:
        linked = mask[one] & mask[other]
        ends[0].append(index[one][linked])
        ends[1].append(index[other][linked])
    one, other = map(np.concatenate, ends)
    root = np.arange(mask.sum())
    while True:  # each pixel points to an earlier one of its piece, in the end to the very first
        a, b = root[one], root[other]
        apart = a != b
        if not apart.any():
            break
        np.minimum.at(root, np.maximum(a, b)[apart], np.minimum(a, b)[apart])
        while (root != root[root]).any():
            root = root[root]
    first = root == np.arange(root.size)
    index[mask] = (np.cumsum(first) - 1)[root]
    return index


def main_pieces(pieces: np.ndarray) -> np.ndarray:
    """The mask of the digit: all pieces but specks, and what hangs on the picture's edge, as ruled lines do."""
    places = np.nonzero(pieces >= 0)
    inked = pieces[places]
    sizes = np.bincount(inked)
    good = sizes >= SPECK * sizes.sum()
    if not good.any():
        raise PictureError("shows no digit, only specks")
    on_edge = np.zeros(len(sizes) + 1, bool)
    on_edge[_border(pieces)] = True  # the last one: no piece
    for at, pixels in zip(places, pieces.shape, strict=True):
        middle = (np.bincount(inked, at) / sizes + 0.5) / pixels
        hanging = on_edge[:-1] & (np.abs(middle - 0.5) > 0.35)
        if (good & ~hanging).any():
            good &= ~hanging
    return np.append(good, False)[pieces]


def bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest rectangle around a mask."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def fine_mask(ink: np.ndarray, level: float) -> np.ndarray:
    """The mask of a digit, 20 * FINE pixels high or wide, with a margin around it.

    Strokes that get thinner than a pixel or so on the way get fainter too, and the level goes with them.
    """
    factor = 20 * FINE / max(ink.shape)
    width = factor * mean_width(np.pad(ink > level, 1))
    mask = resize(ink, factor) > level * min(1, width / 1.5)
    if not mask.any():
        raise PictureError("shows no digit: its strokes are too thin")
    return np.pad(mask, 2 * FINE)


def stroke_width(mask: np.ndarray) -> np.ndarray:
    """The mask with its strokes made thicker or thinner, if they are beyond what MNIST has."""
    width = mean_width(mask) / FINE
    radius = FINE * (np.clip(width, *STROKE) - width) / 2
    if abs(radius) < 0.5:
        return mask
    grown = mask if radius > 0 else ~mask
    reach = math.floor(abs(radius) + 0.5)
    padded = np.pad(grown, reach, constant_values=radius < 0)
    for i, j in np.argwhere(np.hypot(*np.indices((2 * reach + 1,) * 2) - reach) <= abs(radius)):
        grown = grown | padded[i : i + mask.shape[0], j : j + mask.shape[1]]
    return grown if radius > 0 or grown.all() else ~grown


def mean_width(mask: np.ndarray) -> float:
    """How thick the strokes are, in pixels: twice the area over the length of the outline."""
    outline = sum((mask[a] != mask[b]).sum() for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])))
    return 2 * mask.sum() / max(1, outline * math.pi / 4)  # pi / 4: the outline of a pixel's steps is too long by that


def centre_of_mass(picture: np.ndarray) -> list[float]:
    """Row and column."""
    return [float(np.arange(picture.shape[i]) @ picture.sum(axis=1 - i) / picture.sum()) for i in (0, 1)]


def centre(mask: np.ndarray) -> np.ndarray:
    """A fine mask as the grey values of 28 x 28 pixels: the digit 20 high or wide, its centre of mass in the middle."""
    ink = mask[bounding_box(mask)]
    small = np.clip(resize(ink, 20 / max(ink.shape)), 0, 1)
    result = np.zeros((28, 28), np.uint8)
    high, wide = small.shape
    top, left = (round(MIDDLE - place) for place in centre_of_mass(small))
    top, left = min(max(top, 0), 28 - high), min(max(left, 0), 28 - wide)
    result[top : top + high, left : left + wide] = np.rint(255 * small)
    return result
