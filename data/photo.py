"""A photo of one digit -> a 28 x 28 image in MNIST's form, the input of the networks. (Several: data/segment.py.)

    file -> gray -> ink: flatten the illumination -> mask: threshold, ruled lines -> main components -> stroke width
         -> 20 x 20 -> 28 x 28

A photo is any picture file of a user: a camera's photo, a scan, a drawing. Every step after the first is a pure
function of arrays. The last two repeat how MNIST was made from scanned forms (LeCun et al. 1998): each digit is scaled
to fit 20 x 20 pixels with its proportions kept, and moved so that its centre of mass is in the middle.
"""

import contextlib
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
MAX_PIXELS = 100_000_000  # a photo with more is refused: it may be a decompression bomb
MAX_SIDE = 65_535  # pixels, of JPEG; Pillow needs much more memory for each row of a longer photo
MAX_MEMORY = 290_000_000  # bytes to decode a photo; one that needs more is refused too
DECODED_BYTES = {  # mode -> bytes per pixel to decode a photo that is then reduced, as measured
    "1": 2, "L": 1, "RGB": 4, "CMYK": 4, "I": 4, "F": 4, "RGBA": 8, "LA": 8
}  # fmt: skip
WHOLE_BYTES = {  # the same if it is not reduced, and for its copy in float32 that is scaled; 32 for other modes
    "L": 9, "1": 9, "P": 9, "I;16": 10, "I;16B": 10, "RGB": 12, "CMYK": 16
}  # fmt: skip
WORK_SIZE = 400  # pixels: a photo is scaled so that its longer side has this length
ILLUMINATION_SIZE = 64  # the same for the illumination, which varies slowly
MIN_CONTRAST = 0.08  # ink darkens the background by at least this fraction; less is the texture of the paper
MIN_BACKGROUND = 64  # a background darker than this pixel value is treated as if it had this value (several: half)
MIN_COMPONENT_FRACTION = 0.03  # a component with a smaller fraction of the ink is not part of the digit
MAX_BORDER_STROKES = 8  # that cross the border of the photo; a digit has fewer, even if cut out tightly
CENTRE = 14  # of 28 pixels, counted from 0: the centre of mass of MNIST's images, +-0.5
MIN_PEAK = 200  # the largest pixel value is at least this (in MNIST's images it is 254 or 255)
JPEG_NOISE = 64  # JPEG of quality 75 changes black pixels near a stroke to values up to this
UPSAMPLING = 8  # pixels of the mask in x and in y for one of the 20 x 20
STROKE_WIDTHS = (2.1, 2.9)  # of 20 pixels: quartiles of the mean stroke widths in MNIST
NEIGHBOURS = [(np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])]  # slices for all pairs: to the right, below

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it prints what is wrong with a TIFF


class PhotoError(ValueError):
    """A photo that cannot be used; the message gives the reason."""

    exit_code = 1


def digit(path: Path) -> np.ndarray:
    """The digit in a photo file, uint8 (28, 28), white on black as in MNIST. PhotoError if there is none."""
    return prepare(read(path))


def prepare(gray: np.ndarray) -> np.ndarray:
    """The digit in a gray photo: uint8 (height, width) -> uint8 (28, 28). PhotoError if there is none.

    An image that is in MNIST's form already is returned unchanged.
    """
    if is_prepared(gray):
        return gray
    gray = gray[inside_frame(gray)]
    ink = flatten_illumination(resize(gray, WORK_SIZE / max(gray.shape)))
    level = suppress_ruled_lines(ink, ink_threshold(ink), ink.max())
    components = connected_components(ink > level)
    keep = main_components(components)
    ink[(components >= 0) & ~keep] = 0
    return to_mnist(ink[bounding_box(keep)], level)


def to_mnist(ink: np.ndarray, level: float) -> np.ndarray:
    """The ink of one digit, and its threshold -> uint8 (28, 28), in MNIST's form."""
    return centre(normalise_stroke_width(upsampled_mask(ink, level)))


def read(path: Path) -> np.ndarray:
    """The pixel values of a photo file, uint8 gray (height, width), upright. PhotoError if it cannot be read."""
    return _open(path, to_gray)


def thumbnail(path: Path, side: int = 160) -> np.ndarray:
    """A small copy of a photo in colour, uint8 (height, width, 3), upright. PhotoError if it cannot be read."""

    def shrink(image: Image.Image) -> np.ndarray:
        image = _to_8_bit(image).convert("RGB")
        image.thumbnail((side, side))
        return np.asarray(image)

    return _open(path, shrink)


def walk(folder: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk in the order of names, through links, each folder once. `onerror` is called for unreadable folders."""
    visited = set()
    for current, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
        if (real := os.path.realpath(current)) in visited:  # a link can lead back to a folder above it
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        yield current, folders, sorted(names)


def _open(path: Path, convert: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """`convert` of the Pillow image in a file. PhotoError if anything is wrong with it."""
    try:
        if path.is_dir():
            raise PhotoError("is a folder")
        if not path.exists():
            raise PhotoError("does not exist")
        if not path.is_file():  # reading a pipe might never end
            raise PhotoError("is not a regular file")
        if not path.stat().st_size:
            raise PhotoError("is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata, and large sizes
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                image.draft(None, (2 * WORK_SIZE, 2 * WORK_SIZE))  # decode a large JPEG at a lower resolution
                too_many = image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE
                if too_many or _memory(image, width * height) > MAX_MEMORY:
                    raise PhotoError(f"is too large ({width:,} x {height:,} pixels)")
                with _silent_libraries():
                    return convert(image)
    except PhotoError:
        raise
    except PermissionError:
        raise PhotoError("cannot be read: permission denied") from None
    except Image.UnidentifiedImageError:
        raise PhotoError(f"is not a photo ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise PhotoError("is too large") from None
    except (Exception, MemoryError) as error:  # a damaged file raises many types of exceptions
        raise PhotoError(f"is damaged ({str(error) or type(error).__name__})") from None


@contextlib.contextmanager
def _silent_libraries() -> Iterator[None]:
    """Discard what is written to file descriptor 2: libtiff prints there what is wrong with a file."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # it is closed
            saved = os.dup(2)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, 2)
            with Path(os.devnull).open("wb") as null:
                os.dup2(null.fileno(), 2)
        yield


def _memory(image: Image.Image, pixels: int) -> int:
    """An upper limit for the bytes that decoding an opened image takes; pixels: how many there are in the file."""
    known, other = (DECODED_BYTES, 8) if _is_reduced(image) else (WHOLE_BYTES, 32)
    memory = known.get(image.mode, other) * image.width * image.height
    if "transparency" in image.info:
        memory = 32 * image.width * image.height
    if image.info.get("progressive"):  # all coefficients are kept, at the full resolution
        memory += 6 * pixels
    return memory + 12 * pixels * (image.format == "WEBP")  # its decoder has copies of its own


def _is_reduced(image: Image.Image) -> bool:
    """Whether a Pillow image is large, and of a mode that can be reduced."""
    return min(image.size) > 4 * WORK_SIZE and image.mode in DECODED_BYTES


def to_gray(image: Image.Image) -> np.ndarray:
    """The pixel values of a Pillow image, uint8 gray (height, width), upright."""
    return np.asarray(_to_8_bit(image).convert("L"))


def _to_8_bit(image: Image.Image) -> Image.Image:
    """A Pillow image in mode L or RGB, upright, without transparency; a large one is reduced, to save memory."""
    if _is_reduced(image):
        exif, levels = image.getexif(), image.convert("L") if image.mode == "1" else image
        image = levels.reduce(min(image.size) // (2 * WORK_SIZE))
        image.info["exif"] = exif.tobytes()
    with contextlib.suppress(Exception):  # ignore damaged EXIF data
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # more than 8 bits
        return Image.fromarray(_array_to_8_bit(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = _flatten_alpha(image.convert("RGBA"))
    return image if image.mode == "L" else image.convert("RGB")


def _array_to_8_bit(array: np.ndarray) -> np.ndarray:
    """Pixel values of any number type as uint8; white is 1, 255 or the next 2^n - 1. In parts, to save memory."""
    gray = np.empty(array.size, np.uint8)
    parts = [slice(start, start + 2**20) for start in range(0, array.size, 2**20)]
    array, shape = array.ravel(), array.shape

    def values(part: slice) -> np.ndarray:
        return np.nan_to_num(array[part].astype(np.float64), posinf=0, neginf=0)

    top = max(values(part).max() for part in parts)
    white = max(255, 2 ** math.ceil(math.log2(max(top, 1) + 1)) - 1)
    if top <= 1 and array.dtype.kind == "f":
        white = 1
    for part in parts:
        gray[part] = np.clip(255 * values(part) / white, 0, 255).astype(np.uint8)
    return gray.reshape(shape)


def _flatten_alpha(image: Image.Image) -> Image.Image:
    """An RGBA image on a white background, or on black if its opaque part is small and light."""
    gray, opaque = np.asarray(image.convert("L")), np.asarray(image.getchannel("A")) > 127
    light = 0 < opaque.mean() < 0.5 and gray[opaque].mean() > 127
    background = Image.new("RGBA", image.size, (0, 0, 0, 255) if light else (255, 255, 255, 255))
    background.alpha_composite(image)
    return background


def is_prepared(gray: np.ndarray) -> bool:
    """Whether an image is in MNIST's form: 28 x 28, bright on black, in a box of 20 x 20, its centre of mass central.

    True for all 70,000 images of MNIST, and if they were saved as JPEG: pixel values up to JPEG_NOISE may be anywhere.
    """
    if gray.shape != (28, 28) or not has_black_border(gray) or gray.max() < MIN_PEAK:
        return False
    if max(gray[bounding_box(gray > JPEG_NOISE)].shape) > 20:
        return False
    return max(abs(position - CENTRE) for position in centre_of_mass(gray)) <= 1.5


def has_black_border(gray: np.ndarray) -> bool:
    """Whether most of the border is black."""
    return bool(np.median(border(gray)) == 0)


def border(array: np.ndarray, width: int = 1) -> np.ndarray:
    """The values along the four edges, 1-D, in no useful order."""
    w = width
    return np.concatenate([a.ravel() for a in (array[:w], array[-w:], array[w:-w, :w], array[w:-w, -w:])])


def bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest rectangle around a mask."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def resize(array: np.ndarray, factor: float) -> np.ndarray:
    """An image scaled by `factor`, float32: weighted means to shrink it, bicubic interpolation to enlarge it."""
    size = [max(1, round(factor * pixels)) for pixels in reversed(array.shape)]
    image = Image.fromarray(array.astype(np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR if factor < 1 else Image.Resampling.BICUBIC))


def enlarge(coarse: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """An image that `resize` made smaller, in its former shape."""
    image = resize(coarse, max(shape) / max(coarse.shape))[: shape[0], : shape[1]]
    missing = [(0, pixels) for pixels in np.subtract(shape, image.shape)]  # rounded down by `resize`
    return np.pad(image, missing, mode="edge")


def inside_frame(gray: np.ndarray) -> tuple[slice, slice]:
    """The part of a photo inside a frame of one colour, as chat programs and screenshots add; all, if there is none.

    It is a frame if what it surrounds has other pixel values, at its edge and further inside, and the middle is not
    uniform. (The margin around a digit, or around a box drawn round it, has the pixel value of the digit's background,
    and a single stroke has a uniform middle.)
    """
    different = np.abs(gray.astype(np.int16) - gray[0, 0]) > 16
    whole = np.s_[0:, 0:]
    if not different.any():
        return whole
    rows, columns = box = bounding_box(different)
    inside, different = gray[box], different[box]
    y, x = (pixels // 8 for pixels in inside.shape)
    middle = np.s_[y : inside.shape[0] - y, x : inside.shape[1] - x]
    edge = max(1, min(inside.shape) // 50)  # where frame and photo mix
    outline = np.mean(border(different)) < 0.95 or np.mean(border(different[middle])) < 0.5  # or a digit
    if outline or np.ptp(inside[middle]) < 32 or min(inside.shape) <= 2:
        return whole
    return slice(rows.start + edge, rows.stop - edge), slice(columns.start + edge, columns.stop - edge)


def flatten_illumination(gray: np.ndarray, several: bool = False) -> np.ndarray:
    """ink = (background - gray) / background, float (height, width), 0 to 1, after inversion if the ink is light.

    The background is the photo after a morphological closing (Serra 1982), which removes all that is narrower than half
    of the photo's longer side, and a box filter. So ink does not depend on the illumination, the paper and the
    polarity. Several digits are small: then it is 0.3 of the shorter side, which removes shadows too, and the polarity
    is that of small details.
    """
    side = min if several else max
    coarse = resize(gray, min(1, ILLUMINATION_SIZE / side(gray.shape)))
    radius = round((0.15 if several else 0.25) * side(coarse.shape))
    if not (has_dark_details(coarse, radius) if several else is_dark_on_light(coarse)):
        gray, coarse = 255 - gray, 255 - coarse
    background = enlarge(_box_filter(closing(coarse, radius), radius // 4), gray.shape)
    return np.clip((background - gray) / np.maximum(background, MIN_BACKGROUND // (2 if several else 1)), 0, 1)


def closing(array: np.ndarray, radius: int) -> np.ndarray:
    """The morphological closing: what is dark, and narrower than a square of 2 * radius + 1 pixels, is removed."""
    extended = np.pad(array, 2 * radius, mode="reflect", reflect_type="odd")  # odd: continues slopes
    return -max_filter(-max_filter(extended, radius), radius)


def _box_filter(array: np.ndarray, radius: int, reflect_type: str = "odd") -> np.ndarray:
    """The mean over a square of 2 * radius + 1 pixels around each pixel. Outside of the array: see `np.pad`."""
    for axis in (0, 1):
        margin = [(radius,) * 2 if i == axis else (0, 0) for i in (0, 1)]
        extended = np.pad(array, margin, mode="reflect", reflect_type=reflect_type)
        array = sliding_window_view(extended, 2 * radius + 1, axis).mean(axis=-1)
    return array


def max_filter(array: np.ndarray, radius: int) -> np.ndarray:
    """The maximum over a square of 2 * radius + 1 pixels around each pixel, without a margin of `radius` pixels.

    The maxima of 2, 4, 8, ... pixels in a column, then the same in a row.
    """
    for _ in range(2):
        length = 1
        while length <= 2 * radius:
            step = min(length, 2 * radius + 1 - length)
            array = np.maximum(array[:-step], array[step:])
            length += step
        array = array.T
    return array


def dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """The mask, and all pixels in squares of 2 * radius + 1 pixels around its own."""
    return max_filter(np.pad(mask, radius), radius)


def has_dark_details(gray: np.ndarray, radius: int) -> bool:
    """The polarity of several digits: whether the dark details outweigh the light ones, as sums of cubes.

    A detail differs from the mean around it, and a closing or an opening removes it, unlike the edge of the paper.
    """
    mean = _box_filter(gray, radius, "even")
    dark, light = np.minimum(mean, closing(gray, radius)) - gray, gray - np.maximum(mean, -closing(-gray, radius))
    return bool((np.maximum(dark, 0) ** 3).sum() >= (np.maximum(light, 0) ** 3).sum())


def is_dark_on_light(gray: np.ndarray) -> bool:
    """The polarity: whether sum (gray - background)^3 <= 0.

    The background is a quadratic surface fitted to the border: a plane would miss that a lamp lights the middle.
    """
    rows, columns = np.indices(gray.shape) / max(gray.shape)
    terms = np.stack([np.ones(gray.shape), rows, columns, rows**2, rows * columns, columns**2])
    width = max(1, min(gray.shape) // 16)
    x, y = np.stack([border(term, width) for term in terms], axis=1), border(gray, width)
    distance = np.abs(y - np.median(y))
    near = distance <= np.percentile(distance, 80)  # without ink that touches the border
    surface = np.linalg.lstsq(x[near], y[near], rcond=None)[0]
    return float(((gray - np.tensordot(surface, terms, 1)) ** 3).sum()) <= 0


def ink_threshold(ink: np.ndarray) -> float:
    """Half of the 90th percentile of the ink above Otsu's threshold. PhotoError if the ink is too faint."""
    otsu = otsu_threshold(ink)
    dark = float(np.percentile(ink[ink > otsu], 90)) if (ink > otsu).any() else 0.0
    if dark < MIN_CONTRAST:
        raise PhotoError("shows no digit: it is blank, or too faint")
    return 0.5 * dark


def otsu_threshold(values: np.ndarray) -> float:
    """The threshold of values from 0 to 1 with the largest variance between the two classes (Otsu 1979)."""
    counts = np.bincount((255.999 * values).astype(np.uint8).ravel(), minlength=256)
    middles = (np.arange(256) + 0.5) / 256
    below, sums = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return (np.nanargmax(variance) + 1) / 256 if np.isfinite(variance).any() else 1.0


def suppress_ruled_lines(ink: np.ndarray, level: float, limit: float) -> float:
    """The threshold, raised until at most MAX_BORDER_STROKES cross the border; unchanged if that needs `limit`."""
    raised = level
    while raised < limit:
        if border_strokes(ink > raised) <= MAX_BORDER_STROKES:
            return raised
        raised *= 1.2
    return level


def border_strokes(mask: np.ndarray) -> int:
    """How many strokes of a mask cross the border of the photo."""
    ring = np.concatenate([mask[0, :-1], mask[:-1, -1], mask[-1, :0:-1], mask[:0:-1, 0]])  # clockwise
    return np.count_nonzero(ring & ~np.roll(ring, 1))


def connected_components(mask: np.ndarray) -> np.ndarray:
    """The number of the component of each pixel, -1 where the mask is False; diagonal neighbours are connected too.

    Union-find in array operations, over the runs of True pixels in the rows: each run points to a run of its component,
    in the end to the first one.
    """
    flat = np.pad(mask, ((0, 0), (1, 1))).ravel()  # so that no run goes on in the next row
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts, ends, below = edges[::2], edges[1::2], mask.shape[1] + 2
    # each run touches the runs `first` to `last - 1`, in the row below it
    first, last = np.searchsorted(ends, starts + below), np.searchsorted(starts, ends + below, "right")
    one, root = np.repeat(np.arange(len(starts)), last - first), np.arange(len(starts))
    other = np.arange(len(one)) + np.repeat(last - np.cumsum(last - first), last - first)
    while (apart := root[one] != root[other]).any():
        a, b = root[one[apart]], root[other[apart]]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (root != root[root]).any():
            root = root[root]
    result = np.full(mask.shape, -1, np.int32)
    result[mask] = np.repeat(np.unique(root, return_inverse=True)[1], ends - starts)
    return result


def main_components(components: np.ndarray) -> np.ndarray:
    """The mask of the digit: without specks and without components along the border, such as ruled lines."""
    coords = np.nonzero(components >= 0)
    numbers = components[coords]
    sizes = np.bincount(numbers)
    keep = sizes >= MIN_COMPONENT_FRACTION * sizes.sum()
    if not keep.any():
        raise PhotoError("shows no digit, only specks")
    at_border = np.zeros(len(sizes) + 1, bool)
    at_border[border(components)] = True  # the last entry, -1, is for pixels of no component
    for positions, pixels in zip(coords, components.shape, strict=True):
        middle = (np.bincount(numbers, positions) / sizes + 0.5) / pixels  # relative, 0 to 1
        line = at_border[:-1] & (np.abs(middle - 0.5) > 0.35)
        if (keep & ~line).any():
            keep &= ~line
    return np.append(keep, False)[components]


def upsampled_mask(ink: np.ndarray, level: float) -> np.ndarray:
    """ink > level at 20 * UPSAMPLING pixels for the longer side, with a margin. PhotoError if it is empty.

    If strokes shrink to less than 1.5 pixels they get fainter too, so the threshold is lowered in proportion.
    """
    factor = 20 * UPSAMPLING / max(ink.shape)
    width = factor * mean_stroke_width(np.pad(ink > level, 1))
    mask = resize(ink, factor) > level * min(1, width / 1.5)
    if not mask.any():
        raise PhotoError("shows no digit: its strokes are too thin")
    return np.pad(mask, 2 * UPSAMPLING)


def normalise_stroke_width(mask: np.ndarray) -> np.ndarray:
    """The mask, dilated or eroded by a disk so that its mean stroke width lies in STROKE_WIDTHS."""
    width = mean_stroke_width(mask) / UPSAMPLING
    radius = UPSAMPLING * (np.clip(width, *STROKE_WIDTHS) - width) / 2
    if abs(radius) < 0.5:
        return mask
    grown = mask if radius > 0 else ~mask  # erosion is dilation of the background
    reach = math.floor(abs(radius) + 0.5)
    padded = np.pad(grown, reach, constant_values=radius < 0)
    disk = np.hypot(*np.indices((2 * reach + 1,) * 2) - reach) <= abs(radius)
    (rows, columns), width = mask.shape, 0
    wider = padded[:, reach : reach + columns]  # dilated by a row of the disk, which is longer each time
    for i in range(reach + 1):
        while width < disk[i].sum() // 2:
            width += 1
            wider = wider | padded[:, reach - width :][:, :columns] | padded[:, reach + width :][:, :columns]
        if disk[i].any():
            grown = grown | wider[i : i + rows] | wider[2 * reach - i :][:rows]
    return grown if radius > 0 or grown.all() else ~grown


def mean_stroke_width(mask: np.ndarray) -> float:
    """2 * area / length of the outline, pixels. The factor pi / 4 corrects the length of the outline's pixel steps."""
    outline = sum((mask[a] != mask[b]).sum() for a, b in NEIGHBOURS)
    return 2 * mask.sum() / max(1, outline * math.pi / 4)


def centre_of_mass(image: np.ndarray) -> list[float]:
    """Row and column, counted from 0."""
    return [float(np.arange(image.shape[i]) @ image.sum(axis=1 - i) / image.sum()) for i in (0, 1)]


def centre(mask: np.ndarray) -> np.ndarray:
    """A mask as a 28 x 28 image in MNIST's form: fitted into 20 x 20 pixels, the centre of mass in the middle."""
    ink = mask[bounding_box(mask)]
    small = np.clip(resize(ink, 20 / max(ink.shape)), 0, 1)
    height, width = small.shape
    top, left = (round(CENTRE - position) for position in centre_of_mass(small))
    top, left = min(max(top, 0), 28 - height), min(max(left, 0), 28 - width)
    image = np.zeros((28, 28), np.uint8)
    image[top : top + height, left : left + width] = np.rint(255 * small)
    return image
