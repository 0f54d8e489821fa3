"""Augmentation: the random changes to training images, and presets for kinds of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from siamkit.config.base import Section

PresetName = Literal["objects", "faces", "documents", "marks", "medical", "none"]
"""The name of a preset."""

_DEFAULT: PresetName = "objects"


@dataclass(frozen=True)
class AugmentPreset:
    """Strengths of the random changes that suit a kind of images.

    Attributes:
        suits: The images that the preset is for.
        assumes: What the preset takes for granted about the colour, the left and right side, the
            scale and the rotation of the images.
        strengths: The fields of :class:`AugmentConfig` that differ from ``none``, where nothing
            changes.
    """

    suits: str
    assumes: str
    strengths: Mapping[str, Any]


_NONE: Mapping[str, Any] = MappingProxyType(
    {
        "crop_scale": (1.0, 1.0),
        "crop_ratio": (1.0, 1.0),
        "rotate": 0.0,
        "brightness": 0.0,
        "contrast": 0.0,
        "saturation": 0.0,
        "hue": 0.0,
        "grayscale": 0.0,
        "blur": 0.0,
        "horizontal_flip": 0.0,
    }
)

PRESETS: Mapping[PresetName, AugmentPreset] = MappingProxyType(
    {
        "objects": AugmentPreset(
            "photographs of things",
            "Colour depends on the light and the camera. Half of the thing is enough to recognise "
            "it. It stands upright, and its mirror image may be another thing.",
            {
                "crop_scale": (0.5, 1.0), "crop_ratio": (0.8, 1.25), "brightness": 0.4,
                "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "grayscale": 0.2,
            },
        ),
        "faces": AugmentPreset(
            "photographs of faces, already cropped",
            "Light and camera change the colours, but skin keeps its hue. The face fills the "
            "image and leans by up to 10°. A mirror image is the same person.",
            {
                "crop_scale": (0.75, 1.0), "crop_ratio": (0.9, 1.11), "rotate": 10.0,
                "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.02,
                "grayscale": 0.1, "blur": 0.1, "horizontal_flip": 0.5,
            },
        ),
        "documents": AugmentPreset(
            "pages, handwriting, signatures",
            "Ink, paper and scanner change the colours. Text is never mirrored. Little may be cut "
            "off, because what is cut off can be what differs. Scans are askew by up to 3°.",
            {
                "crop_scale": (0.9, 1.0), "crop_ratio": (0.95, 1.05), "rotate": 3.0,
                "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.05,
                "grayscale": 0.2, "blur": 0.2,
            },
        ),
        "marks": AugmentPreset(
            "logos, signs, symbols, drawings, sprites",
            "Colour carries meaning: a red heart is not a green heart. A mirror image is another "
            "mark. The whole mark is in the image, upright.",
            {
                "crop_scale": (0.8, 1.0), "crop_ratio": (0.9, 1.11), "brightness": 0.1,
                "contrast": 0.1, "saturation": 0.1,
            },
        ),
        "medical": AugmentPreset(
            "scans, X-rays, microscopy",
            "Grey values and stains carry meaning, up to the exposure. Left and right differ, as "
            "organs do. The scale is nearly fixed. The patient lies askew by up to 10°.",
            {
                "crop_scale": (0.85, 1.0), "crop_ratio": (0.95, 1.05), "rotate": 10.0,
                "brightness": 0.1, "contrast": 0.15,
            },
        ),
        "none": AugmentPreset(
            "images that must not change, and cached features of one view",
            "Nothing. Training images are prepared as for evaluation.",
            {},
        ),
    }
)  # fmt: skip


def _preset(name: Any) -> AugmentPreset | None:
    return next((preset for known, preset in PRESETS.items() if known == name), None)


def _default(name: str) -> Any:
    return {**_NONE, **PRESETS[_DEFAULT].strengths}[name]


class AugmentConfig(Section):
    """Random changes to training images. One draw of these changes gives a view of an image.

    ``augment: marks`` sets ``preset``. The preset sets the other keys that are not given.
    """

    preset: PresetName = Field(
        _DEFAULT,
        description="The kind of images: objects, faces, documents, marks or medical, which set "
        "the other keys. none: train on images without random changes, prepared as for evaluation.",
    )
    crop_scale: tuple[float, float] = Field(
        _default("crop_scale"),
        description="Area of the random crop as a share of the image: [low, high].",
    )
    crop_ratio: tuple[float, float] = Field(
        _default("crop_ratio"), description="Aspect ratio of the crop: [low, high]."
    )
    rotate: float = Field(
        _default("rotate"), ge=0, le=180, description="Largest rotation in degrees."
    )
    brightness: float = Field(
        _default("brightness"),
        ge=0,
        le=1,
        description="A value x multiplies the brightness by a random factor in [1 - x, 1 + x].",
    )
    contrast: float = Field(
        _default("contrast"),
        ge=0,
        le=1,
        description="A value x multiplies the contrast by a random factor in [1 - x, 1 + x].",
    )
    saturation: float = Field(
        _default("saturation"),
        ge=0,
        le=1,
        description="A value x multiplies the saturation by a random factor in [1 - x, 1 + x].",
    )
    hue: float = Field(
        _default("hue"),
        ge=0,
        le=0.5,
        description="A value x shifts the hue by up to x turns of the colour wheel, either way.",
    )
    grayscale: float = Field(
        _default("grayscale"), ge=0, le=1, description="Probability of a conversion to grey."
    )
    blur: float = Field(_default("blur"), ge=0, le=1, description="Probability of a Gaussian blur.")
    horizontal_flip: float = Field(
        _default("horizontal_flip"),
        ge=0,
        le=1,
        description="Probability of a horizontal flip. It is off by default, since a mirror "
        "image of text, a signature or an organ is not the same object.",
    )

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, value: Any) -> Any:
        given = {"preset": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping):
            return given
        preset = _preset(given.get("preset", _DEFAULT))
        # The validation of the field reports an unknown preset.
        return given if preset is None else {**_NONE, **preset.strengths, **given}

    @field_validator("preset", mode="before")
    @classmethod
    def _is_chosen(cls, value: Any) -> Any:
        if value == "auto":
            raise ValueError("auto is no preset: a training with the recipe 'augment' chooses one")
        return value

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _range(cls, value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        low, high = value
        share = info.field_name == "crop_scale"
        if not 0 < low <= high or (share and high > 1):
            raise ValueError("must be [low, high] with 0 < low <= high" + " <= 1" * share)
        return value

    @property
    def strengths(self) -> dict[str, Any]:
        """The strength of each change: all fields but the preset, which only sets them."""
        return self.model_dump(exclude={"preset"})

    @property
    def is_random(self) -> bool:
        """Whether any change is on, so that training views differ from the evaluation view."""
        return self.strengths != dict(_NONE)
