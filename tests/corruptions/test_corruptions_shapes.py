"""Profiles, sizes, greyscale, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from corruption_fixtures import picture

from edgesafe import corruptions
from edgesafe.corruptions import blur, tables
from edgesafe.corruptions.tables import Profile
from edgesafe.errors import DataError
from edgesafe.recipe.sections import CORRUPTIONS


def test_names():
    assert corruptions.NAMES == CORRUPTIONS
    assert len(corruptions.NAMES) == 15
    assert corruptions.EXTRAS == ("speckle_noise", "gaussian_blur", "spatter", "saturate")


@pytest.mark.parametrize(
    ("height", "width", "profile"),
    [
        (8, 8, "cifar"),
        (32, 32, "cifar"),
        (48, 200, "cifar"),
        (49, 49, "tiny"),
        (112, 500, "tiny"),
        (113, 113, "imagenet"),
    ],
)
def test_profile_goes_by_the_shorter_side(height, width, profile):
    assert corruptions.profile_for(height, width) == profile
    assert corruptions.profile_for(width, height) == profile


SIZES = [(8, 8, 3), (8, 11, 1), (17, 31, 3), (28, 28, 1), (64, 48, 3), (60, 61, 1), (130, 120, 3)]


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", corruptions.ALL)
def test_any_size_and_greyscale(shape, name):
    images = picture(3, *shape)
    for severity in (1, 5):
        out = corruptions.corrupt(images, np.arange(3), name, severity)
        assert out.shape == images.shape
        assert out.dtype == np.uint8
    grey_saturate = name == "saturate" and shape[2] == 1
    tiny_blur = name in tables.not_meaningful(*shape[:2]) or (name == "gaussian_blur" and min(shape[:2]) < 16)
    assert grey_saturate or tiny_blur or (out != images).mean() > 0.01


@pytest.mark.parametrize("name", ["contrast", "brightness", "pixelate", "zoom_blur", "gaussian_blur", "fog", "snow"])
def test_greyscale_is_a_grey_rgb_image(name):
    """Where a corruption treats channels alike, one channel must give what three equal ones give."""
    grey = picture(4, 32, 32, 1)
    rgb = np.repeat(grey, 3, axis=3)
    ours = corruptions.corrupt(grey, np.arange(4), name, 3)
    three = corruptions.corrupt(rgb, np.arange(4), name, 3)
    assert np.abs(ours.astype(int) - three).max() <= 1
    assert (ours != three).mean() < 0.01


def test_pixel_parameters_scale_and_intensities_do_not():
    assert tables.scale_of(Profile.CIFAR, 32, 32) == 1.0
    assert tables.scale_of(Profile.TINY, 96, 200) == 1.5
    assert tables.elastic_parameters(Profile.CIFAR, 5, 0.5)[0] == pytest.approx(0.5 * 3.2)
    assert tables.motion_parameters(Profile.IMAGENET, 5, 0.5) == (10.0, 7.5)
    assert tables.glass_parameters(Profile.IMAGENET, 5, 0.5).delta == 2
    assert tables.glass_parameters(Profile.CIFAR, 1, 0.5).sigma == 0.05
    for name in ("gaussian_noise", "shot_noise", "contrast", "jpeg_compression"):
        assert tables.value(name, Profile.CIFAR, 3, 0.5) == tables.value(name, Profile.CIFAR, 3)


@pytest.mark.parametrize("side", [16, 20, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96, 112])
def test_defocus_grows_with_severity_at_every_size(side):
    """Radii scaled to another size must not fall between pixel centres and vanish (28 px: MNIST)."""
    profile, widths = corruptions.profile_for(side, side), []
    scale = tables.scale_of(profile, side, side)
    for severity in range(1, 6):
        radius, sigma = tables.defocus_parameters(profile, severity)
        anchor = blur.defocus_kernel(radius, sigma)
        kernel = anchor if scale == 1 else blur.scaled_kernel(radius, sigma, scale)
        assert kernel.sum() == pytest.approx(1)
        widths.append(blur.spread(kernel))
        least = min(0.09, blur.spread(anchor))
        assert widths[-1] == pytest.approx(max(least, blur.spread(anchor) * scale**2), rel=0.05)
    assert (np.diff(widths) > -1e-6).all()


def test_small_sizes_are_said_to_mean_little():
    assert tables.not_meaningful(16, 200) == ()
    assert set(tables.not_meaningful(15, 15)) == {n for n in corruptions.NAMES if n.endswith("blur")}


def test_every_severity_of_every_profile_is_in_the_tables():
    for profile in Profile:
        for severity in range(1, 6):
            images = picture(1, 32, 32)
            for name in corruptions.ALL:
                out = corruptions.corrupt(images, np.array([0]), name, severity, profile=profile)
                assert out.shape == images.shape


def test_profile_can_be_chosen_and_matters(images):
    where = np.arange(24)
    mild = corruptions.corrupt(images, where, "contrast", 5)
    strong = corruptions.corrupt(images, where, "contrast", 5, profile="imagenet")
    assert strong.std() < mild.std()


GOOD = picture(2, 32, 32)
WHERE = np.arange(2)


@pytest.mark.parametrize(
    ("images", "where", "name", "severity", "options", "says"),
    [
        (GOOD.astype(np.float32), WHERE, "fog", 1, {}, "float32"),
        (GOOD[0], WHERE, "fog", 1, {}, "(32, 32, 3)"),
        (GOOD.tolist(), WHERE, "fog", 1, {}, "list"),
        (GOOD[:, :7, :7], WHERE, "fog", 1, {}, "7x7"),
        (GOOD[:, :7], WHERE, "fog", 1, {}, "7x32"),
        (GOOD[..., :2], WHERE, "fog", 1, {}, "2 channels"),
        (GOOD, WHERE, "frog", 1, {}, "frog"),
        (GOOD, WHERE, "fog", 0, {}, "severity 0"),
        (GOOD, WHERE, "fog", 6, {}, "severity 6"),
        (GOOD, WHERE, "fog", 2.5, {}, "severity 2.5"),
        (GOOD, WHERE, "fog", True, {}, "severity True"),
        (GOOD, np.arange(3), "fog", 1, {}, "3 indices for 2"),
        (GOOD, np.array([0.0, 1.0]), "fog", 1, {}, "float64"),
        (GOOD, np.array([0, -1]), "fog", 1, {}, "-1"),
        (GOOD, WHERE[None], "fog", 1, {}, "(1, 2)"),
        (GOOD, WHERE, "fog", 1, {"seed": -1}, "seed -1"),
        (GOOD, WHERE, "fog", 1, {"seed": 2**63}, "seed"),
        (GOOD, WHERE, "fog", 1, {"profile": "mnist"}, "mnist"),
    ],
)
def test_malformed_input_is_refused(images, where, name, severity, options, says):
    with pytest.raises(DataError) as error:
        corruptions.corrupt(images, where, name, severity, **options)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_fields_must_fit():
    spec = corruptions.FieldSpec((32, 32, 3))
    fields = corruptions.draw("fog", 2, WHERE, spec)
    for images, name, severity in ((GOOD, "fog", 3), (GOOD, "snow", 2), (GOOD[:1], "fog", 2), (GOOD[:, :16], "fog", 2)):
        with pytest.raises(DataError):
            corruptions.apply(images, name, severity, fields)


def test_nothing_gives_nothing():
    empty = np.zeros((0, 32, 32, 3), np.uint8)
    none = np.zeros(0, np.int64)
    for name in corruptions.ALL:
        assert corruptions.corrupt(empty, none, name, 1).shape == (0, 32, 32, 3)


def test_strided_views_are_fine(images):
    view = images[::2, :, ::-1]
    plain = np.ascontiguousarray(view)
    for name in corruptions.NAMES:
        where = np.arange(len(view))
        assert np.array_equal(corruptions.corrupt(view, where, name, 3), corruptions.corrupt(plain, where, name, 3))


def test_docstring_example():
    import doctest

    from edgesafe.corruptions import engine

    assert doctest.testmod(engine).attempted > 0
    assert doctest.testmod(engine).failed == 0


def test_no_torch(tmp_path):
    """The package works where torch cannot be imported."""
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['scipy'] = None; import numpy as np;"
        "from edgesafe import corruptions as c; x = np.full((2, 32, 32, 3), 90, np.uint8);"
        "[c.corrupt(x, np.arange(2), n, 3) for n in c.ALL]; print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.strip() == "fine", done.stderr
