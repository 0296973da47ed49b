"""A sheet of paper on a darker table: it is found by its light, and the table is replaced by paper.

    photo -> paper: without strokes -> table: what is dark, and touches the border -> sheet: the rest

The rest is a sheet if it has four corners, something is written on it, and the table beside it is much darker.
"""

import numpy as np

from data import photo

SIZE = 96  # pixels of the shorter side: enough for the outline of a sheet
STROKES = 8  # pixels: a closing with this radius removes what is written on the sheet
MIN_AREA = 0.2  # of the photo
MIN_BORDER = 0.15  # of the border of the photo; less is no table, but strokes that cross it
MIN_OVERLAP = 0.93  # of the sheet and the quadrilateral of its corners: intersection / union
MIN_INK = 0.001  # of the sheet; what has no strokes may be one itself
DARKER = 0.65  # of the paper beside it: a table is darker than this, and a shadow on paper or its soft edge is not
EDGE = 2  # pixels of the sheet that are not used: there, paper and table mix


def cut_out(gray: np.ndarray) -> np.ndarray:
    """A gray photo, float (height, width), with paper instead of the table around the sheet; unchanged without one.

    Each row of the sheet continues with the pixel value of the paper at its ends.
    """
    coarse = photo.resize(gray, min(1, SIZE / min(gray.shape)))
    paper = photo.closing(coarse, STROKES)
    sheet = find(coarse, paper)
    if not sheet.any():
        return gray
    rows, columns = np.flatnonzero(sheet.any(axis=1)), np.arange(sheet.shape[1])
    continued = [np.interp(columns, np.flatnonzero(sheet[row]), paper[row, sheet[row]]) for row in rows]
    nearest = np.interp(np.arange(len(sheet)), rows, np.arange(len(rows))).round().astype(int)
    table = photo.enlarge(np.stack(continued)[nearest], gray.shape)
    return np.where(photo.enlarge(sheet, gray.shape) > 0.5, gray, table)


def find(coarse: np.ndarray, paper: np.ndarray) -> np.ndarray:
    """The mask of the sheet without its edge, in a small gray photo and the same without strokes; empty if none."""
    level = 255 * photo.otsu_threshold(paper / 255)
    dark = photo.connected_components(paper <= level)
    table = np.isin(dark, np.setdiff1d(photo.border(dark), -1))
    parts = photo.connected_components(~table)
    sheet = parts == np.bincount(parts[~table], minlength=1).argmax()
    none = np.zeros_like(sheet)
    if sheet.mean() < MIN_AREA or photo.border(table).mean() < MIN_BORDER:
        return none
    y, x = np.nonzero(sheet)
    corners = [(y - x).argmin(), (y + x).argmin(), (y - x).argmax(), (y + x).argmax()]  # in this order around it
    edges = zip(y[corners], x[corners], y[np.roll(corners, 1)], x[np.roll(corners, 1)], strict=True)
    y, x = np.indices(sheet.shape)
    inner = np.all([(x - x1) * (y2 - y1) <= (y - y1) * (x2 - x1) for y1, x1, y2, x2 in edges], axis=0)
    if (sheet & inner).sum() < MIN_OVERLAP * (sheet | inner).sum():
        return none
    inside = ~photo.dilate(~sheet, EDGE)
    if (coarse <= level)[inside].sum() <= MIN_INK * sheet.sum():
        return none
    at_edge = inside & photo.dilate(~inside, EDGE)
    beside = photo.dilate(sheet, 2 * EDGE) & ~photo.dilate(sheet, EDGE)
    if not beside.any() or np.median(paper[beside]) > DARKER * np.median(paper[at_edge]):
        return none
    return inside
