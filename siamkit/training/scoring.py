"""The scorer: held-out metrics before training, after each epoch, and of the best epoch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from torch import Tensor, nn

from siamkit.engine.blank import SuffixError
from siamkit.engine.identity import prefix_fingerprints
from siamkit.engine.kernels import choose
from siamkit.engine.phase import Execution
from siamkit.engine.sources import LiveSource
from siamkit.engine.timing import load_first
from siamkit.errors import ConfigError
from siamkit.evaluation.collapse import collapse
from siamkit.freezing.proof import fingerprints
from siamkit.model.trace import evaluating
from siamkit.training.build import Setup
from siamkit.training.loading import VAL, LoadedSet
from siamkit.training.state import Metrics
from siamkit.training.validation import evaluator_of

_MANY = 512
"""The number of images from which a kernel pays off for one evaluation of a whole network."""


class Scorer:
    """Scores the network on the image sets of a run.

    Args:
        setup: The parts of the run.
        sets: The image sets of the run.

    Attributes:
        remarks: The problem of the last embeddings of each image set, or None, by the set's name;
            see :func:`siamkit.evaluation.collapse.collapse`.
    """

    def __init__(self, setup: Setup, sets: Mapping[str, LoadedSet]) -> None:
        self.setup, self.sets = setup, sets
        self.remarks: dict[str, str | None] = {}
        self._evaluators = {
            name: evaluator_of(setup, part.images) for name, part in sets.items() if not part.trains
        }

    def trained(self, execution: Execution, name: str) -> Metrics:
        """Return the current network's metrics on an image set, computed by ``execution``."""
        with evaluating(self.setup.net):
            embeddings = self._evaluators[name].embed(execution.sources[name], execution.forward)
        self.remarks[name] = collapse(embeddings)
        return self.score(name, embeddings)

    def untrained(self, execution: Execution) -> Metrics:
        """Return the validation metrics of the backbone's features, without the head."""
        if execution.gives_features:
            return self._evaluators[VAL].metrics(execution.sources[VAL], _as_it_is)
        return self.fixed(VAL, self.setup.net.backbone, execution.decision.kernel)

    def fixed(self, name: str, module: nn.Module, kernel: str | None) -> Metrics:
        """Return the metrics of a module's output. The module must not change during the call.

        The arguments are those of :meth:`embedded`.
        """
        return self.score(name, self.embedded(name, module, kernel))

    def score(self, name: str, embeddings: Tensor) -> Metrics:
        """Return the metrics of the embeddings of an image set, in its order."""
        return self._evaluators[name].score(embeddings)

    def from_rows(self, name: str, execution: Execution | None) -> Tensor | None:
        """Return the network's embeddings of an image set, computed from cached features.

        Args:
            name: The image set.
            execution: The last execution; None if no phase was entered.

        Returns:
            The embeddings ``[N, E]``. None if the cache does not hold the image set, if the cached
            features are rounded, or if the network's frozen part is not the one that computed them.
        """
        if execution is None or execution.parts is None or name not in execution.sources:
            return None
        if not execution.decision.keeps_exact_rows:
            return None
        net = self.setup.net
        expected = prefix_fingerprints(self.setup.controller, execution.parts.cut)
        if fingerprints(net, expected) != expected:
            return None
        with evaluating(net), suppress(SuffixError):
            return self._evaluators[name].embed(execution.sources[name], execution.forward)
        return None

    def embedded(self, name: str, module: nn.Module, kernel: str | None) -> Tensor:
        """Return the outputs ``[N, E]`` of a part of the network for an image set, in its order.

        Args:
            name: The image set.
            module: Maps images to the vectors to score.
            kernel: The name of the kernel that the phase chose, which is used for large image sets;
                None for plain PyTorch. No new choice is made: another timing could choose another
                kernel, and a resumed run would then not be bit-equal.
        """
        part = self.sets[name]
        count = len(part.images)
        images = load_first(part, self.setup.net).images
        precision = self.setup.config.train.precision
        run = partial(choose, module, images, count, precision=precision)
        with evaluating(self.setup.net):
            try:
                choice = run(wanted=kernel if kernel and count >= _MANY else "eager")
            except ConfigError:  # a kernel for the prefix may not work for the whole network
                choice = run(wanted="eager")
            source = LiveSource(part.source, choice.kernel)
            return self._evaluators[name].embed(source, _as_it_is)


def _as_it_is(outputs: Tensor) -> Tensor:
    return outputs
