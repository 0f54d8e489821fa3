"""The scorer: held-out metrics before training, after each epoch, and of the best epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor, nn

from siamkit.batches import BatchSource
from siamkit.engine.blank import SuffixError
from siamkit.engine.identity import prefix_fingerprints
from siamkit.engine.kernels import Kernel, batch_size, choose
from siamkit.engine.phase import Execution
from siamkit.engine.settings import Emit
from siamkit.engine.sources import LiveSource
from siamkit.engine.timing import load_first
from siamkit.errors import ConfigError, NoMemoryError, NonFiniteError, is_out_of_memory
from siamkit.evaluation.collapse import collapse
from siamkit.freezing.proof import fingerprints
from siamkit.model.trace import evaluating
from siamkit.spelling import setting
from siamkit.training.build import Setup
from siamkit.training.free_memory import release_unused
from siamkit.training.loading import PROBE, SOLVE, VAL, LoadedSet
from siamkit.training.state import Metrics, RunState
from siamkit.training.untrained import untrained_cause
from siamkit.training.validation import MOST, Embeddings, evaluator_of
from siamkit.words import plural

NAMES = {VAL: "validation", PROBE: "training", SOLVE: "training"}
"""The names of image sets in messages."""

_MANY = 512
"""The number of images from which a kernel pays off for one evaluation of a whole network."""

_PROJECTED = 4096
"""The number of feature vectors that the head maps at once."""


class Scorer:
    """Scores the network on the image sets of a run.

    A forward pass has as many images as in training at most. If the memory runs out, it has fewer
    from then on.

    Args:
        setup: The parts of the run.
        sets: The image sets of the run.
        state: The run's state.
        emit: Called with notices.

    Attributes:
        remarks: The problem of the last embeddings of each image set, or None, by the set's name;
            see :func:`siamkit.evaluation.collapse.collapse`.
        uncached: The image sets of which the user knows that they are embedded without the cache.
    """

    def __init__(
        self, setup: Setup, sets: Mapping[str, LoadedSet], state: RunState, emit: Emit
    ) -> None:
        self.setup, self.sets, self.state, self.emit = setup, sets, state, emit
        self.remarks: dict[str, str | None] = {}
        self.uncached: set[str] = set()
        self._evaluators = {
            name: evaluator_of(setup, part.images) for name, part in sets.items() if not part.trains
        }

    def trained(self, execution: Execution, name: str) -> Metrics:
        """Return the current network's metrics on an image set, computed by ``execution``."""
        with evaluating(self.setup.net):
            embeddings = self._embed(name, execution.sources[name], execution.forward)
        self.remarks[name] = collapse(embeddings)
        return self.score(name, embeddings)

    def read(self, name: str, execution: Execution, *, live: bool = False) -> Embeddings:
        """Return what the head reads of an image set ``[N, D]``, computed by ``execution``.

        Args:
            name: The image set.
            execution: The execution of the phase.
            live: Whether to run the network even if the execution has features.
        """
        if execution.gives_features and not live:
            return self._embed(name, execution.sources[name], _as_it_is)
        return self.embedded(name, self.setup.net.extractor, execution.decision.kernel)

    def read_now(self, name: str, execution: Execution) -> Embeddings:
        """Return what the head reads of an image set ``[N, D]``, at any time in a phase.

        Args:
            name: The image set, one of the sources of ``execution``.
            execution: The execution of the current phase.
        """
        with evaluating(self.setup.net), self.setup.net.reading():
            return self._embed(name, execution.sources[name], execution.forward)

    def untrained(self, name: str, read: Embeddings) -> tuple[Metrics, Metrics]:
        """Return the metrics of the backbone's features, and those of the network.

        Args:
            name: The image set.
            read: What the head reads of each image of the set ``[N, D]``.
        """
        net, given = self.setup.net, torch.from_numpy(read)
        with evaluating(net):
            parts = [net.project(p.to(self.setup.device)).cpu() for p in given.split(_PROJECTED)]
        embeddings = torch.cat(parts)
        own = net.own_features(given)
        return self.score(name, own.numpy()), self.score(name, embeddings.numpy())

    def score(self, name: str, embeddings: Embeddings) -> Metrics:
        """Return the metrics of the embeddings of an image set, in its order."""
        return self._evaluators[name].score(embeddings)

    def from_rows(self, name: str, execution: Execution | None) -> Embeddings | None:
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
        if not self.is_intact(execution):
            return None
        with evaluating(self.setup.net), suppress(SuffixError):
            return self._embed(name, execution.sources[name], execution.forward)
        return None

    def is_intact(self, execution: Execution) -> bool:
        """Return whether the network's frozen part is the one that an execution's rows are of."""
        assert execution.parts is not None, "rows are those of a cut network"
        expected = prefix_fingerprints(self.setup.controller, execution.parts.cut)
        return fingerprints(self.setup.net, expected) == expected

    def embedded(self, name: str, module: nn.Module, kernel: str | None) -> Embeddings:
        """Return the outputs ``[N, E]`` of a part of the network for an image set, in its order.

        Args:
            name: The image set.
            module: Maps images to the vectors to score.
            kernel: The name of the kernel that the phase chose, which is used for large image sets;
                None for plain PyTorch. No new choice is made: another timing could choose another
                kernel, and a resumed run would then not be bit-equal.
        """
        part, rows = self.sets[name], batch_size(self.setup.device)
        with evaluating(self.setup.net):
            if self._bound >= rows:  # a kernel always computes as many rows
                try:
                    source = LiveSource(part.source, self._kernel(name, module, kernel))
                    return self._evaluated(name, source, _as_it_is, self._most)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                self._halve(name, rows)
            return self._embed(name, part.source, module)

    def _kernel(self, name: str, module: nn.Module, wanted: str | None) -> Kernel:
        part = self.sets[name]
        count = len(part.images)
        images = load_first(part, self.setup.net).images
        precision = self.setup.config.train.precision
        run = partial(choose, module, images, count, precision=precision)
        try:
            return run(wanted=wanted if wanted and count >= _MANY else "eager").kernel
        except ConfigError:  # a kernel for the prefix may not work for the whole network
            return run(wanted="eager").kernel

    def _embed(
        self, name: str, source: BatchSource, forward: Callable[[Tensor], Tensor]
    ) -> Embeddings:
        """Return the embeddings of an image set, in smaller passes if the memory runs out."""
        while True:
            size = self._most
            try:
                return self._evaluated(name, source, forward, size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._halve(name, min(size, len(self.sets[name].images)))

    def _evaluated(
        self, name: str, source: BatchSource, forward: Callable[[Tensor], Tensor], size: int
    ) -> Embeddings:
        """Return the embeddings of an image set; an error says which part is not finite."""
        try:
            return self._evaluators[name].embed(source, forward, size)
        except NonFiniteError as error:
            cause = untrained_cause(self.setup, self.state, self._batches(name, size))
            if cause is None:
                raise
            raise NonFiniteError(error.what, hint=cause) from None

    def _batches(self, name: str, size: int) -> Iterator[Tensor]:
        """Yield the images ``[N, C, H, W]`` of a set, as they are evaluated."""
        part = self.sets[name]
        for start in range(0, len(part), size):
            places = range(start, min(start + size, len(part)))
            yield torch.stack([part.example(place, 0) for place in places])

    @property
    def _bound(self) -> int:
        """The bound that the memory sets to the images in a forward pass."""
        bounds = self.state.largest_pass, self.state.largest_scored
        return min((n for n in bounds if n is not None), default=MOST)

    @property
    def _most(self) -> int:
        return min(MOST, self.setup.config.train.pass_size, self._bound)

    def _halve(self, name: str, size: int) -> None:
        """Halve the size of forward passes from now on, and emit a notice.

        Raises:
            ResourceError: They have one image already.
        """
        self.sets[name].source.close()
        release_unused(self.setup.device)
        where = f"where the {NAMES.get(name, name)} images are embedded"
        if size == 1:
            raise NoMemoryError(
                f"out of memory {where}, with one image per forward pass",
                hint=f"use smaller images ({setting('data.image_size')}) or a smaller backbone",
            )
        self.state.largest_scored = -(-size // 2)
        text = f"out of memory {where}, with {size} images per forward pass: from here on, such a "
        text += f"pass has at most {plural(self.state.largest_scored, 'image')}"
        self.emit("notice", {"text": text})


def _as_it_is(outputs: Tensor) -> Tensor:
    return outputs
