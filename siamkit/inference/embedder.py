"""The embedder: runs a trained network on images.

A trained network is a fixed function, like the frozen prefix of a network in training. So the
embedder runs the network in the same way: with the fastest kernel that pays off for the number of
images, after a check of the kernel on real images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, cast, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from siamkit.checks import whole_number
from siamkit.data.images import ImageSet, Sample
from siamkit.data.inputs import Paths, is_file, samples_of
from siamkit.data.loader import Loader, ViewDataset, default_workers
from siamkit.data.views import EvalView
from siamkit.engine.kernels import KERNELS, Choice, Precision, choose, kernel_class, run
from siamkit.errors import CheckpointError, ConfigError
from siamkit.guard import attributing
from siamkit.model.device import place, resolve_device
from siamkit.model.fingerprint import mark
from siamkit.model.pretrained.identity import fingerprint_of
from siamkit.model.pretrained.load import load_net
from siamkit.model.settings import each_with_usual_settings, usual_settings
from siamkit.model.siamese import SiameseNet, plugins_of
from siamkit.model.trace import evaluating
from siamkit.portable.calibration import Calibration, Verdict
from siamkit.portable.cosine import cosine, directions, require_direction, require_finite
from siamkit.portable.decode import Decoding, decode, prepare
from siamkit.portable.embedding import BATCH_SIZE
from siamkit.portable.inputs import images_of, of_both, require_one_each, require_prepared, sides_of
from siamkit.portable.pictures import picture_of
from siamkit.portable.preprocessing import MAX_PIXELS, Preprocessing
from siamkit.showing import Bar, TextRepr, shown
from siamkit.spelling import command

ImageLike = str | Path | Image.Image | np.ndarray[Any, Any]
Images = ImageLike | Iterable[ImageLike] | Sequence[Sample] | Tensor

_BATCHES_AT_ONCE = 256  # the loader gets the image indices of this many batches at a time

ResultT = TypeVar("ResultT", covariant=True)


class Searchable(Protocol[ResultT]):
    """A collection that can be searched by embeddings, such as a :class:`siamkit.Index`."""

    def require_model(self, fingerprint: str) -> None:
        """Check that the network with this fingerprint made the embeddings of the collection."""

    def search(self, embeddings: Tensor, k: int) -> ResultT:
        """Return the k entries that are most similar to each of the embeddings ``[Q, E]``."""


@dataclass(frozen=True)
class Embedded:
    """Image files, and their embeddings.

    Attributes:
        paths: The N files.
        embeddings: The embeddings ``[N, E]`` of the files, float32, on the CPU.
    """

    paths: tuple[Path, ...]
    embeddings: Tensor


class Embedder(TextRepr):
    """A trained network that turns images into embeddings, and verifies pairs of images.

    The threshold, the kernel and the fingerprint of an embedder are valid only for the network as
    it was when the embedder was made. So the network always runs in eval mode, even after
    ``net.train()``; afterwards it has its own mode again. Once a tensor of the network has changed
    (by a training step, other weights or another device), or ``net.preprocessing`` or
    ``net.normalize``, the embedder refuses to run the network.
    An embedder can be copied and pickled; a copy chooses a kernel again.

    Args:
        net: The network. Its mode and its parameters' ``requires_grad`` stay as they are.
        kernel: The kernel that runs the network: a value of ``engine.prefix``, or ``auto`` to
            measure which one is fastest.
        precision: The numeric type on a GPU.
        workers: The number of processes that decode images; None to choose it by the number of
            cores and images.
        calibration: The calibration for :meth:`verify`, or the error that :meth:`verify` raises;
            None if there is no calibration.
        max_pixels: The most pixels that an image may have. Larger images are refused before they
            are decoded.

    Raises:
        ConfigError: ``net`` is not a :class:`siamkit.SiameseNet`, or another argument is wrong.
    """

    def __init__(
        self,
        net: SiameseNet,
        *,
        kernel: str = "auto",
        precision: Precision = "fp32",
        workers: int | None = None,
        calibration: Calibration | CheckpointError | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if not isinstance(net, SiameseNet):
            raise ConfigError(
                "is not a siamkit.SiameseNet",
                where="net",
                got=type(net),
                hint="siamkit.create_model(MODULE) makes one; "
                "siamkit.load_embedder(RUN) returns the embedder of a run",
            )
        _require_one_of(kernel, "kernel", ("auto", *KERNELS))
        _require_one_of(precision, "precision", get_args(Precision))
        self.net = net
        self._wanted, self._precision = kernel, precision
        self._workers = None if workers is None else whole_number(workers, "workers", least=0)
        self._device = next((p.device for p in net.parameters()), torch.device("cpu"))
        self._choice: Choice | None = None
        self._considered = 0
        self._calibration = calibration
        self._max_pixels = whole_number(max_pixels, "max_pixels", least=1)
        self._mark = _mark_of(self.net)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy: without the kernel, which may hold compiled code."""
        self._require_unchanged()
        return {**vars(self), "_choice": None, "_considered": 0, "_mark": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._mark = _mark_of(self.net)

    @classmethod
    @usual_settings()
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str = "auto",
        kernel: str = "auto",
        workers: int | None = None,
        backbone: nn.Module | None = None,
        head: nn.Module | None = None,
    ) -> Self:
        """Return an embedder with a saved network, and with the threshold if one was saved.

        Args:
            folder: A folder that ``save_pretrained`` wrote or ``siamkit.export`` wrote for torch or
                timm, or ``hf-hub:ORG/NAME`` for a network on the hub.
            device: The device to run on: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto`` to use
                a GPU if there is one.
            kernel: The kernel that runs the network: a value of ``engine.prefix``, or ``auto`` to
                measure which one is fastest.
            workers: The number of processes that decode images; None to choose it by the number of
                cores and images.
            backbone: A module to load the backbone's tensors into. It is needed if the saved
                network's backbone was a Python object, which siamkit cannot build from a name.
            head: The same for the head.

        Raises:
            ConfigError: There is no such folder or device, or ``backbone`` or ``head`` is needed
                but not given.
            CheckpointError: A file is damaged, a plugin is missing, or the rebuilt network's output
                differs from the saved network's.
        """
        chosen = resolve_device(device)
        loaded = load_net(folder, backbone=backbone, head=head)
        kept, where = loaded.folder.saved.calibration, str(loaded.folder.path)
        net = place(loaded.net, chosen)
        calibration = None if kept is None else Calibration.from_json(kept, where)
        export = loaded.folder.export
        return cls(
            net,
            kernel=kernel,
            workers=workers,
            calibration=calibration,
            max_pixels=MAX_PIXELS if export is None else export.images.max_pixels,
        )

    def __repr__(self) -> str:
        """Return a description with the network, the kernel and the threshold."""
        kernel = self._wanted if self._choice is None else self._choice.kernel.name
        if isinstance(self._calibration, Calibration):
            verifies = f"same at a similarity of {self._calibration.threshold:.4f} or more"
        else:
            verifies = "no threshold, so verify() is unavailable"
        about = repr(self.net).partition(": ")[2]
        return f"Embedder: {about}\n  on {self._device}, kernel {kernel}; {verifies}"

    @property
    def calibration(self) -> Calibration:
        """The calibration of the network: the threshold, and the map from scores to probabilities.

        Raises:
            CheckpointError: The calibration is missing or damaged. The message says how to get one.
        """
        if isinstance(self._calibration, CheckpointError):
            # A new error: a raised one refers to the images of its callers, as long as it lives.
            raise copy(self._calibration)
        if self._calibration is None:
            raise CheckpointError(
                "the embedder has no threshold",
                hint=f"run {command('calibrate', 'RUN')}, then load the embedder from the run",
            )
        return self._calibration

    @property
    def preprocessing(self) -> Preprocessing:
        """How decoded images are prepared."""
        return self.net.preprocessing

    @property
    def decoding(self) -> Decoding:
        """How the embedder decodes image files."""
        return Decoding.of(self.net.preprocessing, self._max_pixels)

    @property
    def embedding_dim(self) -> int:
        """The width E of the embeddings."""
        return self.net.embedding_dim

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of the network's tensors, its preprocessing, and whether it normalises.

        Embeddings can only be compared if embedders with the same fingerprint made them.

        Raises:
            ConfigError: The network has changed since the embedder was made.
        """
        self._require_unchanged()
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint_of(self.net)

    def _require_unchanged(self) -> None:
        """Check that the network is as it was: its tensors, preprocessing and normalisation.

        Raises:
            ConfigError: It has changed.
        """
        if _mark_of(self.net) != self._mark:
            raise ConfigError(
                "the network changed since the embedder was made, but its threshold, its kernel "
                "and its fingerprint belong to the network as it was",
                where="net",
                hint="make a new embedder: siamkit.Embedder(NET), or siamkit.load_embedder(RUN)",
            )

    @property
    def numerics(self) -> str:
        """The kind of device and the precision. Embeddings of one kind are equal up to rounding."""
        return kernel_class(self._device, self._precision)

    @property
    def kernel_name(self) -> str | None:
        """The name of the kernel in use; None before the first image."""
        return None if self._choice is None else self._choice.kernel.name

    @property
    def choice(self) -> Choice | None:
        """The kernel in use, and the measurements that chose it; None before the first image."""
        return self._choice

    @usual_settings()
    def embed(self, images: Images, *, progress: bool | None = None) -> Tensor:
        """Return the embeddings ``[N, E]`` of images, float32, on the CPU.

        Args:
            images: The images, in one of these forms. Files: a folder (its images at any depth,
                sorted by path), a file, or several files. Images in memory, which are prepared like
                files, but decoded whole where a large JPEG file is decoded at a fraction of its
                size: one or several Pillow images or uint8 arrays ``[H, W, C]``, a uint8 array
                ``[N, H, W, C]``, or a uint8 tensor ``[N, C, H, W]``. Prepared images: a float
                tensor ``[N, C, H, W]`` that was prepared according to ``net.preprocessing``. An
                iterator is read to its end.
            progress: Whether to show a progress bar; None for only in a terminal or a notebook.

        Raises:
            DataError: An image is missing, cannot be decoded, or has a wrong shape. The message
                names the image.
            NonFiniteError: An embedding is NaN or infinite. The message names the image.
        """
        parts, total = self._parts(images_of(images, self.embedding_dim))
        embeddings: list[Tensor] = []
        with Bar("embed", shown(progress)) as bar:
            for part in parts:
                embeddings.append(part)
                bar(sum(map(len, embeddings)), total)
        return torch.cat(embeddings) if embeddings else torch.empty(0, self.embedding_dim)

    def _parts(self, images: Tensor | list[Any] | Paths) -> tuple[Iterator[Tensor], int]:
        """Return the embeddings of images, part by part, and the number of all images."""
        if isinstance(images, Tensor):
            return self._tensors(images), len(images)
        if isinstance(images, list) and any(not is_file(image) for image in images):
            return self._opened(images), len(images)
        samples = samples_of(cast("Paths", images))
        return (part.embeddings for part in self.stream(samples)), len(samples)

    @usual_settings()
    def similarity(self, a: Images, b: Images) -> Tensor:
        """Return the cosine similarities ``[A, B]`` of every item of ``a`` with every one of ``b``.

        Similarities are in [-1, 1]. An embedding of zeros has a similarity of 0 with every image.

        Args:
            a: Images as for :meth:`embed`, or embeddings ``[A, E]``.
            b: Images as for :meth:`embed`, or embeddings ``[B, E]``.

        Raises:
            SiamkitError: As for :meth:`embed`.
        """
        one, other = of_both(self._vectors, sides_of(a, b, self.embedding_dim))
        return torch.from_numpy(cosine(directions(one) @ directions(other).T))

    @usual_settings()
    def verify(self, a: Images, b: Images) -> Verdict:
        """Decide whether two images show the same class.

        Args:
            a: One image as for :meth:`embed`, or its embedding ``[1, E]``.
            b: The other image, or its embedding ``[1, E]``.

        Raises:
            CheckpointError: The network has no threshold. The message says how to get one.
            DataError: ``a`` or ``b`` is not exactly one image, an embedding consists of zeros, or
                as for :meth:`embed`.
        """
        calibration = self.calibration
        sides = sides_of(a, b, self.embedding_dim)
        require_one_each(*sides)
        one, other = of_both(self._vectors, sides)
        require_direction(np.concatenate([one, other]), ("a", "b"))
        return calibration.verdict(float(cosine(directions(one) @ directions(other).T).item()))

    @usual_settings()
    def search(
        self,
        queries: Images,
        gallery: Searchable[ResultT],
        k: int = 10,
    ) -> ResultT:
        """Return the gallery entries most similar to each image.

        Args:
            queries: Images, as for :meth:`embed`.
            gallery: The gallery: a :class:`siamkit.Index`, from ``siamkit.load_index``.
            k: The number of results per query.

        Returns:
            The result of ``gallery.search``, which is :class:`siamkit.Neighbours` for an index.

        Raises:
            CheckpointError: The gallery was made by another network.
            ConfigError: ``gallery`` is not a gallery.
            DataError: A query cannot be read.
        """
        if not hasattr(gallery, "require_model"):
            raise ConfigError(
                "is not a gallery",
                where="gallery",
                got=type(gallery),
                hint="siamkit.load_index(PATH) opens one",
            )
        gallery.require_model(self.fingerprint)
        return gallery.search(self.embed(queries), k)

    def stream(self, images: Paths, *, batch_size: int = BATCH_SIZE) -> Iterator[Embedded]:
        """Yield the embeddings of image files, batch by batch, in bounded memory.

        Memory holds the list of files and a few batches, whatever the number of images.

        Args:
            images: A folder, a file, or several files, as for :meth:`embed`.
            batch_size: The number of images per forward pass, and per result.

        Raises:
            ConfigError: ``batch_size`` is not positive.
            DataError: An image is missing or cannot be decoded. The message names the image.
            NonFiniteError: An embedding is NaN or infinite. The message names the image.
        """
        # Not in the generator, which would check nothing before its first batch.
        size = whole_number(batch_size, "batch_size", least=1)
        return each_with_usual_settings(self._batches(samples_of(images), size))

    def _batches(self, samples: Sequence[Sample], batch_size: int) -> Iterator[Embedded]:
        paths = [sample.path for sample in samples]
        view = EvalView(self.net.preprocessing)
        images_set = ImageSet(tuple(samples), ("",))
        dataset = ViewDataset(images_set, view, seed=0, max_pixels=self._max_pixels)
        workers = self._workers
        if workers is None:
            workers = default_workers(len(paths), self._device)
        order = range(len(paths))
        starts = range(0, len(paths), batch_size)
        with Loader(dataset, workers, pin_memory=self._device.type == "cuda") as loader:
            left = len(paths)
            for some in _cut(starts, _BATCHES_AT_ONCE):
                batches = [order[start : start + batch_size] for start in some]
                for batch in loader.batches(batches):
                    chosen = tuple(paths[i] for i in batch.indices.tolist())
                    yield Embedded(chosen, self._run(batch.inputs, left, chosen))
                    left -= len(batch)

    def _opened(self, images: Sequence[Any]) -> Iterator[Tensor]:
        """Yield the embeddings of images in memory, among which there may be files."""
        view = EvalView(self.net.preprocessing)
        how = self.decoding
        for start in range(0, len(images), BATCH_SIZE):
            views, names = [], []
            for index, image in enumerate(images[start : start + BATCH_SIZE], start):
                if is_file(image):
                    (sample,) = samples_of([image])
                    names.append(str(sample.path))
                    opened = decode(sample.path, how, sample.box)
                else:
                    names.append(f"image {index}")
                    picture = picture_of(image, names[-1])
                    opened = prepare(picture, how, where=names[-1])
                views.append(view(opened))
            yield self._run(torch.stack(views), len(images) - start, names)

    def _tensors(self, images: Tensor) -> Iterator[Tensor]:
        preprocessing = self.net.preprocessing
        require_prepared(images, (preprocessing.channels, *preprocessing.size))
        for start in range(0, len(images), BATCH_SIZE):
            part = images[start : start + BATCH_SIZE].detach().float()
            names = [f"image {start + index}" for index in range(len(part))]
            yield self._run(part, len(images) - start, names)

    def _vectors(self, side: Any) -> np.ndarray[Any, Any]:
        """Return the embeddings of images; embeddings, which are an array, are only converted."""
        return side if isinstance(side, np.ndarray) else self.embed(side).numpy()

    def _run(self, images: Tensor, count: int, names: Sequence[object]) -> Tensor:
        """Return the embeddings of ``images``. ``count`` images of this call are yet to be run."""
        self._require_unchanged()
        moved = images.to(self._device, non_blocking=True)
        with attributing(plugins_of(self.net)), evaluating(self.net):
            embeddings = run(self._kernel(moved, count).kernel, moved).cpu()
        require_finite(embeddings.numpy(), names)
        return embeddings

    def _kernel(self, images: Tensor, count: int) -> Choice:
        """Return the kernel, which is chosen again if there are more images than before.

        For more images, a kernel that takes longer to build may pay off.
        """
        if self._choice is None or (self._wanted == "auto" and count > self._considered):
            self._considered = count
            self._choice = choose(
                self.net, images[:8], count, wanted=self._wanted,
                precision=self._precision,
            )  # fmt: skip
        return self._choice


def _mark_of(net: SiameseNet) -> tuple[Any, ...]:
    """Return a value that changes with what the embeddings of a network depend on."""
    return mark(net), net.preprocessing, net.normalize


def _require_one_of(value: object, where: str, allowed: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"no such {where}", where=where, got=value, allowed=", ".join(allowed))


def _cut(numbers: range, size: int) -> Iterator[range]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
