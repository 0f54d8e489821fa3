"""Galleries to search: an index, a file of embeddings, or a folder of images."""

from __future__ import annotations

from pathlib import Path

from .portable.embedding_files import read_embeddings
from .portable.folders import files_in
from .portable.gallery import Gallery, ListedGallery, Searched, is_index
from .portable.model import ExportedModel


def open_gallery(model: ExportedModel, path: Path) -> tuple[Searched, str | None]:
    """Return a gallery, and a notice for the user.

    Args:
        model: The model whose embeddings are to be searched.
        path: An index, whose network is compared with the model; a ``.npy`` file that ``embed``
            wrote, which does not name its network; or a folder of images, which are embedded now.
            The label of an image is its subfolder.

    Raises:
        CheckpointError: The index or the file is damaged, or the index is of another network.
        DataError: There is no such folder, or an image cannot be decoded.
    """
    if is_index(path):
        index = Gallery(path)
        index.require_model(model.fingerprint)
        approximate = "an approximate index is searched exactly, which takes longer"
        return index, approximate if index.meta.kind != "exact" else None
    if path.suffix == ".npy" and not path.is_dir():
        embeddings, paths = read_embeddings(path, model.embedding_dim)
        return ListedGallery(embeddings, [(one, None) for one in paths]), (
            f"{path} does not say which network made it; results mean nothing if it was another one"
        )
    paths = [one.absolute() for one in files_in(path)]
    root = path.resolve() if path.is_dir() else path.absolute().parent
    items = [(one, _label(one, root)) for one in paths]
    return ListedGallery(model.embed(paths), items), None


def _label(path: Path, root: Path) -> str | None:
    label = path.relative_to(root).parent.as_posix()
    return None if label == "." else label
