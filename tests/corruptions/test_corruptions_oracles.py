"""Each deterministic part against an independent way of working it out: scipy, Pillow, colorsys, or a plain loop."""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
import pytest
from corruption_fixtures import picture
from PIL import Image
from scipy import ndimage

from edgesafe import corruptions
from edgesafe.corruptions import (
    blur,
    elastic,
    jpeg,
    motion,
    tables,
    weather,
    zoom,
)
from edgesafe.corruptions.tables import Profile

SHAPES = [(32, 32, 3), (64, 64, 3), (28, 28, 1), (40, 56, 3)]


def run(images, name, severity, **options):
    return corruptions.corrupt(images, np.arange(len(images)), name, severity, **options)


def fields_of(images, name, severity):
    shape = tuple(images.shape[1:])
    return corruptions.draw(name, severity, np.arange(len(images)), corruptions.FieldSpec(shape))


def close(ours, exact, share=0.01):
    """Bytes against exact float levels: truncation of either side of the rounding noise, rarely different."""
    wrong = (ours != np.floor(np.clip(exact, 0, 255))) & (np.abs(ours - exact) > 5e-3)
    assert np.abs(ours - np.floor(np.clip(exact, 0, 255))).max() <= 1
    assert wrong.mean() <= share


@pytest.mark.parametrize("sigma", [0.25, 0.4, 1.0, 2.3])
def test_gaussian_is_scipys(sigma):
    a = picture(2, 20, 31).astype(np.float64) / 255
    exact = np.stack([ndimage.gaussian_filter(i, (sigma, sigma, 0), mode="nearest") for i in a])
    assert np.abs(blur.gaussian(a, sigma) - exact).max() < 2e-15  # the weights' last bits are NumPy's affair


@pytest.mark.parametrize("shape", [*SHAPES, (224, 224, 3), (120, 150, 1)])
@pytest.mark.parametrize("severity", [1, 3, 5])
def test_defocus_is_a_correlation(shape, severity):
    images, profile = picture(2, *shape), corruptions.profile_for(*shape[:2])
    scale = tables.scale_of(profile, *shape[:2])
    radius, sigma = tables.defocus_parameters(profile, severity)
    kernel = blur.defocus_kernel(radius, sigma) if scale == 1 else blur.scaled_kernel(radius, sigma, scale)
    exact = ndimage.correlate(images.astype(float), kernel[None, :, :, None], mode="mirror")
    close(run(images, "defocus_blur", severity), exact)


@pytest.mark.parametrize("profile", list(Profile))
@pytest.mark.parametrize("severity", range(1, 6))
def test_defocus_kernel_is_opencvs(profile, severity):
    """Also where the blur folds back at the rim of the grid, and the weights no longer sum to 1 (radius 8: 1.013)."""
    cv2 = pytest.importorskip("cv2")
    radius, sigma = tables.defocus_parameters(profile, severity)
    line = np.arange(-8, 9) if radius <= 8 else np.arange(-radius, radius + 1)
    disk = (line[:, None] ** 2 + line[None] ** 2 <= radius**2).astype(np.float32)
    size = (3, 3) if radius <= 8 else (5, 5)
    theirs = cv2.GaussianBlur(disk / disk.sum(), ksize=size, sigmaX=sigma)
    ours = blur.defocus_kernel(radius, sigma)
    rim = (len(theirs) - len(ours)) // 2
    assert np.abs(np.pad(ours, rim) - theirs).max() < 1e-6
    assert abs(ours.sum() - 1) < (0.014 if radius >= 8 else 1e-6)


def naive_glass(image, p, offsets):
    x, (high, wide) = image.copy(), image.shape[:2]
    for i in range(p.iterations):
        for row in range(high - p.delta, p.delta, -1):
            for column in range(wide - p.delta, p.delta, -1):
                dx, dy = offsets[i, row - p.delta - 1, column - p.delta - 1]
                x[row, column] = x[row + dy, column + dx]
    return x


@pytest.mark.parametrize(
    ("shape", "profile", "severity"),
    [((32, 32, 3), "cifar", 5), ((64, 64, 3), "tiny", 4), ((40, 56, 1), "tiny", 5), ((48, 48, 3), "imagenet", 5)],
)
def test_glass_is_the_loop_over_pixels(monkeypatch, shape, profile, severity):
    """Also with offsets that point forward, where order matters. Blurs are left out: they are tested above."""
    monkeypatch.setattr(blur, "_blur8", lambda x, _: x)
    images = picture(3, *shape)
    spec = corruptions.FieldSpec(shape, profile=profile)
    fields = corruptions.draw("glass_blur", severity, np.arange(3), spec)
    p = tables.glass_parameters(Profile(profile), severity, fields.setting.scale)
    if profile == "imagenet":
        p = tables.Glass(p.sigma, 4, 2)
        monkeypatch.setattr(blur, "glass_parameters", lambda *_: p)
        fields = corruptions.draw("glass_blur", severity, np.arange(3), spec)
    ours = corruptions.apply(images, "glass_blur", severity, fields)
    assert fields["offsets"].min() == -p.delta
    assert fields["offsets"].max() == p.delta - 1
    expected = np.stack([naive_glass(i, p, o) for i, o in zip(images, fields["offsets"], strict=True)])
    assert np.array_equal(ours, expected)
    assert not np.array_equal(ours, images)


@pytest.mark.parametrize("radius, sigma", [(6, 1.0), (9, 2.5), (14, 12.0)])
def test_motion_is_a_sum_along_a_line(radius, sigma):
    images = picture(5, 24, 37)
    degrees = np.array([-45.0, -12.3, 0.0, 44.9, -135.0])
    width = 2 * math.ceil(radius) + 1
    weights = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    ours = motion.line_blur(images, degrees, radius, sigma)
    for image, angle, result in zip(images, np.deg2rad(degrees), ours, strict=True):
        exact = np.zeros(image.shape)
        for i, w in enumerate(weights):
            dy, dx = math.ceil(i * math.sin(angle) - 0.5), math.ceil(i * math.cos(angle) - 0.5)
            rows, columns = np.clip(np.arange(24) + dy, 0, 23), np.clip(np.arange(37) + dx, 0, 36)
            exact += w * image[rows][:, columns]
        close(result, exact, share=0.02)


def clipped_zoom(a, factor):
    """Crop the middle, enlarge with scipy, trim; per axis, so that it also takes oblong images."""
    high, wide = a.shape
    crop = [math.ceil(s / factor) for s in (high, wide)]
    top, left = (high - crop[0]) // 2, (wide - crop[1]) // 2
    large = ndimage.zoom(a[top : top + crop[0], left : left + crop[1]], factor, order=1)
    y, x = (large.shape[0] - high) // 2, (large.shape[1] - wide) // 2
    return large[y : y + high, x : x + wide]


@pytest.mark.parametrize("shape", [*SHAPES, (96, 120, 3), (224, 224, 1)])
@pytest.mark.parametrize("severity", [1, 5])
def test_zoom_is_the_mean_of_scipys_zooms(shape, severity):
    images, profile = picture(1, *shape), corruptions.profile_for(*shape[:2])
    factors = tables.zoom_factors(profile, severity)
    planes = images[0].astype(float).transpose(2, 0, 1)
    mean = [(p + sum(clipped_zoom(p, f) for f in factors)) / (len(factors) + 1) for p in planes]
    close(run(images, "zoom_blur", severity)[0], np.stack(mean, -1), share=0.02)


def test_number_of_zooms():
    assert [len(tables.zoom_factors(Profile.CIFAR, s)) for s in range(1, 6)] == [7, 12, 16, 21, 26]


def test_zoom_weights_are_whole_and_sum_to_one():
    for _, _, weights in zoom._operator(Profile.CIFAR, 5, 32, 32):
        assert np.array_equal(weights, np.rint(weights))
        assert (weights.sum(0, dtype=np.float64) == 65536).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_elastic_displacements_are_scipys_smoothing(shape):
    push = np.random.default_rng(0).uniform(-1, 1, (2, 2, *shape[:2]))
    ours = elastic._displacements(push, 3.0, 1.9)
    exact = 3.0 * ndimage.gaussian_filter(push, (0, 0, 1.9, 1.9), mode="reflect", truncate=3.0)
    assert np.abs(ours - exact).max() < 1e-3


@pytest.mark.parametrize(("mode", "scipys"), [("reflect", "mirror"), ("symmetric", "reflect")])
def test_bilinear_is_scipys(mode, scipys):
    rng = np.random.default_rng(1)
    planes = picture(2, 20, 26).transpose(3, 0, 1, 2).astype(np.float32)
    x = (np.arange(26) + rng.uniform(-4, 4, (2, 20, 26))).astype(np.float32)
    y = (np.arange(20)[:, None] + rng.uniform(-4, 4, (2, 20, 26))).astype(np.float32)
    ours = elastic._bilinear(planes, x, y, mode)
    for c in range(3):
        for i in range(2):
            exact = ndimage.map_coordinates(planes[c, i].astype(float), [y[i], x[i]], order=1, mode=scipys)
            assert np.abs(ours[c, i] - exact).max() < 2e-3


def test_elastic_without_chance_is_the_identity(images):
    fields = fields_of(images, "elastic_transform", 3)
    still = {name: np.zeros_like(a) for name, a in fields.arrays.items()}
    ours = corruptions.apply(images, "elastic_transform", 3, corruptions.Fields(fields.setting, fields.n, still))
    assert np.array_equal(ours, images)


def naive_plasma(wobble, side, decay):
    """Diamond-square, point by point."""
    area, draws = np.zeros((side, side)), iter(wobble)
    step, size = side, 100.0
    while step >= 2:
        half, k = step // 2, side // step

        def shaken(four, size=size):
            return sum(four) / 4 + size * (2 * size * next(draws) - size)

        for r in range(k):
            for c in range(k):
                y, x, y2, x2 = r * step, c * step, (r + 1) * step % side, (c + 1) * step % side
                area[y + half, x + half] = shaken([area[y, x], area[y2, x], area[y, x2], area[y2, x2]])
        for r in range(k):
            for c in range(k):
                y, x = r * step, c * step
                above, right = (y - half) % side, (x + step) % side
                area[y, x + half] = shaken(
                    [area[y + half, x + half], area[above, x + half], area[y, x], area[y, right]]
                )
        for r in range(k):
            for c in range(k):
                y, x = r * step, c * step
                left, below = (x - half) % side, (y + step) % side
                area[y + half, x] = shaken([area[y + half, x + half], area[y + half, left], area[y, x], area[below, x]])
        step, size = half, size / decay
    area -= area.min()
    return area / area.max()


def test_plasma_is_diamond_square():
    wobble = np.random.default_rng(2).random((1023, 2))
    ours = weather.plasma(wobble, 32, 2.5)
    for i in range(2):
        assert np.abs(ours[..., i] - naive_plasma(wobble[:, i], 32, 2.5)).max() < 1e-12


@pytest.mark.parametrize("severity", range(1, 6))
def test_fog_formula(images, severity):
    c, decay = tables.pair("fog", Profile.CIFAR, severity)
    maps = weather.plasma(fields_of(images, "fog", severity)["wobble"], 32, decay).transpose(2, 0, 1)[..., None]
    x = images / 255.0
    top = x.max((1, 2, 3), keepdims=True)
    close(run(images, "fog", severity), (x + c * maps) * top / (top + c) * 255)


def test_black_images_stay_finite():
    black = np.zeros((2, 32, 32, 3), np.uint8)
    assert not run(black, "fog", 5).any()
    assert (run(black, "brightness", 5) == int(0.3 * 255)).all()
    for name in corruptions.ALL:
        assert run(black, name, 5).shape == black.shape


@pytest.mark.parametrize("severity", range(1, 6))
def test_brightness_and_saturate_are_hsv(severity):
    images = np.random.default_rng(3).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    images[0, 0, :8] = np.arange(8)[:, None] * 30  # greys
    c = tables.value("brightness", Profile.CIFAR, severity)
    a, b = tables.pair("saturate", Profile.CIFAR, severity)
    bright, saturated = np.empty(images.shape), np.empty(images.shape)
    for place in np.ndindex(16, 16):
        h, s, v = colorsys.rgb_to_hsv(*(images[0][place] / 255.0))
        bright[0][place] = np.array(colorsys.hsv_to_rgb(h, s, min(v + c, 1))) * 255
        saturated[0][place] = np.array(colorsys.hsv_to_rgb(h, min(max(s * a + b, 0), 1), v)) * 255
    close(run(images, "brightness", severity), bright)
    close(run(images, "saturate", severity), saturated)


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("shape", SHAPES)
def test_contrast_formula(shape, severity):
    images = picture(3, *shape)
    c = tables.value("contrast", corruptions.profile_for(*shape[:2]), severity)
    mean = images.mean((1, 2), keepdims=True)
    close(run(images, "contrast", severity), (images - mean) * c + mean)


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("shape", [*SHAPES, (224, 224, 3), (33, 47, 3)])
def test_pixelate_is_pillows_box(shape, severity):
    images = picture(2, *shape)
    c = tables.value("pixelate", corruptions.profile_for(*shape[:2]), severity)
    for image, ours in zip(images, run(images, "pixelate", severity), strict=True):
        high, wide = shape[:2]
        small = Image.fromarray(image.squeeze()).resize((int(wide * c), int(high * c)), Image.Resampling.BOX)
        exact = np.asarray(small.resize((wide, high), Image.Resampling.BOX)).reshape(shape)
        assert np.array_equal(ours, exact)


def pillow_jpeg(image, quality):
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(image.shape)


@pytest.mark.parametrize("severity", range(1, 6))
@pytest.mark.parametrize("shape", [*SHAPES, (32, 48, 3), (30, 31, 3)])
def test_jpeg_is_pillow_image_by_image(shape, severity):
    images = np.concatenate([picture(9, *shape), np.random.default_rng(0).integers(0, 256, (9, *shape), np.uint8)])
    quality = int(tables.value("jpeg_compression", corruptions.profile_for(*shape[:2]), severity))
    expected = np.stack([pillow_jpeg(i, quality) for i in images])
    assert np.array_equal(run(images, "jpeg_compression", severity), expected)


def test_jpeg_strip_that_disagrees_is_not_used(monkeypatch, images):
    """A codec that computes seams differently is found out by the first two images, and the strip is dropped."""
    quality = 80
    good = run(images, "jpeg_compression", 1)
    monkeypatch.setattr(jpeg, "_rgb", lambda y, *_: np.stack([y, y, y], -1).astype(np.uint8))
    assert not np.array_equal(jpeg.code_strip(images, quality), good)
    assert np.array_equal(run(images, "jpeg_compression", 1), good)


@pytest.mark.parametrize("severity", range(1, 6))
def test_frost_formula(images, severity):
    a, b = (v / 100 for v in tables.frost_parameters(Profile.CIFAR, severity))
    ice = fields_of(images, "frost", severity)["ice"].astype(float)
    close(run(images, "frost", severity), a * images + b * ice)


@pytest.mark.parametrize("severity", range(1, 6))
def test_snow_formula(images, severity):
    p = tables.snow_parameters(Profile.CIFAR, severity, 1.0)
    fields = fields_of(images, "snow", severity)
    layers = []
    for flakes, degrees in zip(fields["flakes"], fields["degrees"], strict=True):
        layer = clipped_zoom(flakes.astype(float), p.zoom)
        layer[layer < p.threshold] = 0
        layer = (np.clip(layer, 0, 1) * 255).astype(np.uint8)
        layers.append(motion.line_blur(layer[None, ..., None], np.array([degrees]), p.radius, p.sigma)[0])
    layer = np.stack(layers).astype(float)
    grey = (images @ np.array([0.299, 0.587, 0.114]))[..., None]
    exact = p.mix * images + (1 - p.mix) * np.maximum(images, grey * 1.5 + 127.5) + layer + layer[:, ::-1, ::-1]
    ours = run(images, "snow", severity)
    assert np.abs(ours - np.floor(np.clip(exact, 0, 255))).max() <= 2
    assert (ours != np.floor(np.clip(exact, 0, 255))).mean() < 0.01
