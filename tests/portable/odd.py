"""Odd image files: one of each kind that real folders hold."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

RNG = np.random.default_rng(7)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Return smooth colours with noise, ``[H, W, C]`` uint8."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / (5 + c)) + np.cos(y / (7 - c)) for c in range(channels)], -1)
    return (waves * 50 + 128 + RNG.integers(-9, 9, waves.shape)).clip(0, 255).astype(np.uint8)


def odd_images(folder: Path) -> dict[str, Path]:
    """Write the files, and return their paths by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Path] = {}

    def save(image: Image.Image, kind: str, ending: str, **options: object) -> None:
        made[kind] = folder / f"{kind}.{ending}"
        image.save(made[kind], **options)

    colour = Image.fromarray(noise(60, 90))
    grey = Image.fromarray(noise(50, 40, 1)[..., 0])
    deep = np.linspace(0, 65535, 70 * 30).reshape(30, 70).astype(np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = Image.fromarray(noise(33, 44, 4))
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    save(colour, "rgb", "png")
    save(colour, "jpeg", "jpg", quality=60)
    save(colour.convert("CMYK"), "cmyk", "jpg")
    save(colour, "rotated", "jpg", exif=exif)
    save(colour, "wide_gamut", "png", icc_profile=wide)
    save(colour.quantize(16), "palette", "png")
    save(colour.quantize(16), "palette_clear", "png", transparency=3)
    save(alpha, "alpha", "png")
    save(alpha.convert("LA"), "grey_alpha", "png")
    save(grey, "grey", "png")
    save(grey.convert("1"), "one_bit", "png")
    save(Image.fromarray(deep), "sixteen_bit", "png")
    save(Image.fromarray(deep), "sixteen_bit_tiff", "tif")
    save(Image.fromarray(noise(4, 700)), "long", "png")
    save(Image.fromarray(noise(700, 3)), "tall", "png")
    save(Image.fromarray(noise(300, 1)), "thin", "png")
    save(Image.fromarray(noise(1, 1)), "one_pixel", "png")
    frames = [Image.fromarray(noise(40, 40)) for _ in range(3)]
    save(frames[0], "animated", "gif", save_all=True, append_images=frames[1:])
    save(frames[0], "webp", "webp", lossless=True, save_all=True, append_images=frames[1:])
    save(colour.convert("YCbCr"), "ycbcr", "tif")
    save(colour.convert("LAB"), "lab", "tif")
    save(colour, "no_name", "bmp")
    return made
