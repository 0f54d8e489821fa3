"""The computed head: whether a run computes its head anew after each epoch, or trains it.

A whitening amplifies directions in which the features of one class hardly differ, so training
through a head in closed form soon spoils the features. The backbone's own features are a steadier
target: they train without a head, and the closed form of the result is better.
"""

from __future__ import annotations

from siamkit.config import RunConfig
from siamkit.errors import ConfigError, PluginError
from siamkit.freezing.schedule import FreezeSchedule
from siamkit.interfaces import HEAD, FreezePolicy
from siamkit.model.siamese import SiameseNet
from siamkit.spelling import setting


def is_computed(
    config: RunConfig, net: SiameseNet, policy: FreezePolicy, *, has_classes: bool
) -> bool:
    """Return whether a run computes its head anew after each epoch, instead of training it.

    Args:
        config: A resolved config, with a named head.
        net: The network, whose head has its parameters.
        policy: The freeze policy.
        has_classes: Whether the training images have labels.

    Raises:
        ConfigError: The config demands it, and it is not possible; the message says why.
    """
    wanted, epochs = config.head.trained, config.train.epochs
    if wanted or not epochs:
        return False
    why = None
    if net.head.closed_form is None:
        why = f"head {config.head.name!r} has no closed form"
    elif not has_classes:
        why = "the data is pairs or triplets, and a closed form needs classes"
    else:
        body = tuple(stage for stage in net.stages() if stage.name != HEAD)
        schedule = FreezeSchedule(policy, body, epochs, config.train.monitored, config.freeze.name)
        try:
            schedule.require_trainable(schedule.phases())
        except (ConfigError, PluginError):  # a policy may name the head's stage
            why = f"policy {config.freeze.name!r} does not train the backbone in every epoch"
    if why is not None and wanted is False:
        raise ConfigError(
            f"the head cannot be computed anew after each epoch: {why}",
            where="head.trained", got=False, hint=f"leave out {setting('head.trained')}",
        )  # fmt: skip
    return why is None
