"""A photo of several digits -> an image in MNIST's form for each of them, in reading order.

    photo -> sheet of paper -> ink -> parts: connected ink -> digits: groups of parts -> rows

The light and the least threshold of the ink are those of the whole photo; position and stroke width are those of each
digit.
"""

import math
from dataclasses import dataclass

import numpy as np

from data import photo, sheet

MAX_PIXELS, MAX_SIDE = 1_000_000, 2500  # a photo that is larger is scaled down
# factors of the threshold of the ink, faint strokes first: the first at which the border `is_clear`
LEVELS = np.array([0.5, 1, 1.25, 1.5])
SHADOW = 0.1  # of the border of the photo; what covers more of it is no stroke that crosses it
HIGHEST = 0.8  # threshold, of the darkest ink; a higher one breaks digits, and lines that are as dark, into pieces
MAX_GAP = 0.5  # stroke widths: ink that is closer belongs to one part
FAINT = 0.5  # of the threshold: fainter ink above it may join the parts of a stroke
BRIDGE = 3  # stroke widths: only parts that are closer are joined so
LINE = 0.25  # stroke widths: thinner lines, such as those of squared paper, join nothing
THIN = 30  # percentile of all stroke widths: the unit of MAX_GAP, so that thin digits beside thick ones stay apart
MAX_PARTS = 200  # only the largest are looked at
MAX_DIGITS = 120  # more are the texture of some surface, and would take more than a second
SPECK = 0.05  # of the longest part: what is shorter is dirt; so is what has less than SPECK / 2 of the largest area
SOFT = 0.1  # of the steepest edge; what has a softer one is a shadow. (Ink has at least a quarter of the contrast.)
DOT = 2.3  # stroke widths; what is not longer is a dot: a disc has 2, a filled 8 has 2.7
FILLED = 0.3  # of its height; a part is the cells of a form if the heights of the parts inside it add up to more
SMALL = 0.6  # of the typical height; what has less in height and width together is no digit
LOW = 0.3  # of the typical height; what is lower than this and LOW_STROKES is no digit, but may be the bar of one
LOW_STROKES = 4  # stroke widths
THICK = 2.5  # stroke widths; what is thicker at the border of the photo is no digit
STACKED = 1.7  # of the typical height; parts above each other that are not higher together are one digit
WIDE, LONG = 0.8, 3  # of its height; a digit that is wider, or whose strokes are longer, may be two that touch
NOTHING, LEFT_OUT = -1, -2  # instead of the number of a digit: no ink, specks and the border; dashes and the like


@dataclass
class Digit:
    """One digit of a photo: its image in MNIST's form, its row (from 1) and its place.

    box: left, top, right and bottom as fractions of the photo's width and height. wide, long: its width, and its
    strokes, compared with its height: maybe two digits that touch. cut: it touches the border of a photo of several
    digits: maybe a part of it is missing.
    """

    image: np.ndarray
    row: int = 1
    box: tuple[float, ...] = (0.0, 0.0, 1.0, 1.0)
    wide: bool = False
    long: bool = False
    cut: bool = False


def digits(gray: np.ndarray) -> list[Digit]:
    """The digits in a gray photo, uint8 (height, width), row by row. PhotoError if there is none, or too many.

    If there is only one, and nothing else such as a dash or a table, its image is that of `photo.prepare`.
    """
    if photo.is_prepared(gray):
        return [Digit(gray)]
    inside = photo.inside_frame(gray)
    short_side, long_side = sorted(gray[inside].shape)
    size = min(max(photo.WORK_SIZE, long_side), MAX_SIDE, round(math.sqrt(MAX_PIXELS * long_side / short_side)))
    small = photo.resize(gray[inside], size / long_side)
    paper = sheet.cut_out(small)
    ink = photo.flatten_illumination(paper, several=True)
    highest = HIGHEST * np.percentile(ink, 99.9)
    level = photo.suppress_ruled_lines(ink, photo.ink_threshold(ink), highest)
    levels = level * LEVELS[level * LEVELS <= max(level, highest)]
    level = next((x for x in levels if is_clear(ink > x)), level)
    labels, boxes = label_digits(ink, level)
    if len(boxes) > MAX_DIGITS:
        raise photo.PhotoError(f"shows {len(boxes)} digits or more; the limit is {MAX_DIGITS}")
    offset, scale = [each.start for each in inside], np.divide(gray[inside].shape, ink.shape)
    cut = ~_inner(boxes, ink.shape) & (len(boxes) > 1)
    result = []
    for row, number in reading_order(boxes):
        top, left, bottom, right = boxes[number]
        crop, own = ink[top:bottom, left:right], labels[top:bottom, left:right] == number
        if len(boxes) == 1 and paper is small and not (labels == LEFT_OUT).any():
            image = photo.prepare(gray)
        else:
            image = photo.to_mnist(np.where(own, crop, 0), max(level, np.percentile(crop[own], 90) / 2))
        corners = (offset + scale * boxes[number].reshape(2, 2)) / gray.shape
        box = tuple(corners[:, ::-1].ravel().round(4).tolist())
        length = own.sum() / photo.mean_stroke_width(np.pad(own, 1))
        wide, long = (bool(size > limit * len(own)) for size, limit in ((right - left, WIDE), (length, LONG)))
        result.append(Digit(image, row, box, wide, long, bool(cut[number])))
    return result


def is_clear(mask: np.ndarray) -> bool:
    """Whether at most one stroke crosses the border of the photo, and no shadow lies along it."""
    return photo.border_strokes(mask) < 2 and photo.border(mask).mean() < SHADOW


def label_digits(ink: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The number of the digit of each pixel, NOTHING or LEFT_OUT; and (top, left, bottom, right) of each digit.

    What touches the border of the photo is no digit, unless it is `like_digits` inside, or there is nothing else.
    PhotoError if there is no digit.
    """
    mask = ink > level
    components = photo.connected_components(mask)
    boxes, areas, strokes, slopes = measure(components, ink)
    lengths = areas / strokes
    steep = slopes >= SOFT * slopes[lengths >= SPECK * min(lengths.max(), *mask.shape)].max()
    mask &= np.append(steep, False)[components]  # without shadows; the last entry is that of -1
    inner = steep & _inner(boxes, mask.shape)
    of_pixels = np.repeat(strokes[inner], areas[inner])
    stroke = np.percentile(of_pixels, THIN) if len(of_pixels) else photo.mean_stroke_width(mask)
    near, bridge, line = (round(widths * stroke / 2) for widths in (MAX_GAP, BRIDGE, LINE))
    faint = mask | (-photo.closing(-ink, line) > FAINT * level)
    joined = photo.dilate(mask, near) | photo.dilate(mask, bridge) & connected_inside(faint, mask)
    parts = np.full(mask.shape, -1)
    parts[mask] = np.unique(photo.connected_components(joined)[mask], return_inverse=True)[1]
    boxes, areas, strokes, _ = measure(parts, ink)
    lengths = areas / strokes
    longest, inner = lengths.max(), _inner(boxes, mask.shape)
    inner |= like_digits(boxes, areas, strokes, inner, mask.shape)
    # the cells of a form, which cross the border, are much longer than any digit
    for chosen, length in (np.flatnonzero(inner), min(longest, *mask.shape)), (np.arange(len(areas)), longest):
        chosen = chosen[np.argsort(-areas[chosen], kind="stable")][:MAX_PARTS]
        cells = surrounds_others(chosen, boxes[chosen], parts)
        chosen, cells = chosen[~cells], chosen[cells]
        large = (lengths[chosen] >= SPECK * length) & (areas[chosen] >= SPECK / 2 * areas[chosen].max(initial=1))
        chosen = chosen[large]
        groups = group_parts(boxes[chosen], areas[chosen], strokes[chosen]) if len(chosen) else []
        if groups:
            break
    else:
        raise photo.PhotoError("shows no digit, only specks")
    number = np.full(len(areas) + 1, NOTHING)  # the last entry is that of -1
    number[[*chosen, *cells]] = LEFT_OUT
    for i, members in enumerate(groups):
        number[chosen[members]] = i
    boxes = [[*boxes[chosen[g], :2].min(axis=0), *boxes[chosen[g], 2:].max(axis=0)] for g in groups]
    return number[parts], np.array(boxes)


def connected_inside(faint: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Of the faint ink, what is connected with the mask, but not with the border, as shadows are.

    With it parts of a stroke can be joined where it is faint: hysteresis (Canny 1986).
    """
    components = photo.connected_components(faint)
    return np.isin(components, np.setdiff1d(components[mask], photo.border(components)))


def measure(parts: np.ndarray, ink: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each part: top, left, bottom and right; area; stroke width as in `photo.mean_stroke_width`; slope of its edge.

    The slope is the mean difference of the ink between neighbours, one of them in the part.
    """
    coords = np.array(np.nonzero(parts >= 0))
    numbers = parts[tuple(coords)]
    areas = np.bincount(numbers)
    outlines, steps, boxes = np.zeros(len(areas)), np.zeros(len(areas)), np.tile([*parts.shape, 0, 0], (len(areas), 1))
    for a, b in photo.NEIGHBOURS:
        at_edge = (parts[a] < 0) != (parts[b] < 0)
        edges = np.maximum(parts[a], parts[b])[at_edge]
        outlines += np.bincount(edges, minlength=len(areas))
        steps += np.bincount(edges, np.abs(ink[a] - ink[b])[at_edge], minlength=len(areas))
    for axis in (0, 1):
        np.minimum.at(boxes[:, axis], numbers, coords[axis])
        np.maximum.at(boxes[:, 2 + axis], numbers, coords[axis] + 1)
    return boxes, areas, 2 * areas / (outlines * math.pi / 4 + 1), steps / np.maximum(outlines, 1)


def _inner(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which boxes do not touch the border."""
    return (boxes[:, :2] > 0).all(axis=1) & (boxes[:, 2:] < shape).all(axis=1)


def like_digits(
    boxes: np.ndarray, areas: np.ndarray, strokes: np.ndarray, inner: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Which parts at the border are as large as the inner ones, and beside them: the photo was cut out tightly.

    Not those from its top to its bottom: they may be lines.
    """
    if not inner.any():
        return inner
    (top, left, bottom, right), rows = boxes.T, shape[0]
    height, width = bottom - top, right - left
    typical, stroke = (np.median(np.repeat(each[inner], areas[inner])) for each in (height, strokes))
    large = inner & (height >= SMALL * typical)
    starts, ends = (np.bincount(each[large], minlength=rows + 1) for each in (top, bottom))
    beside = np.append(0, np.cumsum(np.cumsum(starts - ends) > 0))  # rows of pixels with large inner parts, from above
    fits = (height >= SMALL * typical) & (np.maximum(height, width) <= STACKED * typical) & (strokes <= THICK * stroke)
    return fits & (beside[bottom] - beside[top] >= height / 2) & (height < rows)


def surrounds_others(numbers: np.ndarray, boxes: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Which parts are the cells of a form: the heights of the parts inside it add up to more than FILLED of its height.

    A part is around another one if its box is, and if it has ink on three sides of the other's box (cells may be open),
    but none in it. Specks do not count.
    """
    (top, left, bottom, right), filled = boxes.T, np.zeros(len(boxes))
    height = bottom - top
    around = (top[:, None] < top) & (left[:, None] < left) & (bottom[:, None] > bottom) & (right[:, None] > right)
    for a, b in np.argwhere(around & (height > SPECK * height[:, None])):
        rows, columns = slice(top[b], bottom[b]), slice(left[b], right[b])
        above, below = np.s_[top[a] : top[b], columns], np.s_[bottom[b] : bottom[a], columns]
        before, after = np.s_[rows, left[a] : left[b]], np.s_[rows, right[b] : right[a]]
        inside, *sides = ((parts[x] == numbers[a]).any() for x in (np.s_[rows, columns], above, below, before, after))
        if not inside and sum(sides) >= 3:
            filled[a] += height[b]
    return filled > FILLED * height


def group_parts(boxes: np.ndarray, areas: np.ndarray, strokes: np.ndarray) -> list[np.ndarray]:
    """The parts of each digit, as indices: those inside each other, above each other, or low and near.

    What is small or low, such as a dash, is no digit. If all are dots, there is none.
    """
    top, left, bottom, right = boxes.T
    height, width = bottom - top, right - left
    typical = np.median(np.repeat(height, areas))
    across, along = _overlap(left, right), _overlap(top, bottom)
    least_height, least_width = np.minimum.outer(height, height), np.minimum.outer(width, width)
    fits = np.maximum.outer(bottom, bottom) - np.minimum.outer(top, top) <= STACKED * typical
    inside = (across > 0.5 * least_width) & (along > 0.5 * least_height)
    stacked = (across > 0.2 * least_width) & (along > -0.35 * typical) & (along < 0.5 * least_height) & fits
    gap = -np.minimum(across, along)
    widest = np.minimum(0.6, 1.2 - 2 * least_height / typical)  # gap, in stroke widths; the lower a part, the wider
    near = (gap < widest * np.maximum.outer(strokes, strokes)) & (widest > 0.2) & fits
    to_higher = np.where((inside | stacked | near) & (height[:, None] <= height), gap, np.inf)
    np.fill_diagonal(to_higher, np.inf)
    nearest = np.isfinite(to_higher) & (to_higher == to_higher.min(axis=1, keepdims=True))
    near &= nearest | nearest.T  # a dot between two digits belongs to one of them
    label = np.arange(len(areas))
    for a, b in np.argwhere(np.triu(inside | stacked | near, 1)):
        label[label == label[b]] = label[a]
    groups = [np.flatnonzero(label == number) for number in np.unique(label)]
    digits, dots = [], 0
    for group in groups:
        h, w = bottom[group].max() - top[group].min(), right[group].max() - left[group].min()
        stroke = np.average(strokes[group], weights=areas[group])
        if h >= min(LOW * typical, LOW_STROKES * stroke) and h + w >= SMALL * typical:
            digits.append(group)
            dots += max(h, w) <= DOT * stroke
    return digits if dots < len(digits) else []


def _overlap(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """How far each interval overlaps each other one; negative: the gap between them."""
    return np.minimum.outer(last, last) - np.maximum.outer(first, first)


def reading_order(boxes: np.ndarray) -> list[tuple[int, int]]:
    """(row, index of the box) of all boxes, top, left, bottom, right: the rows from above, each from the left.

    Rows may slope: the slope is the median of that from each box to the nearest one on its right.
    """
    top, left, bottom, right = boxes.T
    y, x, height = (top + bottom) / 2, (left + right) / 2, bottom - top
    beside = _overlap(top, bottom) > 0.3 * np.minimum.outer(height, height)
    distance = x - x[:, None]
    distance = np.where(beside & (distance > 0) & (distance < 4 * height.max()), distance, np.inf)
    nearest, has = distance.argmin(axis=1), np.isfinite(distance).any(axis=1)
    slope = np.median((y[nearest] - y)[has] / (x[nearest] - x)[has]) if has.any() else 0
    level = y - slope * x
    order = np.argsort(level)
    row = np.empty(len(boxes), int)
    row[order] = 1 + np.cumsum(np.diff(level[order], prepend=level[order[0]]) > 0.6 * np.percentile(height, 75))
    return [(int(row[i]), int(i)) for i in np.lexsort((x, row))]
