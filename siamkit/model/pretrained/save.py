"""Saving: writes a network to a folder, after trying out how to build the network again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._hub import save_config_for_hf
from torch import Tensor, nn

from siamkit.checks import optional_text
from siamkit.config.base import expanded
from siamkit.errors import NonFiniteError, PluginError, SiamkitError
from siamkit.files import path_of, sha256_of, write_atomic
from siamkit.interfaces import Backbone, Preprocessing
from siamkit.model.backbone import CROP_MODES, WrappedBackbone
from siamkit.model.origin import NamedPart
from siamkit.model.pretrained.card import CardSection, card
from siamkit.model.pretrained.folder import (
    BACKBONE,
    CARD,
    CONFIG,
    FORMAT,
    REST,
    Folder,
    Images,
    Saved,
    SavedPart,
    config_text,
    new_folder,
    require_free,
)  # fmt: skip
from siamkit.model.pretrained.identity import (
    OTHER_DEVICE,
    check_images,
    difference,
    fingerprint_of,
    tolerance,
)
from siamkit.model.pretrained.load import CHECK, HEAD_PREFIX
from siamkit.model.pretrained.rebuild import (
    inner,
    rebuild_backbone,
    rebuild_head,
    timm_model,
    wrapped,
)
from siamkit.model.siamese import SiameseNet
from siamkit.model.trace import evaluating
from siamkit.registry import PYTHON
from siamkit.tensor_files import load_tensors, save_tensors
from siamkit.version import VERSION, versions


def save_net(
    net: SiameseNet,
    folder: str | Path,
    *,
    license: str | None = None,
    weights: str | None = None,
    calibration: Mapping[str, Any] | None = None,
    sections: Sequence[CardSection] = (),
    force: bool = False,
    as_named: bool = False,
) -> Path:
    """Save a network to a folder, and return the folder.

    Args:
        net: The network.
        folder: A folder that does not exist yet, or is empty.
        license: The licence of the weights, as the hub spells it, for the model card.
        weights: A text about the weights that training started from; None to take it from the
            network's origin.
        calibration: The network's calibration, as :meth:`siamkit.Calibration.to_json` returns it.
        sections: Further sections of the model card.
        force: Whether to replace a saved network in the folder.
        as_named: Whether the names that the network was built by must build it again. Otherwise, a
            part that was changed since is saved as an object.

    Raises:
        ConfigError: The folder is not empty.
        NonFiniteError: An embedding of the network is NaN or infinite.
        PluginError: A copy of the network returns another output.
        ResourceError: The disk is full or not writable.
    """
    path = expanded(path_of(folder, "folder", "a new folder"))
    license = optional_text(license, "license")
    require_free(path, force)
    _require_finite(net)
    origin = net.origin
    with new_folder(path) as temporary:
        _write(inner(net.backbone).state_dict(), temporary / BACKBONE, "backbone")
        head = {HEAD_PREFIX + name: tensor for name, tensor in net.head.state_dict().items()}
        _write(head, temporary / REST, "head")
        draft = Saved(
            format=FORMAT,
            versions=versions(),
            backbone=_object(inner(net.backbone), net.backbone),
            head=_object(net.head[0] if len(net.head) == 1 else net.head),
            normalize=net.normalize,
            embedding_dim=net.embedding_dim,
            image_size=None if origin is None else origin.image_size,
            preprocessing=Images(**asdict(net.preprocessing)),
            weights=weights or (None if origin is None else origin.weights),
            fingerprint=fingerprint_of(net),
            calibration=None if calibration is None else dict(calibration),
            files={},
            pruning=None if net.pruning is None else net.pruning.to_json(),
            int8=None if net.quantized is None else net.quantized.to_json(),
            reads=net.head.reads,
        )
        chosen, copy = _tried(net, Folder(temporary, draft, {}), as_named)
        _write(head | {CHECK: copy.embed(check_images(copy))}, temporary / REST, "head")
        saved = chosen.saved.model_copy(
            update={"files": {name: sha256_of(temporary / name) for name in (BACKBONE, REST)}}
        )
        architecture = chosen.timm.get("architecture")
        text = card(path.name, saved, architecture, license=license, sections=sections)
        write_atomic(temporary / CARD, text)
        write_atomic(temporary / CONFIG, config_text(saved, chosen.timm))
    return path


# --- how to build the network again --------------------------------------------------------------


def _tried(net: SiameseNet, draft: Folder, as_named: bool) -> tuple[Folder, SiameseNet]:
    """Try ways to build backbone and head again, until the outputs are the same.

    Returns:
        The folder, whose ``saved`` names the ways that worked, and the network that they built.

    Raises:
        PluginError: No way gives the same outputs.
    """
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    limit = tolerance(net) * (1 if device.type == "cpu" else OTHER_DEVICE)
    images = check_images(net)
    tensors = load_tensors(draft.path / BACKBONE)
    features = net.features(images)
    for folder, given in _backbones(net, draft, as_named):
        backbone = _attempt(lambda: rebuild_backbone(folder, tensors, given), given is not None)  # noqa: B023
        if backbone is not None:
            backbone = backbone.cpu()
            same = backbone.preprocessing.fitted_as(net.preprocessing) == net.preprocessing
            if same and difference(_output(backbone, images), features) <= limit:
                break
    else:
        raise _no_function("backbone", draft.saved.backbone)
    rest = load_tensors(draft.path / REST)
    state = {name.removeprefix(HEAD_PREFIX): tensor for name, tensor in rest.items()}
    embeddings = net.embed(images)
    for whole, given in _heads(net, folder, as_named):
        head = _attempt(lambda: rebuild_head(whole, state, backbone, given), given is not None)  # noqa: B023
        if head is not None:
            copy = SiameseNet(
                backbone, head.cpu(), normalize=net.normalize, preprocessing=net.preprocessing
            ).eval()
            if difference(_output(copy, images), embeddings) <= limit:
                return whole, copy
    raise _no_function("head", draft.saved.head)


def _attempt(build: Any, last: bool) -> Any:
    """Return the result of ``build``; None if it fails and is not the last way to try."""
    try:
        return build()
    except SiamkitError:
        if last:
            raise
    except Exception as error:  # for example, a module cannot be copied
        if last:
            raise PluginError(
                f"the network cannot be copied: {type(error).__name__}: {error}"
            ) from error
    return None


def _output(module: nn.Module, images: Tensor) -> Tensor:
    with evaluating(module):
        result: Tensor = module(images.cpu())
        return result


def _backbones(
    net: SiameseNet, draft: Folder, as_named: bool
) -> Iterator[tuple[Folder, nn.Module | None]]:
    """Yield the ways to build the backbone, the best first.

    Each way is a folder whose ``saved`` names it, and the module to pass to
    :func:`rebuild_backbone`.
    """
    part, origin = draft.saved.backbone, net.origin
    if (by_timm := _by_timm(net, draft)) is not None:
        yield by_timm, None
    name = None if origin is None or origin.backbone.name.startswith(PYTHON) else origin.backbone
    if name is not None:
        yield _with(draft, "backbone", _plugin(name, part)), None
    if name is None or not as_named:
        yield draft, net.backbone


def _heads(
    net: SiameseNet, draft: Folder, as_named: bool
) -> Iterator[tuple[Folder, nn.Module | None]]:
    part, origin = draft.saved.head, net.origin
    name = None if origin is None or origin.head.name.startswith(PYTHON) else origin.head
    if name is not None:
        yield _with(draft, "head", _plugin(name, part)), None
    if len(net.head) == 0:
        nothing = NamedPart("identity", {}, "siamkit", VERSION)
        yield _with(draft, "head", _plugin(nothing, part)), None
    if name is None or not as_named:
        yield draft, net.head


def _by_timm(net: SiameseNet, draft: Folder) -> Folder | None:
    """Return the folder in timm's format; None if plain timm does not load the same backbone."""
    backbone, part = net.backbone, draft.saved.backbone
    config = getattr(inner(backbone), "pretrained_cfg", None)
    if not isinstance(backbone, WrappedBackbone) or not isinstance(config, dict):
        return None
    if net.pruning or net.quantized:  # timm builds the full network in float32 only
        return None
    if not timm.is_model(config.get("architecture") or ""):
        return None
    rate = net.origin and net.origin.backbone.options.get("drop_path_rate")
    options = {"drop_path_rate": rate} if rate else {}
    named = {"kind": "timm", "name": f"timm:{config['architecture']}", "options": options}
    try:
        values = _timm_config(backbone.model, net.preprocessing, draft.path / CONFIG)
        folder = Folder(
            draft.path, _with(draft, "backbone", part.model_copy(update=named)).saved, values
        )
        loaded = wrapped(timm_model(folder, pretrained=True), folder.saved)
    except Exception:  # the type depends on the architecture; other ways to save it will be tried
        return None
    features = net.features(check_images(net))
    limit = OTHER_DEVICE * tolerance(net)  # timm loads half precision into float32
    same = difference(_output(loaded, check_images(net)), features) <= limit
    return folder if same else None


def _timm_config(module: nn.Module, images: Preprocessing, path: Path) -> dict[str, Any]:
    """Return timm's config of a model, with the preprocessing that the network uses."""
    save_config_for_hf(module, str(path))
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    values.setdefault("model_args", {}).setdefault("in_chans", images.channels)
    config = values["pretrained_cfg"]
    for key in ("test_input_size", "test_crop_pct", "min_input_size"):
        config.pop(key, None)
    config |= {
        "input_size": [images.channels, *images.size],
        "mean": list(images.mean),
        "std": list(images.std),
        "interpolation": images.interpolation,
        "crop_pct": images.crop_pct,
        "crop_mode": CROP_MODES[images.fit],
        "custom_load": False,
    }
    path.write_text(json.dumps(values), encoding="utf-8")
    return values


def _plugin(component: NamedPart, part: SavedPart) -> SavedPart:
    return part.model_copy(
        update={
            "kind": "plugin",
            "name": component.name,
            "options": dict(component.options),
            "distribution": component.distribution,
            "version": component.version,
        }
    )


def _object(module: nn.Module, backbone: Backbone | None = None) -> SavedPart:
    kind = type(module)
    layout = select = None
    if isinstance(backbone, WrappedBackbone):
        layout = backbone.layout
        if isinstance(backbone.select, str | int):
            select = backbone.select
    name = f"{kind.__module__}.{kind.__qualname__}"
    return SavedPart(kind="object", name=name, layout=layout, select=select)


def _with(folder: Folder, section: str, part: SavedPart) -> Folder:
    saved = folder.saved.model_copy(update={section: part})
    return Folder(folder.path, saved, folder.timm)


def _no_function(kind: str, part: SavedPart) -> PluginError:
    return PluginError(
        f"a copy of the {kind} with the same tensors returns another output, so the {kind} cannot "
        "be saved",
        where=part.name,
        hint="keep everything that the forward depends on in parameters and in buffers that are "
        "saved (persistent=True)",
    )


# --- tensors -------------------------------------------------------------------------------------


def _require_finite(net: SiameseNet) -> None:
    if not torch.isfinite(net.embed(check_images(net))).all():
        raise NonFiniteError(
            "the network gives an embedding that is NaN or infinite", hint="check the weights"
        )


def _write(state: Mapping[str, Any], path: Path, what: str) -> None:
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise PluginError(
            "has state that is not a tensor and cannot be saved",
            where=what, got=", ".join(odd[:5]), hint="register this state as buffers",
        )  # fmt: skip
    save_tensors(state, path)
