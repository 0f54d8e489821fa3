"""The sections of the configuration about the images: their source and their preparation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from siamkit.config.augment import AugmentConfig
from siamkit.config.base import SAMPLE, AbsolutePath, Section, absolute
from siamkit.portable.preprocessing import MAX_PIXELS, PILLOWS_LIMIT

Bits = Annotated[int, Field(ge=9, le=16)]


class DataConfig(Section):
    """The images: their source, their splits and their preparation."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    path: str = Field(
        SAMPLE,
        min_length=1,
        description="A folder of class folders; a table of images, pairs or triplets (.csv, .tsv, "
        ".parquet); LFW's pairs.txt; or 'sample', the built-in images.",
    )
    root: AbsolutePath | None = Field(
        None, description="Folder that a table's paths are relative to; null: the table's folder."
    )
    path_column: str | None = Field(
        None,
        min_length=1,
        description="The table's column that holds the images' paths; null: 'path'.",
    )
    label_column: str | None = Field(
        None,
        min_length=1,
        description="The table's column that holds the images' classes; null: 'label'.",
    )
    image_size: int | None = Field(
        None,
        ge=16,
        le=2048,
        description="Height and width of the input in pixels; null: the backbone's own size.",
    )
    fit: Literal["auto", "crop", "pad", "squash"] = Field(
        "auto",
        description="How an image that is not square becomes square. crop: only its centre is "
        "used. pad: the whole image, with a border. squash: the whole image, with another aspect "
        "ratio. auto: as the backbone was pretrained; but squash instead of crop if more than 5 % "
        "of the training images are longer than 5:3.",
    )
    range: Literal["auto", "full"] | Bits | tuple[float, float] = Field(
        "auto",
        description="Pixel values that become black and white, for images of more than 8 bits per "
        "channel. full: 0 and 65535. A number of bits, such as 12: 0 and 4095. [low, high]: these "
        "two; values outside are clipped. auto: as many bits as the largest value needs.",
    )
    max_pixels: int = Field(
        MAX_PIXELS,
        ge=1,
        le=PILLOWS_LIMIT,
        description="Largest number of pixels of an image file, width times height. Larger images "
        "count as unreadable: their size is read from the header, and they are never decoded.",
    )
    in_chans: int = Field(3, ge=1, le=4, description="Channels per image: 1 grey, 3 RGB, 4 RGBA.")
    val_fraction: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the classes (or groups) to hold out, if the data has no validation "
        "split.",
    )
    folds: int | None = Field(
        None,
        ge=2,
        description="Divide the classes (or groups) into this number of folds and hold out one "
        "of them, instead of val_fraction.",
    )
    fold: int = Field(0, ge=0, description="Number of the held-out fold, from 0.")
    on_unreadable: Literal["error", "skip", "quarantine"] = Field(
        "error",
        description="Handling of unreadable images. error: refuse the run. skip: decode all "
        "images first and leave out the unreadable ones. quarantine: like skip, and list them in "
        "the run's quarantine.csv. Files are never changed.",
    )
    max_skipped: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="Largest share of unreadable images to leave out; more is an error.",
    )
    strict: bool = Field(
        False, description="Refuse the run if an image or a group is in two splits."
    )
    views: int | None = Field(
        None,
        ge=1,
        description="Number of augmented versions (views) per image; each epoch uses the next one. "
        "null: 8 while a part of the network is frozen, so that the part's output can be cached; "
        "else a new view every epoch.",
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="Number of processes that decode images; null: depends on the number of cores "
        "and images.",
    )
    augment: AugmentConfig = AugmentConfig()

    @property
    def value_range(self) -> int | tuple[float, float] | None:
        """``range`` as a number of bits or (low, high); None for ``auto`` and ``full``."""
        return None if isinstance(self.range, str) else self.range

    @property
    def columns(self) -> dict[str, str]:
        """The header names given for a table's columns ``path`` and ``label``."""
        given = {"path": self.path_column, "label": self.label_column}
        return {ours: theirs for ours, theirs in given.items() if theirs is not None}

    @field_validator("fold")
    @classmethod
    def _below_folds(cls, value: int, info: ValidationInfo) -> int:
        folds = info.data.get("folds")
        if folds is None and value:
            raise ValueError("has an effect only with data.folds, which is not set")
        if folds is not None and value >= folds:
            raise ValueError(f"must be less than data.folds ({folds})")
        return value

    @field_validator("range")
    @classmethod
    def _ascending(cls, value: Any) -> Any:
        if isinstance(value, tuple) and not value[0] < value[1]:
            raise ValueError("must be [low, high] with low < high")
        return value

    @field_validator("path")
    @classmethod
    def _path(cls, path: str) -> str:
        return path if path == SAMPLE else str(absolute(Path(path)))
