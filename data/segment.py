"""A photo of several digits -> an image in MNIST's form for each of them, in reading order.

    photo -> ink -> parts: connected ink -> digits: groups of parts -> rows

The light and the threshold of the ink are those of the whole photo; position and stroke width are those of each digit.
"""

import math
from dataclasses import dataclass

import numpy as np

from data import photo

MAX_SIZE = 1000  # pixels: a photo whose longer side is longer is scaled down to this size
LEVELS = np.array([0.5, 1, 1.25, 1.5])  # of the usual threshold: the first at which the border is free of ink
MAX_GAP = 0.5  # strokes: ink that is closer belongs to one part
MAX_PARTS = 200  # only the largest are looked at
MAX_DIGITS = 120  # more are the texture of some surface, and would take more than a second
SPECK = 0.03  # of the area of the largest part; a smaller one is dirt
SMALL = 0.4  # of the typical height; what is not larger in one direction is no digit
LOW = 0.27  # of the typical height; what is lower is no digit, but may be the bar of one
STACKED = 1.5  # of the typical height; parts above each other that are not higher together are one digit
WIDE = 0.8  # of its height; a wider digit may be two that touch


@dataclass
class Digit:
    """One digit of a photo: its image in MNIST's form, its row (from 1) and its place.

    box: left, top, right and bottom as fractions of the photo's width and height. wide: maybe two digits that touch.
    """

    image: np.ndarray
    row: int = 1
    box: tuple[float, ...] = (0.0, 0.0, 1.0, 1.0)
    wide: bool = False


def digits(gray: np.ndarray) -> list[Digit]:
    """The digits in a gray photo, uint8 (height, width), row by row. PhotoError if there is none, or too many.

    If there is only one, its image is that of `photo.prepare`.
    """
    if photo.is_prepared(gray):
        return [Digit(gray)]
    inside = photo.inside_frame(gray)
    size = min(max(photo.WORK_SIZE, *gray[inside].shape), MAX_SIZE)
    ink, level = photo.find_ink(gray[inside], size, several=True)
    level = next((x for x in level * LEVELS if x < ink.max() and photo.border_strokes(ink > x) < 2), level)
    labels, boxes = find_digits(ink > level)
    if len(boxes) > MAX_DIGITS:
        raise photo.PhotoError(f"seems to show {len(boxes)} digits or more: at most {MAX_DIGITS} are read")
    offset, scale = [each.start for each in inside], np.divide(gray[inside].shape, ink.shape)
    result = []
    for row, number in reading_order(boxes):
        top, left, bottom, right = boxes[number]
        crop, own = ink[top:bottom, left:right], labels[top:bottom, left:right] == number
        if len(boxes) == 1:
            image = photo.prepare(gray)
        else:
            image = photo.to_mnist(np.where(own, crop, 0), max(level, np.percentile(crop[own], 90) / 2))
        corners = (offset + scale * boxes[number].reshape(2, 2)) / gray.shape
        box = tuple(corners[:, ::-1].ravel().round(4).tolist())
        result.append(Digit(image, row, box, bool(right - left > WIDE * (bottom - top))))
    return result


def find_digits(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number of the digit of each pixel of the ink, or -1, and (top, left, bottom, right) of each digit.

    Specks and low parts, such as dashes, are no digits; nor is what meets the border, unless there is nothing else.
    """
    reach = round(MAX_GAP * photo.mean_stroke_width(mask) / 2)
    parts = photo.connected_components(photo.max_filter(np.pad(mask, reach), reach))
    numbers, coords = parts[mask], np.array(np.nonzero(mask))
    parts[~mask] = -1
    areas, outlines = np.bincount(numbers), np.zeros(numbers.max() + 1)
    for a, b in photo.NEIGHBOURS[:2]:
        edges = np.maximum(parts[a], parts[b])[mask[a] != mask[b]]
        outlines += np.bincount(edges, minlength=len(areas))
    boxes = np.tile([*mask.shape, 0, 0], (len(areas), 1))
    for axis in (0, 1):
        np.minimum.at(boxes[:, axis], numbers, coords[axis])
        np.maximum.at(boxes[:, 2 + axis], numbers, coords[axis] + 1)
    inner = (boxes[:, :2] > 0).all(axis=1) & (boxes[:, 2:] < mask.shape).all(axis=1)
    chosen = np.flatnonzero(inner) if inner.any() else np.arange(len(areas))
    chosen = chosen[np.argsort(-areas[chosen], kind="stable")][:MAX_PARTS]
    chosen = chosen[areas[chosen] >= SPECK * areas[chosen[0]]]
    strokes = 2 * areas[chosen] / (outlines[chosen] * math.pi / 4 + 1)
    groups = group_parts(boxes[chosen], areas[chosen], strokes)
    boxes = np.array([[*boxes[chosen[g], :2].min(axis=0), *boxes[chosen[g], 2:].max(axis=0)] for g in groups])
    digit_of_part = np.full(len(areas) + 1, -1)
    for number, members in enumerate(groups):
        digit_of_part[chosen[members]] = number
    return digit_of_part[parts], boxes


def group_parts(boxes: np.ndarray, areas: np.ndarray, strokes: np.ndarray) -> list[np.ndarray]:
    """The parts of each digit, as indices: those inside each other, above each other, or low and near."""
    top, left, bottom, right = boxes.T
    height, width = bottom - top, right - left
    by_height = np.argsort(height)
    covered = np.cumsum(areas[by_height])
    typical = height[by_height][np.searchsorted(covered, covered[-1] / 2)]  # half of the ink is not higher
    across, along = _overlap(left, right), _overlap(top, bottom)
    least_height, least_width = np.minimum.outer(height, height), np.minimum.outer(width, width)
    fits = np.maximum.outer(bottom, bottom) - np.minimum.outer(top, top) <= STACKED * typical
    inside = (across > 0.5 * least_width) & (along > 0.5 * least_height)
    stacked = (across > 0.2 * least_width) & (along > -0.25 * typical) & (along < 0.3 * least_height) & fits
    gap = -np.minimum(across, along)
    near = (gap < 0.6 * np.maximum.outer(strokes, strokes)) & (least_height < 0.5 * typical) & fits
    label = np.arange(len(areas))
    for a, b in np.argwhere(inside | stacked | near):
        label[label == label[b]] = label[a]
    groups = [np.flatnonzero(label == number) for number in np.unique(label)]
    sizes = [(np.ptp([top[g].min(), bottom[g].max()]), np.ptp([left[g].min(), right[g].max()])) for g in groups]
    return [g for g, (h, w) in zip(groups, sizes, strict=True) if h >= LOW * typical and max(h, w) >= SMALL * typical]


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
    distance = np.where(beside & (x > x[:, None]), x - x[:, None], np.inf)
    nearest, has = distance.argmin(axis=1), np.isfinite(distance).any(axis=1)
    slope = np.median((y[nearest] - y)[has] / (x[nearest] - x)[has]) if has.any() else 0
    level = y - slope * x
    order = np.argsort(level)
    row = np.empty(len(boxes), int)
    row[order] = 1 + np.cumsum(np.diff(level[order], prepend=level[order[0]]) > 0.6 * np.percentile(height, 75))
    return [(int(row[i]), int(i)) for i in np.lexsort((x, row))]
