import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from siamkit.config import AugmentConfig
from siamkit.data.views import EvalView, TrainView, view_seed
from siamkit.errors import ConfigError
from siamkit.interfaces import Preprocessing

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
NONE = {
    "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "brightness": 0, "contrast": 0,
    "saturation": 0, "hue": 0, "grayscale": 0,
}  # fmt: skip
EVERYTHING = AugmentConfig(rotate=20, hue=0.1, grayscale=0.3, blur=0.5, horizontal_flip=0.5)
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def test_the_smallest_crop_decides_how_much_of_a_large_jpeg_is_needed() -> None:
    def part(**augment: object) -> float | None:
        return TrainView(Preprocessing(size=(8, 8)), AugmentConfig(**augment)).part

    assert part(crop_scale=(0.25, 1), crop_ratio=(1, 1)) == 0.5
    assert part(crop_scale=(0.25, 1), crop_ratio=(0.25, 1)) == 0.25
    assert part(crop_scale=(0.25, 1), crop_ratio=(1, 4)) == 0.25
    assert part(crop_scale=(0.25, 1), crop_ratio=(2, 2.25)) == pytest.approx(1 / 3)
    assert part(preset="none") is None


def noise(width, height, mode="RGB"):
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if bands == 1 else pixels)


def preprocessing(channels=3, size=32, **options):
    return Preprocessing(
        **{"mean": (0.5,) * channels, "std": (0.25,) * channels, "size": (size, size), **options}
    )


def only(size=8, **augment):
    """Return a view with no other augmentations than these, whose pixels are in [0, 1]."""
    return TrainView(
        Preprocessing(**PLAIN, size=(size, size), crop_pct=1.0), AugmentConfig(**NONE | augment)
    )


# --- seeds ---------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.integers(0, 2**32), st.integers(0, 10**6), st.text())
def test_view_seeds_are_63_bit_and_repeatable(run_seed, view, key):
    seed = view_seed(run_seed, view, key)
    assert 0 <= seed < 2**63
    assert view_seed(run_seed, view, key) == seed


def test_view_seeds_differ_by_each_argument_and_never_change():
    arguments = [
        (0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"),
        (11, 1, "a"), (1, 11, "a"), (0, 0, "1/a"),
    ]  # fmt: skip
    assert len({view_seed(*args) for args in arguments}) == len(arguments)
    assert view_seed(0, 0, "a/b.png") == 4955315096890226853
    assert view_seed(0, 0, "\udcff.png") != view_seed(0, 0, "\udcfe.png")


# --- evaluation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (100, 60), (37, 211), (20, 20), (1, 1), (1000, 3)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_the_evaluation_view_is_resize_and_centre_crop(size, interpolation, crop_pct):
    image = noise(*size)
    pre = Preprocessing(size=(56, 56), interpolation=interpolation, crop_pct=crop_pct)
    reference = v2.Compose([
        v2.Resize(round(56 / crop_pct), v2.InterpolationMode(interpolation)),
        v2.CenterCrop(56), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(pre.mean, pre.std),
    ])  # fmt: skip
    result, expected = EvalView(pre)(image), reference(image)
    # Pillow may pass over rows first for one and columns for the other, with 8 bits in between; a
    # crop that is off by one pixel gives 1.5.
    assert (result - expected).abs().mean() < (0.1 if interpolation == "nearest" else 0.01)


def test_a_thin_image_does_not_explode():
    view = EvalView(preprocessing(size=224))
    assert view(Image.new("RGB", (100_000, 2))).shape == (3, 224, 224)


def test_height_and_width_may_differ():
    pre = Preprocessing(**PLAIN, size=(20, 40), crop_pct=0.5)
    image = Image.new("RGB", (80, 80), "black")
    image.paste("white", (20, 30, 60, 50))  # the centre half of 40 x 20 pixels
    assert EvalView(pre)(image)[:, 1:-1, 1:-1].min() == 1.0


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_are_normalised_per_channel(channels):
    mean, std = (0.1, 0.2, 0.3, 0.4)[:channels], (1.0, 2.0, 3.0, 4.0)[:channels]
    pre = Preprocessing(mean, std, (4, 4))
    image = Image.new(MODES[channels], (9, 9), (255,) * channels if channels > 1 else 255)
    result = EvalView(pre)(image)
    assert result.shape == (channels, 4, 4)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    for c in range(channels):
        torch.testing.assert_close(result[c], torch.full((4, 4), (1 - mean[c]) / std[c]))


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ConfigError, match="unknown interpolation, got 'sharp', allowed: nearest"):
        EvalView(preprocessing(interpolation="sharp"))


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(64, 48), (1, 1), (500, 2)])
def test_views_have_the_right_shape_whatever_the_image(channels, size):
    view = TrainView(preprocessing(channels), EVERYTHING)
    for seed in range(20):
        result = view(noise(*size, MODES[channels]), seed)
        assert result.shape == (channels, 32, 32)
        assert result.dtype == torch.float32
        assert result.isfinite().all()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_view_is_a_function_of_its_seed_alone(channels):
    view, image = TrainView(preprocessing(channels), EVERYTHING), noise(40, 40, MODES[channels])
    seeds = [view_seed(0, i, "key") for i in range(8)]
    views = [view(image, seed) for seed in seeds]
    again = pickle.loads(pickle.dumps(view))
    torch.rand(5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads % 2 + 1)
        assert all(torch.equal(again(image, seeds[i]), views[i]) for i in reversed(range(8)))
    finally:
        torch.set_num_threads(threads)
    assert len({v.numpy().tobytes() for v in views}) == 8


def test_the_callers_random_state_is_untouched():
    view, image = TrainView(preprocessing(), EVERYTHING), noise(40, 40)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    view(image, 7)
    assert torch.equal(torch.rand(3), expected)


def test_views_do_not_change_the_image():
    image = noise(32, 32)
    before = image.tobytes()
    TrainView(preprocessing(), EVERYTHING)(image, 3)
    assert image.tobytes() == before


def test_augmentation_off_is_the_evaluation_view():
    image = noise(50, 40)
    view = TrainView(preprocessing(), AugmentConfig(preset="none"))
    assert torch.equal(view(image, 5), EvalView(preprocessing())(image))


def test_nothing_asked_for_changes_nothing():
    image = noise(8, 8)
    result = only()(image, 0)
    torch.testing.assert_close(result, torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)


def test_flips_happen_as_often_as_asked_for_and_never_by_default():
    image = noise(8, 8)
    straight = only()(image, 0)

    def flips(view):
        results = [view(image, seed) for seed in range(100)]
        assert all(torch.equal(r, straight) or torch.equal(r, straight.flip(2)) for r in results)
        return sum(torch.equal(r, straight.flip(2)) for r in results)

    assert flips(only()) == 0
    assert flips(only(horizontal_flip=1)) == 100
    assert 30 < flips(only(horizontal_flip=0.5)) < 70


def test_crops_stay_within_the_scale_and_ratio():
    gradient = np.tile(np.arange(0, 250, 2.5, dtype=np.float32), (100, 1)).astype(np.uint8)
    image = Image.merge("RGB", [Image.fromarray(g) for g in (gradient, gradient.T, gradient)])
    view = only(size=50, crop_scale=(0.25, 0.5), crop_ratio=(0.5, 2.0))
    areas, ratios = [], []
    for seed in range(100):
        levels = view(image, seed) * 255 / 2.5  # the pixel's column, then row, in the image
        width = float(levels[0, 25, -1] - levels[0, 25, 0]) + 2
        height = float(levels[1, -1, 25] - levels[1, 0, 25]) + 2
        areas.append(width * height / 10_000)
        ratios.append(width / height)
    assert 0.2 < min(areas) < 0.3 and 0.45 < max(areas) < 0.56
    assert 0.45 < min(ratios) < 0.7 and 1.4 < max(ratios) < 2.2


@pytest.mark.parametrize("background", ["white", "black", (10, 200, 30)])
def test_rotated_corners_take_the_background(background):
    image = Image.new("RGB", (41, 41), background)
    image.paste("red", (12, 16, 28, 24))
    results = [only(41, rotate=45)(image, seed) for seed in range(10)]
    colour = torch.tensor(Image.new("RGB", (1, 1), background).getpixel((0, 0))) / 255
    for result in results:
        assert (result[:, [0, 0, -1, -1], [0, -1, 0, -1]] - colour[:, None]).abs().max() < 0.01
    assert len({r.numpy().tobytes() for r in results}) == 10


@pytest.mark.parametrize("background", [(200, 128), (200, 100, 50, 128), (200, 100, 50, 255)])
def test_rotated_corners_take_a_background_that_is_transparent(background):
    channels = len(background)
    view = TrainView(
        Preprocessing((0.0,) * channels, (1.0,) * channels, size=(41, 41), crop_pct=1.0),
        AugmentConfig(**NONE | {"rotate": 45}),
    )
    result = view(Image.new(MODES[channels], (41, 41), background), 0)
    assert (result - torch.tensor(background)[:, None, None] / 255).abs().max() < 0.01


@pytest.mark.parametrize("option", ["brightness", "contrast", "saturation", "hue"])
def test_each_colour_option_changes_colours(option):
    image = Image.new("RGB", (8, 8), (200, 100, 50))
    image.paste((20, 60, 90), (0, 0, 8, 4))
    results = {only(**{option: 0.4})(image, seed).numpy().tobytes() for seed in range(9)}
    assert len(results) > 5


def test_greyscale_makes_the_channels_equal():
    result = only(grayscale=1)(noise(8, 8), 0)
    assert torch.equal(result[0], result[1]) and torch.equal(result[1], result[2])


@pytest.mark.parametrize("option", ["grayscale", "blur"])
@pytest.mark.parametrize("probability", [0.25, 0.75])
def test_a_change_is_made_as_often_as_asked_for(option, probability):
    image = noise(16, 16)
    plain, view = only(16)(image, 0), only(16, **{option: probability})
    changed = sum(not torch.equal(view(image, seed), plain) for seed in range(200))
    assert abs(changed - 200 * probability) < 25


def test_a_blur_is_between_none_and_two_pixels_wide():
    """A point becomes a Gaussian, whose peak tells its width."""
    image = Image.new("RGB", (33, 33))
    image.putpixel((16, 16), (255, 255, 255))
    view = only(33, blur=1)
    peaks = [float(view(image, seed)[0, 16, 16]) for seed in range(60)]
    # Of a sharp point all is left, and of one that is blurred by two pixels 1 / (2 pi 4) = 0.04.
    assert 0.02 < min(peaks) < 0.06 and max(peaks) > 0.9


def test_images_are_rotated_either_way_up_to_the_largest_angle():
    image = Image.new("RGB", (41, 41))
    image.paste("white", (20, 0, 41, 41))
    turned = [only(41, rotate=30)(image, seed)[0] for seed in range(60)]
    # Ten rows above the centre, the edge moves to the left or right by up to 10 tan 30° = 5.8.
    shifts = [10 + int((one[10, 10:32] > 0.5).int().argmax()) - 20 for one in turned]
    assert -7 < min(shifts) < -3 and 3 < max(shifts) < 7


def test_blur_smooths():
    image = noise(32, 32)
    sharp, blurred = only(32)(image, 0), only(32, blur=1)(image, 2)
    assert blurred.std() < 0.8 * sharp.std()
    torch.testing.assert_close(blurred.mean(), sharp.mean(), atol=0.02, rtol=0)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_moved_but_not_coloured(channels):
    image = Image.new(MODES[channels], (16, 16), (128,) * (channels - 1) + (255,))
    pre = Preprocessing((0.0,) * channels, (1.0,) * channels, (16, 16))
    colours = AugmentConfig(brightness=0.5, contrast=0.5)
    results = [TrainView(pre, colours)(image, seed) for seed in range(5)]
    assert all(torch.equal(r[-1], torch.ones(16, 16)) for r in results)
    assert len({r.numpy().tobytes() for r in results}) > 1


def test_grey_images_vary_in_brightness_and_contrast():
    pre = Preprocessing((0.0,), (1.0,), (8, 8))
    view = TrainView(pre, AugmentConfig(**NONE | {"brightness": 0.4, "saturation": 0.4}))
    results = {round(float(view(Image.new("L", (8, 8), 100), s).mean()), 3) for s in range(9)}
    assert len(results) > 5


# --- fit -----------------------------------------------------------------------------------------


def marked(width, height):
    """Return two grey images that only differ in the end at which they have a mark."""
    images = []
    for end in (0, -1):
        pixels = np.full((height, width, 3), 128, np.uint8)
        if width > height:
            pixels[:, end] = (255, 0, 0)
        else:
            pixels[end, :] = (255, 0, 0)
        images.append(Image.fromarray(pixels))
    return images


@pytest.mark.parametrize("size", [(64, 16), (16, 64)])
@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_pad_and_squash_see_what_a_crop_leaves_out(size, fit):
    left, right = marked(*size)
    cropped = EvalView(preprocessing(crop_pct=1.0))
    assert torch.equal(cropped(left), cropped(right))
    whole = EvalView(preprocessing(fit=fit))
    assert not torch.equal(whole(left), whole(right))
    augment = AugmentConfig(crop_scale=(1, 1), crop_ratio=(1, 1), brightness=0, contrast=0,
                            saturation=0, hue=0, grayscale=0)  # fmt: skip
    train = TrainView(preprocessing(fit=fit), augment)
    torch.testing.assert_close(train(left, 3), whole(left), atol=0.05, rtol=0)


def test_squash_stretches_and_pad_keeps_the_aspect_ratio():
    image = Image.new("L", (64, 16), 90)
    image.paste(250, (24, 0, 40, 16))  # a square of a quarter of the width
    found = {
        fit: np.asarray(EvalView(preprocessing(1, fit=fit)).resize(image)) > 170
        for fit in ("pad", "squash")
    }
    height, width = (found["pad"].any(axis=axis).sum() for axis in (1, 0))
    assert height == width == 8
    height, width = (found["squash"].any(axis=axis).sum() for axis in (1, 0))
    assert (height, width) == (32, 8)


@pytest.mark.parametrize("fit", ["pad", "squash"])
@pytest.mark.parametrize("size", [(64, 48), (1, 1), (500, 2), (3, 400)])
def test_every_fit_has_training_views_of_the_right_shape(fit, size):
    view = TrainView(preprocessing(fit=fit), EVERYTHING)
    for seed in range(10):
        result = view(noise(*size, "RGB"), seed)
        assert result.shape == (3, 32, 32) and result.isfinite().all()
        assert torch.equal(result, view(noise(*size, "RGB"), seed))


def test_no_training_view_of_a_padded_image_is_border_alone():
    image = Image.new("L", (400, 8), 40)
    image.paste(255, (1, 1, 399, 7))
    view = TrainView(preprocessing(1, fit="pad"), AugmentConfig(crop_scale=(0.05, 1)))
    assert all(view(image, seed).std() > 0.05 for seed in range(50))


def test_square_images_are_alike_under_every_fit():
    image = noise(40, 40)
    views = [
        EvalView(preprocessing(fit=fit, crop_pct=1.0))(image) for fit in ("crop", "pad", "squash")
    ]
    assert torch.equal(views[0], views[1]) and torch.equal(views[0], views[2])
