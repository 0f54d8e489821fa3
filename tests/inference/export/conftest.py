"""Networks and images to export."""

import dataclasses

import pytest

from siamkit.inference.export.images import PreparedImages
from siamkit.inference.export.subject import Subject


@pytest.fixture(scope="session")
def subject_of(image_folder):
    """A function that returns a network as the subject of an export, with drawn images."""

    def subject(net, **changes) -> Subject:
        from siamkit.data.images import ImageSet

        keys: dict[str, list[str]] = {}
        for file in image_folder.rglob("*.png"):
            keys.setdefault(file.parent.name, []).append(f"{file.parent.name}/{file.name}")
        images = ImageSet.of(image_folder, keys)
        train = images.subset(i for i, label in enumerate(images.labels) if label < 5)
        val = images.subset(i for i, label in enumerate(images.labels) if label >= 5)
        parts = (PreparedImages(part, net.preprocessing, 10**6) for part in (train, val))
        return dataclasses.replace(Subject(net.eval(), None, *parts), **changes)

    return subject
