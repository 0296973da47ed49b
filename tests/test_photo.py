"""data/photo.py: photos of one digit, under all conditions, give the same 28 x 28 image."""

import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from data import photo, synthetic
from data.photo import PhotoError, connected_components, digit, is_prepared, prepare

SIZE = 280
PREPARED = Path(__file__).parent / "prepared.npz"


@pytest.fixture(scope="module")
def photos():
    """Twelve digits, white on black, large: uint8 (12, SIZE, SIZE)."""
    images, _ = synthetic.render(12, np.random.default_rng(3))
    large = [Image.fromarray(np.pad(image, 6)).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image.point(lambda v: 255 * (v > 100))) for image in large])


@pytest.fixture(scope="module")
def expected(photos):
    """What they give: 28 x 28 images."""
    return [prepare(photo) for photo in photos]


def assert_similar(image, expected, tolerance=0.3):
    """Equal except for a fraction of the ink, and a shift by a pixel: the centre of mass may be rounded differently."""
    assert image.shape == (28, 28) and image.dtype == np.uint8
    shifted = (np.roll(image.astype(float), (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1))
    assert min(np.abs(other - expected).sum() for other in shifted) / expected.sum() < tolerance


def saved(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_the_result_is_in_mnists_form(expected):
    """20 pixels high or wide, white on black, the centre of mass at (14, 14)."""
    for image in expected:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20 and image.max() > 200
        assert max(abs(position - 14) for position in photo.centre_of_mass(image)) <= 0.5 + 1e-9
        assert is_prepared(image)


def test_images_in_that_form_are_unchanged(expected, tmp_path):
    for image in expected:
        path = saved(tmp_path, Image.fromarray(image))
        assert digit(path).tobytes() == image.tobytes()
        assert prepare(image) is image
    assert not is_prepared(255 - expected[0]) and not is_prepared(np.roll(expected[0], 4, axis=1))
    assert not is_prepared(np.zeros((28, 28), np.uint8))


def lamp(size, x=0.0):
    """The square of the distance to the point (x, 0), for coordinates from -1 to 1: it gets darker away from a lamp."""
    line = np.linspace(-1, 1, size)
    return (line - x) ** 2 + line[:, None] ** 2


CONDITIONS = {
    "inverted": lambda a: 255 - a,
    "a 28 x 28 on white": lambda a: 255 - prepare(a),
    "off centre": lambda a: np.roll(np.pad(255 - a, 100, constant_values=255), (-70, 80), (0, 1)),
    "small in a large photo": lambda a: np.pad(255 - a, ((300, 20), (10, 600)), constant_values=255),
    "cropped to the ink": lambda a: 255 - a[photo.bounding_box(a > 0)],
    "faint": lambda a: 200 - a // 8,
    "faint, light on dark": lambda a: 60 + a // 6,
    "noisy": lambda a: np.clip(230 - a * 0.6 + np.random.default_rng(0).normal(0, 8, a.shape), 0, 255),
    "specks": lambda a: np.where(np.random.default_rng(0).random(a.shape) < 0.003, 0, 255 - a),
    "a frame": lambda a: np.pad(170 - a // 2, 30, constant_values=255),
    "a line at the edge": lambda a: np.concatenate([255 - a, np.full((6, SIZE), 30), np.full((5, SIZE), 255)]),
    "grid paper": lambda a: np.minimum(255 - a, np.where((np.indices(a.shape) % 40 < 3).any(axis=0), 175, 255)),
    "dark squares": lambda a: np.minimum(
        255 - a // 4 * 3, np.where((np.indices(a.shape) % 16 < 3).any(axis=0), 150, 255)
    ),
    "light from the left": lambda a: (255 - a * 0.8) * np.linspace(1, 0.3, SIZE),
    "light on dark, lit from above": lambda a: 255 - (255 - a * 0.8) * np.linspace(1, 0.3, SIZE)[:, None],
    "a lamp above the middle": lambda a: (255 - a * 0.3) * (1 - 0.4 * lamp(SIZE)),
    "a lamp beside it": lambda a: (255 - a * 0.3) * (1 - 0.3 * lamp(SIZE, 0.6)),
    "a shadow": lambda a: (255 - a * 0.8) * np.where(np.arange(SIZE) < 120, 1, 0.55),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_same_image_under_all_conditions(photos, expected, name):
    for original, image in zip(photos, expected, strict=True):
        number_type = float if any(word in name for word in ("light", "shadow", "lamp")) else np.uint8
        changed = CONDITIONS[name](original.astype(number_type))
        assert_similar(prepare(np.clip(changed, 0, 255).astype(np.uint8)), image)


@pytest.mark.parametrize("size", [40, 90, 700, 2000])
def test_any_size(photos, expected, size):
    for original, image in zip(photos[:4], expected, strict=False):
        resized = Image.fromarray(255 - original).resize((size, size), Image.Resampling.BICUBIC)
        assert_similar(prepare(np.asarray(resized)), image)


def colour(a, background, ink):
    alpha = a[..., None] / 255
    return Image.fromarray((np.array(background) * (1 - alpha) + np.array(ink) * alpha).astype(np.uint8))


@pytest.mark.parametrize("suffix", photo.SUFFIXES)
def test_every_format(photos, expected, tmp_path, suffix):
    path = saved(tmp_path, colour(photos[0], (240, 230, 120), (30, 60, 160)), f"a{suffix}")
    assert_similar(digit(path), expected[0])


def modes(a):
    """The same photo in every mode in which Pillow opens files."""
    white, rgb = Image.fromarray(255 - a), colour(a, (255, 255, 255), (20, 40, 200))
    clear = Image.new("RGBA", white.size, (0, 40, 200, 0))
    clear.putalpha(Image.fromarray(a))
    light = Image.new("LA", white.size, 255)
    light.putalpha(Image.fromarray(a))
    yield from {"L": white, "RGB": rgb, "RGBA": clear, "LA": light, "1": white.convert("1")}.items()
    yield "P", rgb.quantize(8)
    yield "I;16", Image.fromarray((255 - a).astype(np.uint16) * 257)
    transparent = white.point(lambda v: v > 128).convert("P")
    transparent.putpalette([10, 10, 90, 255, 255, 255])
    transparent.info["transparency"] = 1
    yield "P with a transparent colour", transparent


def test_every_mode(photos, expected, tmp_path):
    for i in range(2):
        for mode, image in modes(photos[i]):
            assert_similar(digit(saved(tmp_path, image, f"{mode.split(';')[0]}.png")), expected[i])
    rgb = colour(photos[0], (255, 255, 255), (20, 40, 200))
    assert_similar(digit(saved(tmp_path, rgb.convert("CMYK"), "cmyk.jpg")), expected[0])


def test_exif_orientation(photos, expected, tmp_path):
    turns = {1: (), 3: (Image.Transpose.ROTATE_180,), 6: (Image.Transpose.ROTATE_90,), 8: (Image.Transpose.ROTATE_270,)}
    for orientation, turn in turns.items():
        image, exif = Image.fromarray(255 - photos[1]), Image.Exif()
        for step in turn:
            image = image.transpose(step)
        exif[0x0112] = orientation
        assert_similar(digit(saved(tmp_path, image, "a.jpg", exif=exif)), expected[1])


def test_strokes_get_the_width_of_mnists(photos, expected):
    for original, image in zip(photos[:6], expected, strict=False):
        thin, thick = (
            np.asarray(Image.fromarray(original).filter(f(9))) for f in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
        )
        for other in thin, thick:
            if other.any():
                width = photo.mean_stroke_width(np.pad(photo.resize(prepare(other), 8) > 127, 8)) / 8
                assert 1.6 < width < 3.8
        assert abs(prepare(thick).mean() / image.mean() - 1) < 0.5


def test_blank_photos_are_refused():
    blank = np.full((200, 300), 240, np.uint8)
    noisy = np.clip(np.random.default_rng(0).normal(240, 3, (300, 300)), 0, 255).astype(np.uint8)
    for image in blank, noisy, np.zeros((28, 28), np.uint8), np.full((1, 1), 7, np.uint8):
        with pytest.raises(PhotoError, match="no digit"):
            prepare(image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3), (3000, 4), (28, 28), (29, 27), (5, 5)])
def test_odd_shapes_give_a_digit_or_an_error(shape):
    for seed in range(5):
        image = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
        try:
            assert prepare(image).shape == (28, 28)
        except PhotoError as error:
            assert "no digit" in str(error)


def test_the_input_is_not_changed(photos):
    before = photos[0].copy()
    prepare(photos[0])
    assert (photos[0] == before).all() and (prepare(photos[0]) == prepare(photos[0])).all()


def slow_components(mask):
    """Flood fill, pixel by pixel."""
    labels, count = np.full(mask.shape, -1), 0
    for start in np.argwhere(mask):
        if labels[tuple(start)] < 0:
            stack = [tuple(start)]
            while stack:
                i, j = stack.pop()
                if 0 <= i < mask.shape[0] and 0 <= j < mask.shape[1] and mask[i, j] and labels[i, j] < 0:
                    labels[i, j] = count
                    stack += [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
            count += 1
    return labels


def test_components_equal_a_flood_fill():
    rng = np.random.default_rng(5)
    for shape in [(1, 1), (1, 9), (7, 1), (13, 17), (40, 40)]:
        for density in 0.0, 0.1, 0.4, 0.6, 1.0:
            mask = rng.random(shape) < density
            assert (connected_components(mask) == slow_components(mask)).all()
    spiral = np.zeros((9, 9), bool)
    spiral[[0, 8], :] = spiral[1:8, 8] = spiral[2:8, 0] = spiral[2, :7] = True
    assert (connected_components(spiral) == slow_components(spiral)).all()


def png_of_size(width, height, bits=1, colour=0):
    """A PNG file that claims this size and has no pixels. Colour type 0 is gray, 2 is RGB, 6 is RGBA."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0),
        b"IDAT": zlib.compress(b""),
        b"IEND": b"",
    }
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_errors_tell_what_is_wrong_with_a_file(tmp_path, photos):
    good = saved(tmp_path, Image.fromarray(photos[0]), "good.png").read_bytes()
    cases = {
        "empty": b"",
        "not a photo": b"hello, this is text",
        "damaged": good[: len(good) // 2],
        "too large$": png_of_size(30000, 30000),
        "too large .11,000 x 10,000": png_of_size(11000, 10000),
    }
    for message, content in cases.items():
        path = tmp_path / "bad.png"
        path.write_bytes(content)
        with pytest.raises(PhotoError, match=message):
            digit(path)
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in ("folder", "is a folder"), ("none", "does not exist"), ("pipe", "not a regular file"):
        with pytest.raises(PhotoError, match=message):
            digit(tmp_path / f"{name}.png")
    eps = tmp_path / "a.eps"  # Pillow runs a program to read this format
    eps.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n")
    with pytest.raises(PhotoError, match="not a photo"):
        digit(eps)


def test_photos_that_need_too_much_memory(tmp_path):
    """A photo of the size of a camera's is decoded (here: found to be damaged), whatever its mode."""
    cases = [
        ("too large .9,999 x 9,999 pixels.$", 9999, 9999, 8, 6),
        ("too large .33,000,000 x 3 pixels.$", 33_000_000, 3, 8, 2),
        ("too large .1,500 x 33,000 pixels.$", 1500, 33_000, 8, 0),
        ("too large .28 x 70,000 pixels.$", 28, 70_000, 8, 0),
        ("too large .7,000 x 7,000 pixels.$", 7000, 7000, 16, 0),
        ("damaged", 4000, 3000, 8, 2),
        ("damaged", 4000, 3000, 8, 6),
        ("damaged", 8000, 6000, 8, 2),
        ("damaged", 4000, 3000, 16, 0),
        ("damaged", 7000, 5000, 1, 0),
        ("damaged", 1200, 7500, 8, 6),
    ]
    for message, *header in cases:
        (tmp_path / "a.png").write_bytes(png_of_size(*header))
        with pytest.raises(PhotoError, match=message):
            digit(tmp_path / "a.png")


def test_the_memory_of_progressive_jpeg_and_of_webp(tmp_path, monkeypatch, photos):
    image = Image.fromarray(255 - photos[0]).resize((600, 600)).convert("RGB")
    monkeypatch.setattr(photo, "MAX_MEMORY", 13 * 600 * 600)
    digit(saved(tmp_path, image, "a.jpg"))
    for name, options in ("b.jpg", {"progressive": True}), ("c.webp", {}):
        with pytest.raises(PhotoError, match="too large"):
            digit(saved(tmp_path, image, name, **options))


def test_large_arrays_of_more_than_8_bits(tmp_path):
    ramp = np.arange(1030 * 1030).reshape(1030, 1030) % 4096
    for array in ramp.astype(np.uint16), ramp.astype(np.int32), (ramp / 4095).astype(np.float32):
        gray = photo.read(saved(tmp_path, Image.fromarray(array), "a.tif"))
        assert np.abs(gray - ramp / 4095 * 255).max() < 1.01
        array[-1, -1] = 2 * array.max()  # white is in the last part: all become darker
        assert photo.read(saved(tmp_path, Image.fromarray(array), "a.tif"))[0].max() <= 128


def test_frames_are_cropped(photos, expected):
    photo_on_gray = 170 - photos[0] // 2
    for value in 0, 255:
        framed = np.pad(photo_on_gray, ((40, 20), (30, 50)), constant_values=value)
        assert (framed[photo.inside_frame(framed)] == photo_on_gray[5:-5, 5:-5]).all()
        assert_similar(prepare(framed), expected[0])
    bar = np.zeros((90, 90), np.uint8)
    bar[10:80, 40:50] = 255  # a digit 1 with a margin
    for image in photos[0], 255 - photos[0], bar, np.zeros((9, 9), np.uint8):
        assert image[photo.inside_frame(image)].shape == image.shape


@pytest.mark.parametrize("side, contrast, inside", [(2, 90, 12), (3, 90, 1), (40, 31, 50), (40, 32, 38)])
def test_what_is_too_small_or_uniform_is_in_no_frame(side, contrast, inside):
    image = np.pad(100 + contrast * (np.indices((side, side)).sum(axis=0) % 2), 5).astype(np.uint8)
    assert image[photo.inside_frame(image)].shape == (inside, inside)


def test_faint_images_are_not_in_mnists_form(expected):
    assert not is_prepared(expected[0] // 2)


def test_a_digit_larger_than_20_x_20_is_not_in_mnists_form(photos, expected, tmp_path):
    """So that it and its inverse give the same."""
    for original, image in zip(photos[:6], expected, strict=False):
        ink = original[photo.bounding_box(original > 0)]
        large = np.clip(np.rint(photo.resize(ink, 24 / max(ink.shape))), 0, 255).astype(np.uint8)
        height, width = large.shape
        top, left = (28 - height) // 2, (28 - width) // 2
        large = np.pad(large, ((top, 28 - height - top), (left, 28 - width - left)))
        assert not is_prepared(large)
        assert_similar(prepare(large), prepare(255 - large), 0.1)
        for quality in 75, 95:
            assert is_prepared(photo.read(saved(tmp_path, Image.fromarray(image), "a.jpg", quality=quality)))


def test_thin_strokes_of_a_large_photo_are_not_broken():
    image = Image.new("L", (1200, 1200), 255)
    ImageDraw.Draw(image).line([(200, 200), (1000, 200), (500, 1100)], 0, 1)
    assert connected_components(prepare(np.asarray(image)) > 60).max() == 0


def test_exif_orientation_of_a_large_photo(photos, expected, tmp_path):
    """JPEG is decoded at a lower resolution, TIFF is reduced."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    image = Image.fromarray(photos[3]).resize((2400, 2400)).rotate(90)
    for name in "large.jpg", "large.tif":
        assert_similar(digit(saved(tmp_path, image, name, exif=exif)), expected[3])


def test_libraries_print_nothing(tmp_path, photos, capfd, monkeypatch):
    """libtiff prints on file descriptor 2, and Pillow logs, what is wrong with a TIFF."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own
    good = saved(tmp_path, Image.fromarray(photos[0]).convert("RGB"), "a.tif", compression="tiff_deflate").read_bytes()
    tag = struct.pack("<HHI", 277, 3, 1)  # samples per pixel
    damages = good.replace(good[20:60], bytes(40)), good.replace(tag + b"\3\0", tag + b"\3\xff")
    for content in damages:
        assert content != good
        (tmp_path / "a.tif").write_bytes(content)
        with pytest.raises(PhotoError):
            digit(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


def prepared_kinds():
    """What `prepare` makes of five synthetic digits, rendered as 16 kinds of photos: uint8 (16, 5, 28, 28)."""
    from tests.bench import photos as bench

    digits, _ = synthetic.render(5, np.random.default_rng(5))
    return np.array([[bench.prepared(kind, image, i) for i, image in enumerate(digits)] for kind in bench.KINDS])


def test_the_steps_as_a_whole_have_not_changed():
    """Against the stored result. After a change on purpose: python -c "from tests.test_photo import *; store()"."""
    with np.load(PREPARED) as file:
        difference = np.abs(file["images"].astype(int) - prepared_kinds())
    assert difference.mean(axis=(2, 3)).max() < 0.5, "grey levels of 255; versions of Pillow may round differently"


def store():
    np.savez_compressed(PREPARED, images=prepared_kinds())


def test_the_border_has_each_pixel_of_the_edge_once():
    array = np.arange(30).reshape(6, 5)
    assert sorted(photo.border(array)) == sorted({*array[0], *array[-1], *array[:, 0], *array[:, -1]})
    assert sorted(photo.border(array, 2)) == sorted(set(array.ravel()) - {12, 17})


def test_strokes_around_a_corner_cross_the_border_once():
    mask = np.zeros((5, 6), bool)
    mask[0, 4:] = mask[:2, 5] = mask[3:, 0] = mask[4, 2] = True
    assert photo.border_strokes(mask) == 3


def test_the_brightest_pixel_of_mnists_form(expected):
    image = np.minimum(expected[0], 200)
    assert is_prepared(image) and not is_prepared(np.minimum(image, 199))


def test_a_wide_jpeg_keeps_its_height(tmp_path):
    """It is decoded at a lower resolution only if both of its sides allow it."""
    for size, shape in ((3300, 1000), (1000, 3300)), ((3400, 1700), (850, 1700)):
        assert photo.read(saved(tmp_path, Image.new("L", size), "a.jpg")).shape == shape


def test_only_what_touches_the_border_is_left_out_as_a_line():
    mask = np.zeros((40, 40), bool)
    mask[12:30, 18:22] = mask[2:4, 12:24] = True  # a digit of two strokes
    assert (photo.main_components(connected_components(mask)) == mask).all()
    line = np.zeros_like(mask)
    line[0, 5:30] = True
    assert (photo.main_components(connected_components(mask | line)) == mask).all()
