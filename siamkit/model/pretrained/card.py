"""The model card: the ``README.md`` of a saved network, with the hub's front matter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import timm

from siamkit.config import yaml_text
from siamkit.hub import HUB
from siamkit.model.pretrained.folder import Saved

_PRETRAINED = "pretrained: "
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class CardSection:
    """A part of a card.

    Attributes:
        title: The heading.
        lines: The paragraphs below the heading, in Markdown.
        header: The column headings of a table below the paragraphs.
        rows: The rows of the table; without rows, there is no table.
    """

    title: str
    lines: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    def __str__(self) -> str:
        parts = [f"## {self.title}", *self.lines]
        if self.rows:
            table = [self.header, ["---"] * len(self.header), *self.rows]
            parts.append("\n".join(f"| {' | '.join(map(_cell, row))} |" for row in table))
        return "\n\n".join(parts)


def card(
    name: str,
    saved: Saved,
    architecture: str | None,
    *,
    license: str | None,
    sections: Sequence[CardSection] = (),
) -> str:
    """Return the text of a model card.

    Args:
        name: The name of the folder.
        saved: The section ``siamkit`` of ``config.json``.
        architecture: timm's name of the architecture; None if plain timm cannot load the backbone.
        license: The licence of the weights, as the hub spells it; None if it is not stated.
        sections: Further sections, such as those about the training and the quality.
    """
    front = yaml_text.dump(_front(saved, architecture, license)).strip()
    intro = (
        f"Turns an image into an embedding of {saved.embedding_dim} numbers"
        + (", L2-normalised" if saved.normalize else "")
        + ". Images of the same class have a high cosine similarity. Made with siamkit "
        f"{saved.versions['siamkit']}."
    )
    parts = [
        f"---\n{front}\n---",
        f"# {name}",
        intro,
        *map(str, (_usage(name, saved, architecture), *sections, _model(saved, license))),
    ]
    return "\n\n".join(parts) + "\n"


def for_repo(text: str, name: str, repo: str) -> str:
    """Return the text of a card, changed so that its examples load the network from the hub."""
    for call in ("from_pretrained(", 'create_model("local-dir:'):
        quote = '"' if call.endswith("(") else ""
        text = text.replace(
            f'{call}{quote}{name}"',
            f'{call.replace("local-dir:", HUB)}{quote}{HUB * bool(quote)}{repo}"',
        )
    return re.sub(rf"^# {re.escape(name)}$", f"# {repo.rpartition('/')[2]}", text, flags=re.M)


def base_license(saved: Saved) -> str | None:
    """Return timm's statement of the licence of the weights that training started from, or None."""
    base = _base(saved)
    if base is None or not base.startswith("timm/"):
        return None
    config = timm.get_pretrained_cfg(base.removeprefix("timm/"), allow_unregistered=True)
    return getattr(config, "license", None)


def _base(saved: Saved) -> str | None:
    """Return the hub's name of the weights that training started from, or None."""
    words = saved.weights or ""
    name = words.removeprefix(_PRETRAINED).removeprefix(HUB).partition("@")[0]
    on_hub = words.startswith((f"{_PRETRAINED}timm/", f"{_PRETRAINED}{HUB}"))
    return name if on_hub else None


def _front(saved: Saved, architecture: str | None, license: str | None) -> Mapping[str, object]:
    front: dict[str, object] = {
        "library_name": "siamkit" if architecture is None else "timm",
        "tags": ["siamkit", "image-embeddings", "metric-learning", "image-feature-extraction"],
        "pipeline_tag": "image-feature-extraction",
        "license": license or _UNKNOWN,
    }
    if base := _base(saved):
        front["base_model"] = base
    return front


def _usage(name: str, saved: Saved, architecture: str | None) -> CardSection:
    given = "".join(
        f", {kind}=YOUR_{kind.upper()}"
        for kind, part in (("backbone", saved.backbone), ("head", saved.head))
        if part.kind == "object"
    )
    use = 'print(embedder.embed(["a.jpg"]).shape, embedder.similarity("a.jpg", "b.jpg"))'
    if saved.calibration is not None:
        use = 'print(embedder.verify("a.jpg", "b.jpg").same)'
    lines = [
        "```python\nimport siamkit\n"
        f'embedder = siamkit.Embedder.from_pretrained("{name}"{given})\n{use}\n```'
    ]
    lines += [
        f"{kind.capitalize()} `{part.name}` is a Python object: pass an object of the same class."
        for kind, part in (("backbone", saved.backbone), ("head", saved.head))
        if part.kind == "object"
    ]
    lines += [
        f"Needs the plugin: `pip install {distribution}`."
        for distribution in sorted(
            {
                part.distribution
                for part in (saved.backbone, saved.head)
                if part.kind == "plugin" and part.distribution not in (None, "siamkit")
            }
        )
    ]
    if architecture is not None:
        lines.append(
            f"The backbone alone, `{architecture}` with the trained weights, in plain timm:\n\n"
            "```python\nimport timm\n"
            f'backbone = timm.create_model("local-dir:{name}", pretrained=True, num_classes=0)\n```'
        )
    return CardSection("Use", lines)


def _model(saved: Saved, license: str | None) -> CardSection:
    images = saved.preprocessing
    rows = [
        ("backbone", f"`{saved.backbone.name}`"),
        ("head", f"`{saved.head.name}`"),
        ("embedding", f"{saved.embedding_dim} numbers"),
        ("images", f"{len(images.mean)} channels, {images.size[0]} x {images.size[1]} pixels"),
        ("started from", saved.weights or "not recorded"),
        ("licence", license or "not stated"),
    ]
    if saved.pruning is not None:
        rows.append(("pruned", "yes: `config.json` lists the channels that are left"))
    if saved.int8 is not None:
        rows.append(("int8", "yes: a part of the backbone; it runs on ONNX Runtime"))
    if base := base_license(saved):
        rows.append(("licence of the base weights", base))
    rows += [
        ("versions", ", ".join(f"{name} {version}" for name, version in saved.versions.items())),
        ("fingerprint", f"`{saved.fingerprint}`"),
    ]
    return CardSection("Model", header=("", ""), rows=rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
