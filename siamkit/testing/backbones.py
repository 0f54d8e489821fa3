"""The check of backbones: features, state, gradients, preprocessing and sizes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from siamkit.errors import ConfigError
from siamkit.interfaces import Backbone, BackboneContext, Preprocessing
from siamkit.model.backbone import WrappedBackbone
from siamkit.model.build import build_backbone
from siamkit.model.generators import seeded
from siamkit.testing.common import Expect, Values, loose_leaves, offline
from siamkit.testing.stages import check_stages
from siamkit.testing.subjects import checked_entry, conformance

_UNUSABLE = "Users could not use it."
_STOPS = "Training would stop there."
_WRONG_IMAGES = "Images would be prepared differently from those in the backbone's pretraining."
_DRIFTS = "A frozen backbone would change, which ends the run with a FrozenDriftError."
_INTERPOLATIONS = ("bilinear", "bicubic", "nearest")


@conformance
def check_backbone(
    given: str | nn.Module,
    options: Values | None = None,
    *,
    channels: Sequence[int] | None = None,
    image_size: int | None = None,
) -> None:
    """Check a backbone: shapes, width, stages, determinism in evaluation, gradients.

    Args:
        given: The registered name, a name with a prefix (``timm:resnet10t``), or a module from
            images ``[N, C, H, W]`` to features. A module is copied.
        options: Option values of a named backbone, if the defaults are unsuitable.
        channels: The numbers of image channels to check, one after another. None: 3 and 1 for a
            name; for a module, the channels of its attribute ``preprocessing``, else 3.
        image_size: Height and width in pixels. None: the backbone's own size. Checks on smaller
            images take less time.
    """
    entry, validated, expect = checked_entry("backbones", given, options)
    name = given if isinstance(given, str) else entry.name

    def build(chans: int, size: int | None, seed: int = 0) -> Backbone:
        context = BackboneContext(name, False, chans, size)
        with seeded(seed), offline():
            return build_backbone(entry, validated, context, pretrained=False).backbone

    for number, chans in enumerate(_channels(given) if channels is None else channels):
        within = expect.within(f"in_chans={chans}")
        with within.during("in build", _UNUSABLE):
            backbone = build(chans, image_size)
        _check_preprocessing(backbone, chans, within)
        if image_size is not None:
            _check_asked(backbone, image_size, within)
        fresh = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
        constants = _constants(backbone)
        with seeded(0):
            images = pictures(backbone, 2)
            _check_features(backbone, fresh, images, within, thorough=not number)
            check_stages(backbone, images, within)
            _check_gradients(backbone.train(), fresh, images, within)
        within(
            not constants,
            "every tensor of a module to be a parameter or a buffer",
            f"plain attributes {constants}",
            "They would stay on the CPU when the network moves to a GPU: use register_buffer.",
        )
        size = 3 * backbone.preprocessing.size[0] // 2
        if isinstance(given, Backbone):
            _check_own_size(backbone, size, within.within(f"image_size={size}"))
        elif not number:
            at = within.within(f"image_size={size}")
            with at.during("in build", "Refuse an unsupported size with ConfigError."):
                _check_seeded(fresh, build(chans, image_size), within)
                _check_unsaved(backbone, build(chans, image_size, seed=1), within)
                try:
                    larger = build(chans, size)
                except ConfigError:
                    continue  # the backbone supports one size only, and refuses others as it should
            _check_size(backbone, larger, size, at)


def _channels(given: str | nn.Module) -> tuple[int, ...]:
    if isinstance(given, str):
        return 3, 1
    stated = getattr(given, "preprocessing", None)
    return (stated.channels if isinstance(stated, Preprocessing) else 3,)


def pictures(backbone: Backbone, n: int, size: tuple[int, int] | None = None) -> Tensor:
    """Return random images ``[n, C, H, W]``, normalised as in training from pixels in [0, 1]."""
    how = backbone.preprocessing
    height, width = size or how.size
    pixels = torch.rand(n, how.channels, height, width)
    # A gradient from black to white, since photographs are not only noise.
    pixels[0] *= torch.linspace(0, 1, width)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (how.mean, how.std))
    return (pixels - mean) / std


# --- preprocessing and sizes ---------------------------------------------------------------------


def _check_preprocessing(backbone: Backbone, chans: int, expect: Expect) -> None:
    expect(isinstance(backbone, Backbone), "a Backbone or an nn.Module", backbone, _UNUSABLE)
    own = getattr(backbone.model, "preprocessing", None) if _wraps(backbone) else None
    expect(
        own is None or isinstance(own, Preprocessing),
        "the attribute preprocessing to be a siamkit.Preprocessing", type(own).__name__,
        f"siamkit would ignore it and use ImageNet's. {_WRONG_IMAGES}",
    )  # fmt: skip
    with expect.during("in preprocessing", _UNUSABLE):
        how = backbone.preprocessing
    expect(isinstance(how, Preprocessing), "preprocessing to be a Preprocessing", how, _UNUSABLE)
    with expect.during("when the preprocessing is read", _UNUSABLE):
        has = how.channels
        expect(has == chans, f"preprocessing for {chans} channels", has, _STOPS)
        expect(len(how.std) == chans, f"std for {chans} channels", how.std, _STOPS)
        inside = all(0 <= mean <= 1 for mean in how.mean)
        expect(inside, "a mean within [0, 1], in units of pixels from 0 to 1", how.mean,
               _WRONG_IMAGES)  # fmt: skip
        expect(all(0 < std <= 1 for std in how.std),
               "a std above 0 and up to 1, in units of pixels from 0 to 1", how.std,
               _WRONG_IMAGES)  # fmt: skip
        crop = 0 < how.crop_pct <= 1
        expect(crop, "crop_pct to be a share, above 0 and up to 1", how.crop_pct, _STOPS)
        known = how.interpolation in _INTERPOLATIONS
        expect(known, f"interpolation to be one of {_INTERPOLATIONS}", how.interpolation, _STOPS)
    whole = (
        isinstance(how.size, tuple | list)
        and len(how.size) == 2
        and all(isinstance(side, int) and side > 0 for side in how.size)
    )
    expect(whole, "size to be (height, width) in pixels", how.size, _STOPS)


def _wraps(backbone: Backbone) -> bool:
    return isinstance(backbone, WrappedBackbone)


def _check_seeded(fresh: Mapping[str, Tensor], other: Backbone, expect: Expect) -> None:
    own = other.state_dict()
    differ = sorted(n for n, t in fresh.items() if not _same(t, own.get(n)))
    expect(not differ, "the same weights for the same seed of torch's generator",
           f"different weights in {differ[:5]}",
           "A run could not be repeated from its seed.")  # fmt: skip


def _check_unsaved(backbone: Backbone, other: Backbone, expect: Expect) -> None:
    """Check that what is not saved with the network does not depend on the generator's seed."""
    saved, buffers = other.state_dict(), dict(backbone.named_buffers())
    differ = sorted(
        name
        for name, buffer in other.named_buffers()
        if name not in saved and not _same(buffer, buffers.get(name))
    )
    expect(not differ, "buffers with persistent=False that follow from the options",
           f"other values in {differ[:5]} with another seed of torch's generator",
           "They are not saved, so a loaded network would compute something else: leave out "
           "persistent=False.")  # fmt: skip


def _check_asked(backbone: Backbone, size: int, expect: Expect) -> None:
    has = tuple(backbone.preprocessing.size)
    expect(has == (size, size), f"images of the requested size, {size}", has,
           "--image-size would have no effect. Refuse an unsupported size with ConfigError in "
           "build.")  # fmt: skip


def _check_size(backbone: Backbone, larger: Backbone, size: int, expect: Expect) -> None:
    _check_asked(larger, size, expect)
    width = larger.embedding_dim
    _check_width(width, backbone, size, expect)
    with (
        seeded(0),
        torch.no_grad(),
        expect.during(
            "in a forward", f"{_STOPS} Refuse an unsupported size with ConfigError in build."
        ),
    ):
        features = larger.eval()(pictures(larger, 1))  # fmt: skip
    shape = tuple(features.shape)
    expect(shape == (1, width), f"features [1, {width}] for one image", shape, _STOPS)


def _check_own_size(backbone: Backbone, size: int, expect: Expect) -> None:
    """Check the features' width for images of another size, if a ready-made backbone takes them.

    Images of a single size cannot show whether the features are pixels or tokens instead of
    channels.
    """
    with seeded(0), torch.no_grad():
        try:
            features = backbone.eval()(pictures(backbone, 1, (size, size)))
        except Exception:  # harmless: a run never gives this backbone another size
            return
    _check_width(features.shape[1], backbone, size, expect)


def _check_width(width: int, backbone: Backbone, size: int, expect: Expect) -> None:
    expect(
        width == backbone.embedding_dim,
        f"features of width {backbone.embedding_dim} for images of {size} px too", width,
        "The features are pixels or tokens instead of channels, so a network for one size would "
        "not fit another. Pool [N, C, H, W] over its pixels, and return tokens as [N, T, C].",
    )  # fmt: skip


# --- features and state --------------------------------------------------------------------------


def _check_features(
    backbone: Backbone,
    fresh: Mapping[str, Tensor],
    images: Tensor,
    expect: Expect,
    *,
    thorough: bool,
) -> None:
    parameters = {name for name, _ in backbone.named_parameters()}
    _expect_mode(backbone.train(), True, expect)
    _expect_mode(backbone.eval(), False, expect)
    before = images.clone()
    with torch.no_grad():
        features = _forward(backbone, images, expect)
        same = torch.equal(images, before)
        expect(same, "a forward that does not change the images in place", "changed images",
               "A second use of the batch would get other images.")  # fmt: skip
        _check_shape(backbone, features, expect)
        again = _forward(backbone, images, expect)
        expect(
            torch.equal(features, again), "the same features for the same images in eval mode",
            f"a difference of {(features - again).abs().max():.3g}",
            "The same image would get a different embedding each time.",
        )  # fmt: skip
        one = expect.within("one image")
        alone = _forward(backbone, images[1:], one)
        one(alone.shape == features[1:].shape, f"features {[1, features.shape[1]]}",
            tuple(alone.shape), "Embedding a single image would fail.")  # fmt: skip
        expect(
            _near(alone, features[1:]),
            "features that do not depend on the other images in eval mode",
            f"a difference of {(alone - features[1:]).abs().max():.3g}",
            "An image's embedding would depend on the rest of its batch.",
        )
        if thorough:
            _check_memory_format(backbone, images, features, expect)
            _check_copy(backbone, images, features, expect)
    now = backbone.state_dict()
    added = sorted({name for name, _ in backbone.named_parameters()} - parameters)
    expect(not added, "the same parameters after a forward", added,
           "The optimizer has only the parameters that exist after build, so it would never train "
           "these.")  # fmt: skip
    changed = sorted(n for n, t in fresh.items() if not _same(t, now.get(n)))
    expect(not changed, "a forward in eval mode that does not change weights and buffers", changed,
           _DRIFTS)  # fmt: skip


def _forward(backbone: nn.Module, images: Tensor, expect: Expect) -> Tensor:
    with expect.during(f"in a forward of {list(images.shape)}", _STOPS):
        features = backbone(images)
    expect(
        isinstance(features, Tensor) and features.shape[:1] == images.shape[:1],
        f"a tensor [N, D] for {len(images)} images",
        getattr(features, "shape", type(features)), _STOPS,
    )  # fmt: skip
    return features  # type: ignore[no-any-return]


def _check_shape(backbone: Backbone, features: Tensor, expect: Expect) -> None:
    shape = tuple(features.shape)
    expect(features.ndim == 2, "features [N, D]: pool and flatten them", shape, _STOPS)
    with expect.during("in embedding_dim", _UNUSABLE):
        width = backbone.embedding_dim
    expect(width == shape[1], f"embedding_dim {shape[1]}, like the width of forward", width,
           "The head is built for embedding_dim, so it would not fit.")  # fmt: skip
    kind = features.dtype
    expect(kind == torch.float32, "features in float32, like the head's weights", kind, _STOPS)
    expect(bool(features.isfinite().all()), "finite features", "NaN or infinity", _STOPS)
    summed = features.sum(1)
    chances = bool((features >= 0).all()) and torch.allclose(summed, torch.ones_like(summed))
    expect(
        not (chances and width > 1),
        "features, not a classifier's probabilities",
        "values that sum to 1 for each image",
        "The embedding would describe a few classes, and little else.",
    )


def _same(one: Tensor, other: Tensor | None) -> bool:
    """Return whether two tensors are equal; NaN counts as equal to NaN."""
    if other is None or one.shape != other.shape:
        return False
    return torch.equal(one, other) or torch.equal(one.nan_to_num(), other.nan_to_num())


def _near(one: Tensor, other: Tensor) -> bool:
    """Return whether the results of two kernels are equal up to rounding."""
    limit = 1e-3 * other.abs().max().item() + 1e-6
    return one.shape == other.shape and bool((one - other).abs().max() <= limit)


def _check_memory_format(
    backbone: Backbone, images: Tensor, features: Tensor, expect: Expect
) -> None:
    if not backbone.channels_last:
        return
    expect = expect.within("channels_last, as in training")
    moved: nn.Module = backbone.to(memory_format=torch.channels_last)
    turned = images.contiguous(memory_format=torch.channels_last)
    result = _forward(moved, turned, expect)
    expect(
        _near(result, features),
        "the same features",
        "other features",
        "Training would get other features.",
    )
    backbone.to(memory_format=torch.contiguous_format)


def _check_copy(backbone: Backbone, images: Tensor, features: Tensor, expect: Expect) -> None:
    with expect.during("when it is copied", "Users could not copy or save the network."):
        twin = copy.deepcopy(backbone)
    result = _forward(twin, images, expect.within("a copy"))
    expect(_near(result, features), "the same features from a copy", "other features",
           "A saved network would differ from the trained one.")  # fmt: skip


def _expect_mode(backbone: Backbone, mode: bool, expect: Expect) -> None:
    unswitched = sorted(name for name, m in backbone.named_modules() if m.training is not mode)
    expect(
        not unswitched,
        "train() and eval() to reach every module",
        f"training = {not mode} in {unswitched[:5]}",
        "siamkit keeps frozen modules in eval mode itself, and could not switch these back.",
    )


def _constants(backbone: Backbone) -> list[str]:
    """Return the names of tensors that are plain attributes, neither parameters nor buffers."""
    return sorted(
        f"{name}.{key}".removeprefix(".")
        for name, module in backbone.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor) and not value.requires_grad
    )


# --- gradients -----------------------------------------------------------------------------------


def _check_gradients(
    backbone: Backbone, fresh: Mapping[str, Tensor], images: Tensor, expect: Expect
) -> None:
    ran: set[nn.Module] = set()
    leaves = [module for module in backbone.modules() if not list(module.children())]
    handles = [m.register_forward_pre_hook(lambda module, _args: ran.add(module)) for m in leaves]
    features = _forward(backbone, images, expect.within("train mode"))
    for handle in handles:
        handle.remove()
    expect(features.requires_grad, "features that gradients flow through", "detached features",
           "No part of the backbone could be trained.")  # fmt: skip
    with expect.during("in backward()", _STOPS):
        features.square().mean().backward()
    loose = loose_leaves(features, backbone)
    expect(
        not loose, "only registered parameters to receive gradients", f"{loose}, not registered",
        "They would be neither trained, frozen nor saved: use nn.Parameter or nn.ModuleList.",
    )  # fmt: skip
    written = sorted(n for n, p in backbone.named_parameters() if not _same(p, fresh.get(n)))
    expect(not written, "a forward that does not change the weights", written, _DRIFTS)
    grads = {name: parameter.grad for name, parameter in backbone.named_parameters()}
    takes_part = {
        f"{name}.{own}".removeprefix(".")
        for name, module in backbone.named_modules()
        if module in ran
        for own, _ in module.named_parameters(recurse=False)
    }
    cut_off = sorted(name for name in takes_part & set(grads) if grads[name] is None)
    expect(
        not cut_off,
        "a gradient for each parameter that takes part",
        f"none for {cut_off}",
        "A policy that unfreezes them would train nothing. Leave freezing to siamkit.",
    )
    for stage in backbone.stages():
        reached = any(grads[name] is not None for name in stage.parameters)
        expect(reached, f"gradients in {stage.name!r}", "none for any of its parameters",
               "A policy that trains this stage would train nothing.")  # fmt: skip
    bad = sorted(n for n, grad in grads.items() if grad is not None and not grad.isfinite().all())
    expect(not bad, "finite gradients", f"NaN or infinity in {bad}", _STOPS)
