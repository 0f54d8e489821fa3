"""The configuration of a run: defaults < preset < file < ``--set`` < flags; later values win.

The sections ``backbone``, ``head``, ``freeze``, ``loss``, ``optimizer`` and ``scheduler`` are
*components*. Each holds a registered name and the options of what is registered under it:
``loss: {name: triplet, margin: 0.3}``, or just ``loss: triplet``. Likewise, ``data: photos`` sets
``data.path``, and ``augment: marks`` within ``data`` sets ``data.augment.preset``. A resolved
config holds every option, checked and with its default filled in. Written to a file and read back,
it gives the same config.
"""

from __future__ import annotations

from siamkit.config.augment import PRESETS, AugmentConfig
from siamkit.config.base import SAMPLE, Component, Section, Values
from siamkit.config.data import DataConfig
from siamkit.config.identity import CHOSEN, FREE, RESUMABLE, decisive, flat, nested
from siamkit.config.layers import (
    Layer,
    joined,
    merge,
    parse_sets,
    preset_file,
    preset_names,
    read_file,
    read_preset,
    whole,
    without,
)
from siamkit.config.resolve import (
    calibration_config,
    is_resolved,
    json_schema,
    named_head,
    options_of,
    resolve,
)
from siamkit.config.sections import (
    AUTO,
    CLOSED_FORM,
    COMPONENT_MODELS,
    COMPONENTS,
    DEFAULT_RATE,
    ENTRY_MODELS,
    KEPT_KEYS,
    LOCAL_DIR,
    MAIN_KEYS,
    BackboneConfig,
    CalibrationConfig,
    EngineConfig,
    FreezeConfig,
    HeadConfig,
    LossConfig,
    OptimizerConfig,
    RunConfig,
    SchedulerConfig,
    TrainConfig,
)

__all__ = [
    "AUTO",
    "CHOSEN",
    "CLOSED_FORM",
    "COMPONENTS",
    "COMPONENT_MODELS",
    "DEFAULT_RATE",
    "ENTRY_MODELS",
    "FREE",
    "KEPT_KEYS",
    "LOCAL_DIR",
    "MAIN_KEYS",
    "PRESETS",
    "RESUMABLE",
    "SAMPLE",
    "AugmentConfig",
    "BackboneConfig",
    "CalibrationConfig",
    "Component",
    "DataConfig",
    "EngineConfig",
    "FreezeConfig",
    "HeadConfig",
    "Layer",
    "LossConfig",
    "OptimizerConfig",
    "RunConfig",
    "SchedulerConfig",
    "Section",
    "TrainConfig",
    "Values",
    "calibration_config",
    "decisive",
    "flat",
    "is_resolved",
    "joined",
    "json_schema",
    "merge",
    "named_head",
    "nested",
    "options_of",
    "parse_sets",
    "preset_file",
    "preset_names",
    "read_file",
    "read_preset",
    "resolve",
    "whole",
    "without",
]
