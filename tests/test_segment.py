"""The digits of a photo: what belongs together, what is none, and in which order they are read."""

import numpy as np
import pytest
from PIL import Image

from data import photo, segment


def canvas(*strokes, shape=(200, 400)):
    """A photo, black on white, with rectangles of ink: (top, left, bottom, right)."""
    gray = np.full(shape, 255, np.uint8)
    for top, left, bottom, right in strokes:
        gray[top:bottom, left:right] = 0
    return gray


ONE, OTHER = (50, 100, 150, 115), (50, 200, 150, 215)  # two digits 1


def boxes(gray):
    """The boxes found, in pixels: (top, left, bottom, right)."""
    sides = np.array([gray.shape[1], gray.shape[0]] * 2)
    return [tuple(np.rint(sides * each.box).astype(int)[[1, 0, 3, 2]].tolist()) for each in segment.digits(gray)]


def assert_near(found, expected):
    assert len(found) == len(expected) and np.abs(np.subtract(found, expected)).max() <= 2, found


def test_a_single_digit_is_that_of_prepare(digits):
    for image in digits[0][0][:25]:
        gray = np.asarray(Image.fromarray(255 - image).resize((280, 280), Image.Resampling.BICUBIC))
        [found] = segment.digits(gray)
        assert (found.image == photo.prepare(gray)).all() and found.row == 1
        [same] = segment.digits(found.image)
        assert same.image is found.image


def test_boxes_are_fractions_of_the_photo_with_its_frame():
    assert_near(boxes(canvas(ONE, OTHER)), [ONE, OTHER])
    assert_near(boxes(255 - canvas(ONE, OTHER)), [ONE, OTHER])
    framed = np.pad(np.clip(canvas(ONE, OTHER), 30, 230), 50)
    assert_near(boxes(framed), [np.add(ONE, 50), np.add(OTHER, 50)])


def test_each_image_is_made_of_its_own_ink_only():
    slash = [(181 - 2 * i, 113 + i, 185 - 2 * i, 128 + i) for i in range(60)]  # below and beside ONE: the boxes overlap
    gray, alone = canvas(ONE, *slash, OTHER), canvas(*slash, OTHER)
    (first, found, _), (expected, _) = segment.digits(gray), segment.digits(alone)
    assert first.box[2] > found.box[0] and np.abs(found.image.astype(int) - expected.image).mean() < 2


@pytest.mark.parametrize(
    "part",
    [
        (30, 95, 45, 140),  # a bar above it
        (170, 95, 215, 140),  # a broken digit: its lower part
        (60, 118, 100, 125),  # low, and nearer than a stroke
        (80, 100, 82, 110),  # inside
    ],
)
def test_parts_of_one_digit(part):
    gray = canvas(ONE, OTHER, shape=(250, 400))
    top, left, bottom, right = part
    gray[top:bottom, left:right] = 255 if part[0] == 80 else 0
    assert len(segment.digits(gray)) == 2


@pytest.mark.parametrize(
    "dirt",
    [
        (20, 300, 24, 304),  # a speck
        (90, 300, 105, 330),  # a dash
        (80, 300, 120, 312),  # a piece of a line
        (0, 300, 50, 330),  # at the border
    ],
)
def test_what_is_no_digit(dirt):
    assert_near(boxes(canvas(ONE, OTHER, dirt)), [ONE, OTHER])


@pytest.mark.parametrize("width, light, noise", [(4, 0, 3), (6, 77, 8)])
def test_digits_in_the_cells_of_a_form(width, light, noise):
    columns = [(0, left, 200, left + width) for left in range(60, 2000, 100)]
    rows = [(top, 0, top + width, 2000) for top in (30, 170)]
    random = np.random.default_rng(0).normal(0, noise, (200, 2000))
    for lines in rows, columns, rows + columns:
        form = np.maximum(canvas(*lines, shape=(200, 2000)), light)
        gray = 40 + 0.6 * np.minimum(canvas(ONE, OTHER, shape=(200, 2000)), form) + random
        assert_near(boxes(np.clip(gray, 0, 255).astype(np.uint8)), [ONE, OTHER])


def box(top, left, bottom, right):
    """The outline of a cell."""
    sides = (top, left, top + 4, right), (bottom - 4, left, bottom, right), (top, left, bottom, left + 4)
    return [*sides, (top, right - 4, bottom, right)]


def test_digits_in_cells_that_do_not_reach_the_border():
    one_cell, two_cells = box(30, 75, 170, 140), box(30, 75, 170, 240)
    assert_near(boxes(canvas(ONE, OTHER, *one_cell)), [ONE, OTHER])
    assert_near(boxes(canvas(ONE, OTHER, *one_cell, *box(30, 175, 170, 240))), [ONE, OTHER])
    assert_near(boxes(canvas(ONE, OTHER, *two_cells, (30, 140, 170, 144))), [ONE, OTHER])
    ones = [(150 * i + 60, 150 * j + 90, 150 * i + 140, 150 * j + 96) for i, j in np.ndindex(5, 8)]
    rows = [(150 * i + 25, 20, 150 * i + 30, 1225) for i in range(6)]
    columns = [(25, 150 * j + 20, 780, 150 * j + 25) for j in range(9)]
    assert_near(boxes(canvas(*ones, *rows, *columns, shape=(805, 1250))), ones)
    (alone,) = segment.digits(canvas(ONE, *one_cell))
    assert np.abs(alone.image.astype(int) - photo.prepare(canvas(ONE))).mean() < 2


def test_cells_may_be_open_above():
    cells = box(30, 75, 170, 140)[1:] + box(30, 175, 170, 240)[1:]  # without their upper sides
    assert_near(boxes(canvas(ONE, OTHER, *cells)), [ONE, OTHER])


def test_a_broken_digit_is_no_cell():
    four = (55, 100, 95, 110), (110, 90, 120, 160), (50, 145, 160, 155)  # its first stroke does not touch the others
    assert_near(boxes(canvas(*four, OTHER)), [(50, 90, 160, 160), OTHER])


def test_dirt_in_a_zero_does_not_make_it_a_cell():
    zero = box(50, 100, 150, 160)
    dust = [(60 + 16 * (i // 2), 115 + 25 * (i % 2), 64 + 16 * (i // 2), 119 + 25 * (i % 2)) for i in range(10)]
    for dirt in [(80, 120, 104, 128)], dust:
        assert_near(boxes(canvas(OTHER, *zero, *dirt)), [(50, 100, 150, 160), OTHER])


def test_digits_at_the_border_if_there_are_no_others():
    assert len(segment.digits(canvas((0, 100, 90, 115), (0, 200, 90, 215)))) == 2


def test_digits_of_a_photo_that_was_cut_out_tightly():
    first, last = [(15, 0, 30, 55), (15, 40, 115, 55)], [(25, 345, 105, 360), (90, 345, 105, 400)]
    others = [(15, 100, 115, 115), (0, 200, 100, 215), (30, 300, 130, 315)]
    gray = canvas(*first, *others, *last, shape=(130, 400))
    assert_near(boxes(gray), [(15, 0, 115, 55), *others, (25, 345, 105, 400)])
    assert [each.cut for each in segment.digits(gray)] == [True, False, True, True, True]
    assert [each.cut for each in segment.digits(canvas(*first, shape=(130, 400)))] == [False]


@pytest.mark.parametrize(
    ("height", "other"),
    [
        (200, [(160, 100, 200, 115)]),  # the next row, cut off
        (240, [(165, 100, 240, 115), (170, 300, 210, 312)]),  # with a piece of a line beside it
        (130, [(0, 300, 130, 310)]),  # a line
        (300, [(0, 300, 200, 310)]),
        (300, [(40, 215, 50, 400), (40, 215, 150, 225)]),  # a corner
        (200, [(20, 340, 125, 395), (60, 340, 80, 400)]),  # a dark thing
        (200, [(50, 385, 100, 400)]),  # a half
    ],
)
def test_other_things_at_the_border(height, other):
    digits = [(15, 100, 115, 115), (15, 150, 115, 165)]
    assert_near(boxes(canvas(*digits, *other, shape=(height, 400))), digits)


def test_digits_on_a_sheet_whose_edge_is_in_the_photo():
    small = [(100, 100, 140, 104), (100, 160, 140, 164)]
    y, x = np.indices((400, 600))
    edge = (y < 3 + x / 40) | (x > 595 - y / 40)
    assert_near(boxes(np.where(edge, 60, canvas(*small, shape=(400, 600))).astype(np.uint8)), small)


def test_digits_on_a_sheet_that_lies_on_a_dark_table():
    digits = [(150, 200, 210, 208), (150, 300, 210, 308)]
    y, x = np.indices((400, 600))
    sheet = (y - x / 40 > 15) & (y - x / 40 < 365) & (x + y / 40 > 25) & (x + y / 40 < 585)
    assert_near(boxes(np.where(sheet, canvas(*digits, shape=(400, 600)), 90).astype(np.uint8)), digits)


@pytest.mark.parametrize("height", [50, 130])
def test_a_soft_shadow_is_no_digit(height):
    small = [(60, 100, 100, 104), (60, 160, 100, 164)]
    y, x = np.indices((400, 600))
    light = 1 - 0.5 * np.exp(-(((y - 250) / height) ** 2) - ((x - 300) / 200) ** 2)
    assert_near(boxes((canvas(*small, shape=(400, 600)) * light).astype(np.uint8)), small)


@pytest.mark.parametrize("pale", [np.s_[160:, 60:210], np.s_[100:104]])
def test_digits_that_touch_a_shadow_at_the_border_or_a_pale_line(pale):
    lower = (65, 100, 165, 115)
    gray = canvas(lower, OTHER)
    gray[pale] = np.minimum(gray[pale], 170)
    assert_near(boxes(gray), [lower, OTHER])


def test_dirt_does_not_replace_a_digit_at_the_border():
    with_dirt = canvas((0, 100, 90, 115), (150, 200, 154, 204))
    assert (segment.digits(with_dirt)[0].image == photo.prepare(with_dirt)).all()


def test_a_dash_beside_a_single_digit_is_not_in_its_image():
    (found,) = segment.digits(canvas(ONE, (90, 200, 105, 230)))
    assert np.abs(found.image.astype(int) - photo.prepare(canvas(ONE))).mean() < 2


def test_thin_digits_beside_thick_ones_stay_apart():
    thick = [(50, left, 150, left + 20) for left in (50, 100)]
    thin = [(50, left, 150, left + 8) for left in (200, 217, 234, 251)]
    assert len(segment.digits(canvas(*thick, *thin))) == 6


def test_a_dot_between_two_digits_belongs_to_the_nearer_one():
    one, dot, other = (50, 100, 150, 121), (130, 132, 150, 144), (50, 156, 150, 177)
    assert_near(boxes(canvas(one, dot, other)), [(50, 100, 150, 144), other])


def test_a_shadow_does_not_join_digits():
    close = canvas(ONE, (50, 127, 150, 142), OTHER)
    close[:, 300:] = 0
    assert len(segment.digits(close)) == 3


@pytest.mark.parametrize("size", [4, 20])
def test_specks_alone_are_no_digits(size):
    corners = [(20 + 30 * i, 20 + 35 * j) for i, j in np.ndindex(5, 10)]
    dust = [(top, left, top + size, left + size) for top, left in corners]
    with pytest.raises(photo.PhotoError, match="only specks"):
        segment.digits(canvas(*dust))


def test_faint_strokes_beside_dark_ones():
    gray = canvas(ONE, OTHER)
    gray[50:150, 300:305] = 180
    assert len(segment.digits(gray)) == 3


def test_wide_and_long_digits_may_be_two():
    frame = [(50, 200, 65, 300), (135, 200, 150, 300), (50, 200, 150, 215), (50, 285, 150, 300), (92, 200, 107, 300)]
    comb = [(50, 200, 150, 208), *((y, 200, y + 8, 265) for y in range(50, 150, 18))]
    for ink, expected in (frame, (True, True)), (frame[:3], (True, False)), (comb, (False, True)):
        found = segment.digits(canvas(ONE, *ink))
        assert [(each.wide, each.long) for each in found] == [(False, False), expected]


def test_the_number_of_each_pixel():
    dash, third = (90, 330, 105, 360), (50, 300, 150, 315)
    mask = canvas(ONE, OTHER, third, dash) == 0
    labels, found = segment.label_digits(mask.astype(np.float32), 0.5)
    assert sorted(map(tuple, found.tolist())) == [ONE, OTHER, third]
    for i, (top, left, bottom, right) in enumerate(found):
        assert (labels[top:bottom, left:right] == i).all()
    assert (labels[90:105, 330:360] == segment.LEFT_OUT).all() and (labels[~mask] == segment.NOTHING).all()
    assert np.count_nonzero(labels >= 0) == 3 * 1500


@pytest.mark.parametrize(
    "right, bar, ink, count",
    [
        (140, (95, 100, 105, 155), 0.4, 1),
        (140, (95, 100, 105, 155), 0.2, 2),  # too faint
        (140, (99, 100, 101, 155), 0.4, 2),  # too thin
        (200, (95, 100, 105, 215), 0.4, 2),  # too long
        (140, (95, 0, 105, 400), 0.4, 2),  # touches the border
    ],
)
def test_faint_ink_joins_the_parts_of_a_stroke(right, bar, ink, count):
    gray = np.zeros((200, 400), np.float32)
    gray[bar[0] : bar[2], bar[1] : bar[3]] = ink
    gray[50:150, 100:115] = gray[50:150, right : right + 15] = 1
    assert len(segment.label_digits(gray, 0.5)[1]) == count


def test_faint_ink_that_leads_away_from_a_stroke_and_back():
    gray = np.zeros((200, 400), np.float32)
    gray[50:150, 100:115] = gray[50:150, 200:215] = 1
    gray[95:105, 115:180] = gray[30:105, 170:180] = gray[30:40, 100:180] = 0.4
    assert len(segment.label_digits(gray, 0.5)[1]) == 2


@pytest.mark.parametrize(
    "shape, size",
    [((150, 200), 400), ((600, 300), 600), ((1600, 2500), 1250), ((100, 4000), 2500)],
)
def test_large_photos_are_scaled_down(shape, size, monkeypatch):
    sizes, flatten = [], photo.flatten_illumination

    def spy(gray, several=False):
        sizes.append(max(gray.shape))
        return flatten(gray, several)

    monkeypatch.setattr(photo, "flatten_illumination", spy)
    segment.digits(canvas(ONE, shape=shape))
    assert sizes[0] == size


def test_at_most_120_digits():
    rows = [(20 + 60 * i, 10 + 30 * j, 60 + 60 * i, 18 + 30 * j) for i, j in np.ndindex(8, 15)]
    assert len(segment.digits(canvas(*rows, shape=(560, 500)))) == 120
    with pytest.raises(photo.PhotoError, match="121 digits or more; the limit is 120"):
        segment.digits(canvas(*rows, (500, 10, 540, 18), shape=(560, 500)))


@pytest.mark.parametrize("slope", [-0.17, 0, 0.17])
def test_rows_may_slope(slope):
    """Four rows of six boxes of different heights."""
    rng, expected = np.random.default_rng(0), []
    for row, column in np.ndindex(4, 6):
        y, x = 100 * row + slope * 100 * column + rng.uniform(-8, 8), 100 * column + rng.uniform(-8, 8)
        height = rng.uniform(40, 75)
        expected.append((row + 1, [y - height / 2, x - 15, y + height / 2, x + 15]))
    order = rng.permutation(24)
    found = segment.reading_order(np.array([expected[i][1] for i in order]))
    assert [(row, int(order[i])) for row, i in found] == [(row, i) for i, (row, _) in enumerate(expected)]


def test_one_digit_below_another_is_a_row_of_its_own():
    assert segment.reading_order(np.array([[100, 0, 150, 30], [0, 0, 50, 30]])) == [(1, 1), (2, 0)]


def test_a_pattern_is_not_read_as_digits():
    marks = [(20 + 40 * i, 20 + 25 * j, 45 + 40 * i, 26 + 25 * j) for i, j in np.ndindex(11, 14)]
    with pytest.raises(photo.PhotoError, match="154 digits"):
        segment.digits(canvas(*marks, shape=(480, 400)))
    assert len(segment.digits(canvas(*marks[:112], shape=(480, 400)))) == 112


def test_a_blank_photo_has_no_digits():
    with pytest.raises(photo.PhotoError, match="blank"):
        segment.digits(np.full((100, 200), 200, np.uint8))
