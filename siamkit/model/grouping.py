"""Parameter groups: the ordered groups of parameter names that stages are built from.

The groups come from the first of these sources that the network has: timm's ``group_matcher``,
timm's ``feature_info``, and the children of the module.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from siamkit.model.names import (
    join,
    named_modules,
    named_parameters,
    parent,
    submodule,
    tied_parameters,
)
from siamkit.model.trace import Trace

MAX_STAGES = 8
"""More groups than this are merged, because a single block of a transformer is not a stage."""

BUCKETS = 4
"""The number of stages after the stem if groups are merged: quarters of the network's depth."""

_Names = list[str]
_NORM_CLASS = re.compile(r"norm|filterresponse", re.IGNORECASE)
_OF_WEIGHTS = re.compile(r"spectral_?norm|weight_?norm", re.IGNORECASE)
_TORCH_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def is_norm(module: nn.Module) -> bool:
    """Return whether ``module`` itself is a normalisation layer.

    torch's own layers are recognised by class (timm's ``BatchNormAct2d`` and ``LayerNorm2d`` are
    subclasses). Other layers are recognised by the name of their class (``RmsNorm``,
    ``SimpleNorm``, ``FilterResponseNormTlu2d``), if their own parameters are all vectors and no
    child has any: ``NormFreeNet`` and ``PreNorm`` are built of layers. Modules that normalise
    weights instead of activations, such as a spectral norm, do not count.
    """
    if isinstance(module, _TORCH_NORMS):
        return True
    own = module.parameters(recurse=False)
    vectors = all(max(p.shape, default=1) == p.numel() for p in own)
    layer = not any(_has_tensors(child) for child in module.children())
    name = (
        getattr(module, "original_name", "") if isinstance(module, torch.jit.ScriptModule) else ""
    )
    name = name or type(module).__name__
    named = bool(_NORM_CLASS.search(name)) and not _OF_WEIGHTS.search(name)
    return layer and vectors and named


def _has_tensors(module: nn.Module) -> bool:
    return any(True for _ in chain(module.parameters(), module.buffers()))


def norm_parameters(module: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that belong to normalisation layers."""
    return frozenset(
        join(name, key)
        for name, m in named_modules(module)
        if is_norm(m)
        for key, _ in m.named_parameters(recurse=False)
    )


def coarse_groups(module: nn.Module, trace: Trace) -> tuple[list[_Names], bool]:
    """Return the parameter names of ``module`` in groups that correspond to stages.

    Returns:
        The groups, which are disjoint and in execution order; and whether the network's author
        defines them, so that the first group is a stem. Parameters that must be placed by their
        first use, with :func:`place`, are in no group.
    """
    inner, prefix = _descend(module)
    groups = _of_the_author(inner, trace, prefix)
    known = bool(groups)
    groups = groups or _by_child(inner, trace, prefix)
    # A part of the network may know a tied weight only by a name that is not its first.
    first = {name for name, _ in named_parameters(module)}
    named = [[n for name in group if (n := join(prefix, name)) in first] for group in groups]
    loose = _loose(module, named, prefix, trace)
    if known:
        # The author put class tokens into the stem, so they stay there even if used late (CaiT).
        loose.difference_update(name for name in named[0] if parent(name) == prefix)
    placed = [[name for name in group if name not in loose] for group in named]
    ordered = in_order([group for group in placed if group], trace)
    groups = join_norms(ordered, norm_parameters(module))
    return groups or _by_use(module, trace), known


def fine_groups(module: nn.Module) -> list[_Names]:
    """Return timm's fine groups of parameter names; empty if the module has none.

    Parameters that the module holds itself, not in a child, are left out.
    """
    inner, prefix = _descend(module)
    groups = [[n for n in group if parent(n)] for group in _matched(inner, coarse=False)]
    return [[join(prefix, name) for name in group] for group in groups]


def place(names: Iterable[str], groups: Sequence[_Names], trace: Trace) -> list[_Names]:
    """Return ``groups`` with each of ``names`` added to the group that runs at its first use.

    This is the group that, of all groups that began before the first use, began last. So position
    embeddings join the stem, and a projection after the last block joins the last group. A
    parameter that was not used, or was used before all groups, joins the first group.
    """
    begins = [
        min((t for name in group if (t := trace.first_use(name)) is not None), default=None)
        for group in groups
    ]
    result = [list(group) for group in groups]
    for name in names:
        use = trace.first_use(name)
        began = [
            (begin, index)
            for index, begin in enumerate(begins)
            if begin is not None and use is not None and begin <= use
        ]
        result[max(began)[1] if began else 0].append(name)
    return result


def in_order(groups: Sequence[_Names], trace: Trace) -> list[_Names]:
    """Return ``groups`` in the order of their first run.

    A group that did not run stays behind the group before it.
    """
    keyed = []
    latest = -1
    for group in groups:
        # The start of an ancestor only counts if there is nothing else: it may span many groups.
        exact = [t for name in group if (t := trace.first_use(name)) is not None]
        starts = [t for name in group if (t := trace.start(parent(name))) is not None]
        latest = min(exact or starts, default=latest)
        keyed.append((latest, group))
    return [group for _, group in sorted(keyed, key=lambda pair: pair[0])]


def join_norms(groups: Sequence[_Names], norms: frozenset[str]) -> list[_Names]:
    """Return ``groups`` with each group of only norm parameters joined to the group before it."""
    joined: list[_Names] = []
    for group in groups:
        if joined and norms.issuperset(group):
            joined[-1] = joined[-1] + group
        else:
            joined.append(list(group))
    return joined


def bucket(groups: Sequence[_Names]) -> list[list[_Names]]:
    """Return ``groups``, merged into at most :data:`MAX_STAGES` runs of consecutive groups.

    If there are too many groups, the runs are the first group and quarters of the others.
    """
    runs = [[group] for group in groups]
    if len(runs) == MAX_STAGES + 1 and not _same_series(groups[-2], groups[-1]):
        # A last convolution or a neck belongs to the last stage (MobileNetV3, as in EfficientNet).
        *runs, tail = runs
        runs[-1] = runs[-1] + tail
    if len(runs) <= MAX_STAGES:
        return runs
    stem, *rest = groups
    share, extra = divmod(len(rest), BUCKETS)
    result, at = [[stem]], 0
    for index in range(BUCKETS):
        size = share + (index < extra)
        result.append(rest[at : at + size])
        at += size
    return result


def structural_groups(module: nn.Module, name: str) -> list[_Names]:
    """Return the parameters of the stage module ``name``, in one group for each block.

    Blocks are the members of a sequence (a ``Sequential`` or ``ModuleList``) if each member itself
    contains modules. So the layers of a residual branch are not blocks. The result is empty if
    there is no such sequence.
    """
    inner, prefix = _descend(submodule(module, name))
    return _cut_at_sequence(inner, join(name, prefix))


def unit_name(group: _Names, everything: Iterable[str], taken: Iterable[str] = ()) -> str:
    """Return a name for a unit (a stage or a block): the name of a module that lies in it.

    All parameters of the module belong to the unit. The shortest such name is used, and a name that
    ends in a number is preferred. So a block with its downsampling is ``stages.1.blocks.0``, not
    ``stages.1.downsample``. A unit of several numbered modules is named ``blocks.3-4``.

    Args:
        group: The names of the unit's parameters, in order.
        everything: The names of all parameters of the network.
        taken: Names that must not be returned, because other units have them.
    """
    shared = {p for name in set(everything).difference(group) for p in _prefixes(name)}
    shared.update(taken)
    candidates = [next((p for p in _prefixes(name) if p not in shared), name) for name in group]
    numbered = [c for c in candidates if c.rpartition(".")[2].isdigit()]
    if not numbered:
        return candidates[0]
    within = parent(numbered[0])
    if not within:  # in a plain sequence of layers, a convolution and a norm are not a run
        return numbered[0]
    return run_name(numbered[0], [c for c in numbered if parent(c) == within][-1])


def _prefixes(name: str) -> _Names:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def run_name(first: str, last: str) -> str:
    """Return the name of a run of groups: ``blocks.0`` to ``blocks.2`` are ``blocks.0-2``."""
    if first == last:
        return first
    return f"{first}-{last.rpartition('.')[2] if parent(first) == parent(last) else last}"


# --- sources -------------------------------------------------------------------------------------


def _descend(module: nn.Module, prefix: str = "") -> tuple[nn.Module, str]:
    """Return the innermost module that contains all modules with parameters, and its name.

    A plugin's module is often only a wrapper around one network. The search stops at a module with
    a ``group_matcher`` (timm's grouping of parameters) and returns that module.
    """
    children = [(n, c) for n, c in module.named_children() if _has_parameters(c)]
    sealed = isinstance(module, torch.jit.ScriptModule)  # its modules cannot be watched
    if sealed or hasattr(module, "group_matcher") or len(children) != 1:
        return module, prefix
    name, child = children[0]
    if not any(_has_parameters(c) for c in child.children()):
        return module, prefix
    return _descend(child, join(prefix, name))


def _of_the_author(module: nn.Module, trace: Trace, prefix: str) -> list[_Names]:
    return _matched(module, coarse=True) or _cut_at_features(module, trace, prefix)


def _loose(module: nn.Module, groups: Sequence[_Names], prefix: str, trace: Trace) -> set[str]:
    """Return the names of the parameters that must be placed by their first use.

    These are parameters that the root or a module around several groups holds directly (class
    tokens, prompts, a last projection), and parameters that another module uses before the module
    that holds them.
    """
    loose = {name for name in tied_parameters(module) if trace.used_before_its_owner(name)}
    owners = {name: _owner(module, name) for name, _ in named_parameters(module)}
    above = {"", prefix, *_prefixes(prefix)}
    spans: Counter[str] = Counter()
    for group in groups:
        below = {p for name in group for p in _prefixes(owners[name])}
        spans.update(below)
    return loose | {n for n, owner in owners.items() if owner in above or spans[owner] > 1}


def _owner(module: nn.Module, name: str) -> str:
    """Return the name of the module that holds a parameter; lists of parameters do not count."""
    name = parent(name)
    while name and isinstance(submodule(module, name), nn.ParameterList | nn.ParameterDict):
        name = parent(name)
    return name


def _by_use(module: nn.Module, trace: Trace) -> list[_Names]:
    """Return the groups of a network without layers, by the operations that use its parameters.

    A group holds the parameters that were first used by the same operation. Vectors (a bias, a
    scale) join the group before them.
    """
    vectors = frozenset(name for name, p in named_parameters(module) if p.ndim < 2)
    by_tick: dict[int, _Names] = {}
    for name, _ in named_parameters(module):
        if (tick := trace.first_use(name)) is not None:
            by_tick.setdefault(tick, []).append(name)
    return join_norms([by_tick[tick] for tick in sorted(by_tick)], vectors)


def _matched(module: nn.Module, *, coarse: bool) -> list[_Names]:
    matcher: Any = getattr(module, "group_matcher", None)
    if not callable(matcher):
        return []
    try:
        by_id = group_parameters(module, matcher(coarse=coarse))
    except (AssertionError, NotImplementedError, TypeError):  # "coarse grouping is not implemented"
        return []
    groups = [list(by_id[key]) for key in sorted(by_id)]
    names = [name for group in groups for name in group]
    complete = sorted(names) == sorted(name for name, _ in named_parameters(module))
    return groups if complete and (len(groups) > 1 or not coarse) else []


def _cut_at_features(module: nn.Module, trace: Trace, prefix: str) -> list[_Names]:
    """Return groups that each end with a module that timm's ``feature_info`` names.

    An additional first group ends before the first of these modules. Names that are not modules
    (HRNet's) or did not run are ignored.
    """
    info: Any = getattr(module, "feature_info", None)
    info = getattr(info, "info", info)
    if not isinstance(info, Sequence):
        return []
    names = [join(prefix, str(i.get("module"))) for i in info if isinstance(i, dict)]
    names = [name for name in names if name and trace.ran(name)]
    if not names:
        return []
    cuts = sorted({trace.starts[names[0]] - 1, *(trace.ends[name] for name in names)})
    groups: list[_Names] = [[] for _ in cuts]
    for name, _ in named_parameters(module):
        start = trace.start(parent(join(prefix, name)))
        index = 0 if start is None else sum(start > cut for cut in cuts)
        groups[min(index, len(groups) - 1)].append(name)
    groups = [group for group in groups if group]
    return groups if len(groups) > 1 else []


def _by_child(module: nn.Module, trace: Trace, prefix: str) -> list[_Names]:
    """Return a group for each child; a child that contains blocks is divided further."""
    if isinstance(module, torch.jit.ScriptModule):
        return [[name for name, _ in named_parameters(module)]]
    groups: dict[str, _Names] = {}
    for name, _ in named_parameters(module):
        groups.setdefault(name.partition(".")[0] if "." in name else "", []).append(name)
    own = groups.pop("", [])
    if _is_block_sequence(module):
        return [own, *groups.values()]
    norms = norm_parameters(module)
    layers = [key for key, group in groups.items() if not norms.issuperset(group)]
    deep = [key for key in layers if _holds_blocks(submodule(module, key))]
    if len(layers) < BUCKETS and layers:
        # With few children, the largest, such as a transformer's encoder, is divided into blocks.
        deep = [max(deep or layers, key=lambda key: len(groups[key]))]
    if len(deep) == 1:
        (key,) = deep
        cut = _cut_deep(module, key, trace, prefix)
        others = [[group] if k != key else cut or [group] for k, group in groups.items()]
        return [own, *(group for cuts in others for group in cuts)]
    return [own, *groups.values()]


def _cut_deep(module: nn.Module, key: str, trace: Trace, prefix: str) -> list[_Names]:
    """Return the groups of a child: its author's, else those of its children, else its blocks."""
    inner, below = _descend(submodule(module, key), key)
    groups = _of_the_author(inner, trace, join(prefix, below))
    if not groups:
        groups = _by_child(inner, trace, join(prefix, below))
        norms = norm_parameters(inner)
        if sum(bool(group) and not norms.issuperset(group) for group in groups) < BUCKETS:
            return structural_groups(module, key)
    return [[join(below, name) for name in group] for group in groups]


def _holds_blocks(module: nn.Module) -> bool:
    return any(_is_block_sequence(m) for m in module.modules())


def _cut_at_sequence(module: nn.Module, prefix: str) -> list[_Names]:
    parts: list[tuple[str, nn.Module]] = []
    cut = _is_block_sequence(module)
    whole = cut
    for key, child in module.named_children():
        if not whole and _is_block_sequence(child):
            parts += [(f"{key}.{k}", member) for k, member in child.named_children()]
            cut = True
        else:
            parts.append((key, child))
    groups = [[f"{key}.{n}" for n, _ in named_parameters(part)] for key, part in parts]
    groups = [group for group in groups if group]
    if not cut or len(groups) < 2:
        return []
    return [[join(prefix, name) for name in group] for group in groups]


def _is_block_sequence(module: nn.Module) -> bool:
    members = [m for m in module.children() if _has_parameters(m)]
    deep = all(any(True for _ in m.children()) for m in members)
    return isinstance(module, nn.Sequential | nn.ModuleList) and bool(members) and deep


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _same_series(first: _Names, second: _Names) -> bool:
    """Return whether two groups are members of one numbered sequence."""
    a, b = first[0].split("."), second[0].split(".")
    return len(a) > 1 and len(b) > 1 and a[0] == b[0] and a[1].isdigit() and b[1].isdigit()
