"""The sections of the configuration that say where images are and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from siamkit.config.base import SAMPLE, AbsolutePath, Section, absolute


class AugmentConfig(Section):
    """Random changes to training images. A view is one deterministic draw of them."""

    enabled: bool = Field(True, description="False trains on the evaluation view alone.")
    crop_scale: tuple[float, float] = Field(
        (0.5, 1.0), description="Area of the random crop, as a share of the image."
    )
    crop_ratio: tuple[float, float] = Field((0.8, 1.25), description="Aspect ratio of the crop.")
    rotate: float = Field(0.0, ge=0, le=180, description="Largest rotation in degrees.")
    brightness: float = Field(
        0.4, ge=0, le=1, description="Brightness is multiplied by 1 - x to 1 + x."
    )
    contrast: float = Field(
        0.4, ge=0, le=1, description="Contrast is multiplied by 1 - x to 1 + x."
    )
    saturation: float = Field(
        0.4, ge=0, le=1, description="Saturation is multiplied by 1 - x to 1 + x."
    )
    hue: float = Field(
        0.1, ge=0, le=0.5, description="Hue is shifted by up to x turns of the colour wheel."
    )
    grayscale: float = Field(0.2, ge=0, le=1, description="Probability of dropping the colours.")
    blur: float = Field(0.0, ge=0, le=1, description="Probability of a Gaussian blur.")
    horizontal_flip: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Probability of a flip. Off: text, signatures and organs have a handedness.",
    )

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _range(cls, value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        low, high = value
        share = info.field_name == "crop_scale"
        if not 0 < low <= high or (share and high > 1):
            raise ValueError("must be [low, high] with 0 < low <= high" + " <= 1" * share)
        return value


class DataConfig(Section):
    """Where the images are and how they are prepared."""

    path: str = Field(
        SAMPLE,
        min_length=1,
        description="A folder of class folders; a table of images, pairs or triplets (.csv, .tsv, "
        ".parquet); LFW's pairs.txt; or 'sample'.",
    )
    root: AbsolutePath | None = Field(
        None, description="Folder that a table's paths are relative to; null for its own."
    )
    image_size: int | None = Field(
        None, ge=16, le=2048, description="Pixels a side; null for the backbone's own."
    )
    in_chans: int = Field(3, ge=1, le=4, description="Image channels: 1 grey, 3 RGB, 4 RGBA.")
    val_fraction: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the classes (or groups) held out, where DATA has no split for it.",
    )
    folds: int | None = Field(
        None,
        ge=2,
        description="Hold out one of so many equal parts of the classes (or groups) instead.",
    )
    fold: int = Field(0, ge=0, description="Which of the folds is held out, from 0.")
    on_unreadable: Literal["error", "skip", "quarantine"] = Field(
        "error",
        description="What becomes of images that cannot be read: error ends the run before it "
        "starts; skip decodes all first and leaves those out; quarantine also lists them in "
        "quarantine.csv of the run. Files are never touched.",
    )
    max_skipped: float = Field(
        0.05, ge=0, lt=1, description="The largest share of images to leave out as unreadable."
    )
    strict: bool = Field(
        False, description="An image on both sides of a split ends the run before it starts."
    )
    views: int | None = Field(
        None,
        ge=1,
        description="Different views an image, which take turns by epoch; null for 8 where a part "
        "of the network is frozen, and for a new one every epoch where none is.",
    )
    workers: int | None = Field(
        None, ge=0, description="Worker processes that decode; null picks by the cores."
    )
    augment: AugmentConfig = AugmentConfig()

    @field_validator("fold")
    @classmethod
    def _below_folds(cls, value: int, info: ValidationInfo) -> int:
        folds = info.data.get("folds")
        if folds is None and value:
            raise ValueError("needs data.folds")
        if folds is not None and value >= folds:
            raise ValueError(f"must be less than data.folds ({folds})")
        return value

    @field_validator("path")
    @classmethod
    def _path(cls, path: str) -> str:
        return path if path == SAMPLE else str(absolute(Path(path)))
