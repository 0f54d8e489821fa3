"""The check of backbones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from siamkit.interfaces import HEAD, Backbone, BackboneContext, Stage
from siamkit.model.build import build_backbone
from siamkit.testing.common import Expect, Values, checked_entry, seeded


def check_backbone(
    name: str,
    options: Values | None = None,
    *,
    channels: Sequence[int] = (3, 1),
    image_size: int | None = None,
) -> None:
    """Check a backbone: shapes, width, stages, determinism in evaluation, gradients.

    Args:
        name: The registered name, or one that a prefix answers for (``timm:resnet10t``).
        options: Option values, where the entry's own defaults don't do.
        channels: Numbers of image channels to build it for.
        image_size: Pixels a side; the backbone's own if left out. Smaller is quicker.
    """
    entry, validated, expect = checked_entry("backbones", "backbone", name, options)
    for chans in channels:
        context = BackboneContext(name, False, chans, image_size)
        with seeded():
            backbone = build_backbone(entry, validated, context, pretrained=False).backbone
            within = expect.within(f"in_chans={chans}")
            within(isinstance(backbone, Backbone), "a Backbone or an nn.Module", backbone)
            has = backbone.preprocessing.channels
            within(has == chans, f"preprocessing for {chans} channels", has)
            images = torch.randn(2, chans, *backbone.preprocessing.size)
            _check_features(backbone.eval(), images, within)
            for granularity in ("stage", "block"):
                stages = backbone.stages(granularity)
                _check_stages(backbone, stages, images, within.within(f"{granularity}s"))
            _check_gradients(backbone.train(), images, within)


def _check_features(backbone: Backbone, images: Tensor, expect: Expect) -> None:
    with torch.no_grad():
        features, again = backbone(images), backbone(images)
        alone = backbone(images[:1])
    expect(
        isinstance(features, Tensor) and features.shape[:1] == images.shape[:1], "a tensor [N, D]",
        getattr(features, "shape", type(features)),
    )  # fmt: skip
    expect(features.ndim == 2, "features [N, D]: pool and flatten them", tuple(features.shape))
    width = backbone.embedding_dim
    expect(width == features.shape[1], f"embedding_dim {features.shape[1]}, as forward has", width)
    expect(bool(features.isfinite().all()), "finite features", "NaN or infinity")
    expect(
        torch.equal(features, again), "the same features for the same images in eval mode",
        f"a difference of {(features - again).abs().max():.3g}",
    )  # fmt: skip
    error = (features[:1] - alone).abs().max().item()
    near = error <= 1e-3 * features.abs().max().item() + 1e-6
    expect(near, "an image's features not to depend on the others in eval mode", error)


def _check_stages(
    backbone: Backbone, stages: Sequence[Stage], images: Tensor, expect: Expect
) -> None:
    names = [stage.name for stage in stages]
    expect(len(set(names)) == len(names), "different names", names)
    expect(HEAD not in names, f"no stage named {HEAD!r}: that is the head's", names)
    placed = [parameter for stage in stages for parameter in stage.parameters]
    everything = [parameter for parameter, _ in backbone.named_parameters()]
    twice = sorted({p for p in placed if placed.count(p) > 1})
    expect(not twice, "each parameter in one stage", f"{twice} in several")
    missing = sorted(set(everything) - set(placed))
    expect(not missing, "every parameter in some stage", f"{missing} in none")
    unknown = sorted(set(placed) - set(everything))
    expect(not unknown, "names of the backbone's parameters", unknown)
    modules = dict(backbone.named_modules())
    for stage in stages:
        stray = sorted({*stage.modules, *filter(None, [stage.output])} - set(modules))
        expect(not stray, f"{stage.name!r} to name modules of the backbone", stray)
        foreign = sorted(stage.norms - set(stage.parameters))
        expect(not foreign, f"the norms of {stage.name!r} to be parameters of it", foreign)
        cut = sorted(p for block in stage.blocks for p in block.parameters)
        whole = not stage.blocks or cut == sorted(stage.parameters)
        expect(whole, f"the blocks of {stage.name!r} to hold its parameters, each once", cut)
    ran = _execution_order(backbone, stages, images)
    in_order = [name for name in names if name in ran]
    expect(ran == in_order, f"stages in execution order, {ran}", in_order)


def _execution_order(backbone: Backbone, stages: Sequence[Stage], images: Tensor) -> list[str]:
    """Return the names of the stages in the order in which a forward first enters them."""
    ran: dict[str, None] = {}
    modules = dict(backbone.named_modules())
    handles = [
        modules[module].register_forward_pre_hook(
            lambda _module, _args, name=stage.name: ran.setdefault(name)
        )
        for stage in stages
        for module in stage.modules
    ]
    try:
        with torch.no_grad():
            backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    return list(ran)


def _check_gradients(backbone: Backbone, images: Tensor, expect: Expect) -> None:
    ran: set[nn.Module] = set()
    leaves = [module for module in backbone.modules() if not list(module.children())]
    handles = [m.register_forward_pre_hook(lambda module, _args: ran.add(module)) for m in leaves]
    features = backbone(images)
    for handle in handles:
        handle.remove()
    expect(features.requires_grad, "features that gradients flow through", "detached ones")
    features.square().mean().backward()
    grads = {name: parameter.grad for name, parameter in backbone.named_parameters()}
    takes_part = {
        f"{name}.{own}".removeprefix(".")
        for name, module in backbone.named_modules()
        if module in ran
        for own, _ in module.named_parameters(recurse=False)
    }
    cut_off = sorted(name for name in takes_part & set(grads) if grads[name] is None)
    expect(not cut_off, "a gradient for each parameter that takes part", f"none for {cut_off}")
    for stage in backbone.stages():
        reached = any(grads[name] is not None for name in stage.parameters)
        expect(reached, f"gradients in {stage.name!r}", "none for any of its parameters")
    bad = sorted(n for n, grad in grads.items() if grad is not None and not grad.isfinite().all())
    expect(not bad, "finite gradients", f"NaN or infinity in {bad}")
