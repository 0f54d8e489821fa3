"""Shows data: writes contact sheets of images and their views."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from siamkit.api.configuring import Config, placed, resolved_call
from siamkit.checks import whole_number
from siamkit.data.memory import items_of
from siamkit.files import path_of
from siamkit.model.settings import usual_settings
from siamkit.training import showing

IMAGES, DRAWS = 8, 5


@usual_settings()
def show_data(
    config: Config | None = None,
    *,
    output: str | Path,
    images: int = IMAGES,
    draws: int = DRAWS,
    **sections: Any,
) -> dict[str, Any]:
    """Draw a contact sheet of a few training images, with their evaluation and training views.

    The views are made by the code that makes the batches of :func:`fit`. Nothing is trained, and no
    weights are loaded.

    Args:
        config: As for :func:`fit`.
        output: The file, which is overwritten: ``.html`` or ``.png``.
        images: The largest number of images. The most elongated image, the first of more than 8
            bits and others that preparation changes much come first, then images of several
            classes.
        draws: The largest number of training views per image.
        **sections: Arguments as for :func:`fit`: names, mappings or objects. With objects,
            ``backbone`` is needed only for its preprocessing.

    Returns:
        The output of ``siamkit data show DATA -o FILE --json``: ``output``, ``images`` (their
        ``key``, ``class`` and ``why``), ``image_size``, ``fit``, ``range``, ``augment``, ``views``
        (the number of training views shown per image) and ``notices``.

    Raises:
        ConfigError: An argument is wrong.
        SiamkitError: The data cannot be used for a run; see :mod:`siamkit.errors`.
    """
    from siamkit.report.sheet.views import views_sheet
    from siamkit.report.sheet.write import require_sheet_file, write_sheet

    target = path_of(output, "output", "a file")
    require_sheet_file(target)
    most = whole_number(images, "images", least=1), whole_number(draws, "draws", least=1)
    resolved, known, memory = resolved_call(config, sections)
    notices: list[str] = []
    with TemporaryDirectory() as folder:
        if memory is not None:
            resolved = placed(items_of(memory, notices), resolved, Path(folder).resolve())
        found = showing.show(resolved, known, images=most[0], draws=most[1])
    write_sheet(views_sheet(found), target)
    data = found.config.data
    return {
        "output": str(target),
        "images": [
            {"key": image.sample.key, "class": image.label, "why": image.choice.why}
            for image in found.images
        ],
        "image_size": list(found.preprocessing.size),
        "fit": data.fit,
        "range": data.range if isinstance(data.range, str | int) else list(data.range),
        "augment": data.augment.model_dump(mode="json"),
        "views": len(found.images[0].training),
        "notices": [*notices, *found.notices],
    }
