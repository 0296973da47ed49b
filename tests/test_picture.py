"""From anybody's picture to 28 x 28: whatever the picture is like, the same digit comes out."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from data import picture, synthetic
from data.picture import PictureError, components, digit, is_prepared, prepare

SIZE = 280


@pytest.fixture(scope="module")
def drawn():
    """Twelve digits as white ink on black, large: uint8 (12, SIZE, SIZE)."""
    images, _ = synthetic.draw(12, np.random.default_rng(3))
    large = [Image.fromarray(np.pad(image, 6)).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for image in images]
    return np.stack([np.asarray(image.point(lambda v: 255 * (v > 100))) for image in large])


@pytest.fixture(scope="module")
def forms(drawn):
    """The same as 28 x 28."""
    return [prepare(image) for image in drawn]


def same(image, form, tolerance=0.3):
    """The two agree but for a little ink (a share of all of it) and one pixel's shift: half of one may be rounded."""
    assert image.shape == (28, 28) and image.dtype == np.uint8
    shifted = (np.roll(image.astype(float), (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1))
    assert min(np.abs(other - form).sum() for other in shifted) / form.sum() < tolerance


def saved(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_the_form_of_mnist(forms):
    """20 pixels high or wide, white on black, the centre of mass at (14, 14), strokes as thick as MNIST's."""
    for form in forms:
        rows, columns = np.flatnonzero(form.any(axis=1)), np.flatnonzero(form.any(axis=0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == 20 and form.max() > 200
        assert max(abs(place - 14) for place in picture.centre_of_mass(form)) <= 0.5 + 1e-9
        assert is_prepared(form)


def test_what_is_in_that_form_passes_unchanged(forms, tmp_path):
    for form in forms:
        path = saved(tmp_path, Image.fromarray(form))
        assert digit(path).tobytes() == form.tobytes()
        assert prepare(form) is form
    assert not is_prepared(255 - forms[0]) and not is_prepared(np.roll(forms[0], 4, axis=1))
    assert not is_prepared(np.zeros((28, 28), np.uint8))


VARIANTS = {
    "inverted": lambda a: 255 - a,
    "a 28 x 28 on white": lambda a: 255 - prepare(a),
    "off the centre": lambda a: np.roll(np.pad(255 - a, 100, constant_values=255), (-70, 80), (0, 1)),
    "small in a large picture": lambda a: np.pad(255 - a, ((300, 20), (10, 600)), constant_values=255),
    "cropped to the ink": lambda a: 255 - a[picture.bounding_box(a > 0)],
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
    "a shadow": lambda a: (255 - a * 0.8) * np.where(np.arange(SIZE) < 120, 1, 0.55),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_digit_comes_out(drawn, forms, name):
    for image, form in zip(drawn, forms, strict=True):
        variant = VARIANTS[name](image.astype(float) if "light" in name or "shadow" in name else image)
        same(prepare(np.clip(variant, 0, 255).astype(np.uint8)), form)


@pytest.mark.parametrize("size", [40, 90, 700, 2000])
def test_any_size(drawn, forms, size):
    for image, form in zip(drawn[:4], forms, strict=False):
        large = Image.fromarray(255 - image).resize((size, size), Image.Resampling.BICUBIC)
        same(prepare(np.asarray(large)), form)


def colour(a, paper, ink):
    share = a[..., None] / 255
    return Image.fromarray((np.array(paper) * (1 - share) + np.array(ink) * share).astype(np.uint8))


@pytest.mark.parametrize("suffix", picture.SUFFIXES)
def test_every_format(drawn, forms, tmp_path, suffix):
    path = saved(tmp_path, colour(drawn[0], (240, 230, 120), (30, 60, 160)), f"a{suffix}")
    same(digit(path), forms[0])


def modes(a):
    """The same picture in every mode that Pillow opens files in."""
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


def test_every_mode(drawn, forms, tmp_path):
    for i in range(2):
        for mode, image in modes(drawn[i]):
            same(digit(saved(tmp_path, image, f"{mode.split(';')[0]}.png")), forms[i])
    rgb = colour(drawn[0], (255, 255, 255), (20, 40, 200))
    same(digit(saved(tmp_path, rgb.convert("CMYK"), "cmyk.jpg")), forms[0])


def test_the_camera_s_orientation_counts(drawn, forms, tmp_path):
    turns = {1: (), 3: (Image.Transpose.ROTATE_180,), 6: (Image.Transpose.ROTATE_90,), 8: (Image.Transpose.ROTATE_270,)}
    for orientation, turn in turns.items():
        image, exif = Image.fromarray(255 - drawn[1]), Image.Exif()
        for step in turn:
            image = image.transpose(step)
        exif[0x0112] = orientation
        same(digit(saved(tmp_path, image, "a.jpg", exif=exif)), forms[1])


def test_strokes_get_the_thickness_of_mnist(drawn, forms):
    for image, form in zip(drawn[:6], forms, strict=False):
        thin, thick = (
            np.asarray(Image.fromarray(image).filter(f(9))) for f in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
        )
        for other in thin, thick:
            if other.any():
                width = picture.mean_width(np.pad(picture.resize(prepare(other), 8) > 127, 8)) / 8
                assert 1.6 < width < 3.8
        assert abs(prepare(thick).mean() / form.mean() - 1) < 0.5


def test_blank_pictures_are_refused():
    blank = np.full((200, 300), 240, np.uint8)
    noisy = np.clip(np.random.default_rng(0).normal(240, 3, (300, 300)), 0, 255).astype(np.uint8)
    for image in blank, noisy, np.zeros((28, 28), np.uint8), np.full((1, 1), 7, np.uint8):
        with pytest.raises(PictureError, match="no digit"):
            prepare(image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3), (3000, 4), (28, 28), (29, 27), (5, 5)])
def test_odd_shapes_give_a_digit_or_a_clear_refusal(shape):
    for seed in range(5):
        image = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
        try:
            assert prepare(image).shape == (28, 28)
        except PictureError as error:
            assert "no digit" in str(error)


def test_the_input_is_left_alone(drawn):
    before = drawn[0].copy()
    prepare(drawn[0])
    assert (drawn[0] == before).all() and (prepare(drawn[0]) == prepare(drawn[0])).all()


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
        for share in 0.1, 0.4, 0.6, 1.0:
            mask = rng.random(shape) < share
            assert (components(mask) == slow_components(mask)).all()
    spiral = np.zeros((9, 9), bool)
    spiral[[0, 8], :] = spiral[1:8, 8] = spiral[2:8, 0] = spiral[2, :7] = True
    assert (components(spiral) == slow_components(spiral)).all()


def test_broken_files_are_named_for_what_they_are(tmp_path, drawn):
    good = io.BytesIO()
    Image.fromarray(drawn[0]).save(good, "PNG")
    bomb = io.BytesIO()
    Image.new("1", (30000, 30000)).save(bomb, "PNG")
    cases = {
        "empty": b"",
        "not a picture": b"hello, this is text",
        "damaged": good.getvalue()[: len(good.getvalue()) // 2],
        "too large": bomb.getvalue(),
    }
    for message, content in cases.items():
        path = tmp_path / f"{message}.png"
        path.write_bytes(content)
        with pytest.raises(PictureError, match=message):
            digit(path)
    (tmp_path / "folder.png").mkdir()
    for path, message in (tmp_path / "folder.png", "folder"), (tmp_path / "none.png", "does not exist"):
        with pytest.raises(PictureError, match=message):
            digit(path)
    eps = tmp_path / "a.eps"  # a format that runs a program to be read
    eps.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EOF\n")
    with pytest.raises(PictureError, match="not a picture"):
        digit(eps)


def test_orientation_of_a_photo_from_a_telephone(drawn, forms, tmp_path):
    """Which is so large that it is not read in full."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    photo = Image.fromarray(drawn[3]).resize((2400, 2400)).rotate(90)
    same(digit(saved(tmp_path, photo, "photo.jpg", exif=exif)), forms[3])
