"""The flags that describe a run, shared by ``train`` and the commands that ask about a training."""

from __future__ import annotations

import copy
import functools
import inspect
import typing
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from siamkit.cli import completion
from siamkit.cli.cores import use
from siamkit.cli.flag_keys import KEYS, dashed, flag_of
from siamkit.cli.imports import heavy_imports
from siamkit.cli.options import DATA, DEVICES, LABEL_COLUMN, PATH_COLUMN, ROOT, THREADS
from siamkit.errors import ConfigError

if TYPE_CHECKING:
    from siamkit.config import Layer, RunConfig

AUTO = "auto"
"""The value of ``--augment`` with which ``train`` chooses the augmentation."""

_MODEL, _TRAINING, _DATA, _CONFIG = "Model", "Training", "Data", "Configuration"


@dataclass(frozen=True)
class RunFlags:
    """The values of the flags; None for a flag that was not given."""

    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help=f"{DATA} Default: sample.",
            show_default=False,
        ),
    ] = None
    backbone: Annotated[
        str | None,
        typer.Option(
            help="The pretrained network: see 'siamkit list backbones'. timm:NAME takes any timm "
            "model. Default: resnet50.",
            autocompletion=completion.entries("backbone"),
            rich_help_panel=_MODEL,
        ),
    ] = None
    pretrained: Annotated[
        bool | None,
        typer.Option(
            "--pretrained/--no-pretrained",
            help="Require pretrained weights, or start from random weights. "
            "Default: pretrained, if the backbone has weights.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Load the backbone's weights from FILE: .safetensors or .pth.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    head: Annotated[
        str | None,
        typer.Option(
            help="The projector from features to the embedding: see 'siamkit list heads'. "
            "Default: auto. That is multistage, or residual where it cannot be computed.",
            autocompletion=completion.entries("head"),
            rich_help_panel=_MODEL,
        ),
    ] = None
    image_size: Annotated[
        int | None,
        typer.Option(
            help="Height and width of the input, in pixels. Default: the backbone's own.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    in_chans: Annotated[
        int | None,
        typer.Option(
            help="Channels per image: 1 grey, 3 RGB, 4 RGBA. Default: 3.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    freeze_policy: Annotated[
        str | None,
        typer.Option(
            help="Which stages train in which epochs: see 'siamkit list freeze-policies'. "
            "Default: stages.",
            autocompletion=completion.entries("freeze"),
            rich_help_panel=_TRAINING,
        ),
    ] = None
    loss: Annotated[
        str | None,
        typer.Option(
            help="The loss: see 'siamkit list losses'. Default: multi-similarity.",
            autocompletion=completion.entries("loss"),
            rich_help_panel=_TRAINING,
        ),
    ] = None
    optimizer: Annotated[
        str | None,
        typer.Option(
            help="The optimizer: see 'siamkit list optimizers'. Default: adamw.",
            autocompletion=completion.entries("optimizer"),
            rich_help_panel=_TRAINING,
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="The learning-rate schedule: see 'siamkit list schedulers'. Default: cosine.",
            autocompletion=completion.entries("scheduler"),
            rich_help_panel=_TRAINING,
        ),
    ] = None
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the training images; 0: compute the head in closed form. "
            "Default: 12.",
            rich_help_panel=_TRAINING,
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images per optimizer step. Default: 64.", rich_help_panel=_TRAINING),
    ] = None
    micro_batch: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES|auto",
            help="Images per forward pass, so that a large batch fits into the memory. auto: as "
            "many as fit. Default: the whole batch.",
            autocompletion=completion.choices("auto"),
            rich_help_panel=_TRAINING,
        ),
    ] = None
    accumulation: Annotated[
        str | None,
        typer.Option(
            metavar="exact|naive",
            help="How the micro-batches of a step are combined. exact: one loss over the whole "
            "batch. naive: a loss for each micro-batch. Default: exact.",
            autocompletion=completion.choices("exact", "naive"),
            rich_help_panel=_TRAINING,
        ),
    ] = None
    lr: Annotated[
        str | None,
        typer.Option(
            "--lr",
            metavar="RATE|auto",
            help="Learning rate of the head; freeze policies scale it for the other stages. auto: "
            "find one first, as 'siamkit lr-find' does. Default: 0.002.",
            autocompletion=completion.choices("auto"),
            rich_help_panel=_TRAINING,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of all random draws: held-out classes, batches, views, initial weights. "
            "Default: 0.",
            rich_help_panel=_TRAINING,
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            help=f"{DEVICES} Default: auto.",
            autocompletion=completion.choices("auto", "cpu", "cuda", "mps"),
            rich_help_panel=_TRAINING,
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=1024, callback=use, help=THREADS, rich_help_panel=_TRAINING),
    ] = None
    checkpoint_every: Annotated[
        str | None,
        typer.Option(
            metavar="TIME|STEPS",
            help="Also save within epochs, each time this much has passed, such as 30s, 5m, 1h or "
            "200steps. Default: save only after each epoch.",
            rich_help_panel=_TRAINING,
        ),
    ] = None
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="all|slim",
            help="What to keep of the finished run. all: the checkpoints, with the optimizer's "
            "state. slim: only the best epoch's network. Default: all.",
            autocompletion=completion.choices("all", "slim"),
            rich_help_panel=_TRAINING,
        ),
    ] = None
    augment: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET",
            help="The kind of images, which decides how training images may be changed: objects, "
            "faces, documents, marks, medical, or none for no changes. 'siamkit data show' draws "
            "the result. 'train' takes auto too, which is --recipe augment. Default: objects.",
            autocompletion=completion.choices(
                "objects", "faces", "documents", "marks", "medical", "none", "auto"
            ),
            rich_help_panel=_TRAINING,
        ),
    ] = None
    views: Annotated[
        int | None,
        typer.Option(
            help="Augmented views per image; each epoch uses the next view in turn. Default: 8 "
            "while a part of the network is frozen, else a new view in every epoch.",
            rich_help_panel=_TRAINING,
        ),
    ] = None
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="auto|off|always",
            help="Cache the output of the network's frozen part on disk. auto: if that saves "
            "time. Default: auto.",
            autocompletion=completion.choices("auto", "off", "always"),
            rich_help_panel=_TRAINING,
        ),
    ] = None
    fast: Annotated[
        bool | None,
        typer.Option(
            "--fast",
            help="Compute the part that stays frozen in int8, during and after training (CPU "
            "only); the same as --set engine.prefix=int8.",
            rich_help_panel=_TRAINING,
        ),
    ] = None
    far: Annotated[
        float | None,
        typer.Option(
            help="Fit the run's verification threshold to this false accept rate, such as 1e-3. "
            "Default: to equal false accept and false reject rates.",
            rich_help_panel=_TRAINING,
        ),
    ] = None
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help=ROOT, rich_help_panel=_DATA),
    ] = None
    path_column: Annotated[
        str | None, typer.Option(metavar="NAME", help=PATH_COLUMN, rich_help_panel=_DATA)
    ] = None
    label_column: Annotated[
        str | None, typer.Option(metavar="NAME", help=LABEL_COLUMN, rich_help_panel=_DATA)
    ] = None
    run_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the run to DIR. Default: runs/<time>-<backbone>-<policy>.",
            rich_help_panel=_DATA,
        ),
    ] = None
    report: Annotated[
        bool | None,
        typer.Option(
            "--report/--no-report",
            help="Write the run's report.html when training ends. Default: yes.",
            rich_help_panel=_DATA,
        ),
    ] = None
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Send the run's events to this tracker: see 'siamkit list trackers'. Repeatable.",
            autocompletion=completion.entries("track"),
            rich_help_panel=_DATA,
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that decode images. Default: depends on the cores and the images.",
            rich_help_panel=_DATA,
        ),
    ] = None
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Start from a configuration that siamkit contains. 'classic' is the recipe of "
            "most tutorials.",
            autocompletion=completion.presets,
            rich_help_panel=_CONFIG,
        ),
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="Read a YAML file, such as RUN/config.yaml. Precedence: defaults < preset < file "
            "< --set < flags.",
            rich_help_panel=_CONFIG,
        ),
    ] = None
    set: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set any configuration key, such as loss.margin=0.3. Repeatable; the last "
            "value of a key counts.",
            autocompletion=completion.assignments,
            rich_help_panel=_CONFIG,
        ),
    ] = None

    def given(self) -> list[str]:
        """Return the flags that were given, as the user types them, such as ``--batch-size``."""
        names = []
        for flag in fields(self):
            value = getattr(self, flag.name)
            if value is None or value == []:
                continue
            no = "no-" if value is False else ""
            names.append("DATA" if flag.name == "data" else f"--{no}{dashed(flag.name)}")
        return names

    def layers(self) -> list[Layer]:
        """Return the layers of configuration, lowest first: preset, file, ``--set``, flags.

        ``--fast`` is a layer of its own, so that errors name it.

        Raises:
            ConfigError: The file cannot be read, a ``--set`` is not an assignment, or a flag works
                only with another command.
        """
        from siamkit import config

        if self.augment == AUTO:
            raise ConfigError(
                "only 'siamkit train' can choose the augmentation",
                where="--augment",
                got=AUTO,
                hint="'siamkit compare DATA --augment objects,marks,none' shows all results",
            )
        layers = [] if self.preset is None else [config.read_preset(self.preset)]
        if self.config is not None:
            layers.append(config.read_file(self.config))
        sets = config.parse_sets(self.set or [])
        values: dict[str, Any] = {}
        for name, key in KEYS.items():
            value = getattr(self, name)
            if value is not None and value != []:
                *sections, last = key.split(".")
                inner = values
                for section in sections:
                    inner = inner.setdefault(section, {})
                inner[last] = str(value) if isinstance(value, Path) else value
        if self.far is not None:
            values["calibration"]["target"] = "far"  # overrides the target of a file
        layers += [sets, config.Layer(values, flag_of)]
        if self.fast:
            layers.append(config.Layer({"engine": {"prefix": "int8"}}, lambda _: "--fast"))
        return layers

    def load(self) -> RunConfig:
        """Return the resolved configuration.

        Raises:
            ConfigError: A key or a name is unknown, or a value is out of range.
            PluginError: Two plugins claim one of the names.
        """
        with heavy_imports():
            from siamkit import api

        return api.load_config(*self.layers())


def run_flags(verb: Callable[..., None], *, refused: Collection[str] = ()) -> Callable[..., None]:
    """Give ``verb(flags: RunFlags, ...)`` a parameter for each field of :class:`RunFlags`.

    typer reads a command's parameters from its signature, so the fields are added to the signature.

    Args:
        verb: The command.
        refused: The fields that the command refuses. They are parsed, so that it can say why, but
            its help does not list them.
    """
    own = inspect.signature(verb, eval_str=True)
    hints = typing.get_type_hints(RunFlags, include_extras=True)
    hints |= {name: _hidden(hints[name]) for name in refused}
    shared = [
        inspect.Parameter(
            flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hints[flag.name]
        )
        for flag in fields(RunFlags)
    ]
    others = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in own.parameters.items()
        if name != "flags"
    ]

    @functools.wraps(verb)
    def command(**values: Any) -> None:
        flags = RunFlags(**{flag.name: values.pop(flag.name) for flag in fields(RunFlags)})
        verb(flags, **values)

    parameters = [*shared, *others]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _hidden(annotation: Any) -> Any:
    """Return the annotation of a flag that help does not list."""
    kind, option = typing.get_args(annotation)
    option = copy.copy(option)
    option.hidden = True
    return Annotated[kind, option]
