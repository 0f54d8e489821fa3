"""Late sets: image sets that are embedded before or after the training, not in every epoch.

The cache holds them too, so that later runs need not compute them.
"""

from __future__ import annotations

from siamkit.engine.execution import Engine
from siamkit.engine.phase import Execution
from siamkit.errors import ResourceError
from siamkit.training.scoring import NAMES, Scorer


def stocked(scorer: Scorer, engine: Engine, execution: Execution, name: str) -> bool:
    """Compute and store the rows of an image set that is not evaluated in every epoch.

    Args:
        scorer: Embeds the images.
        engine: The engine of the run.
        execution: The execution of the current phase.
        name: The image set.

    Returns:
        Whether the set can be read from the cache: the rows are exact, the network is the one that
        they are of, and the disk has room.
    """
    # Rows of another network would stay in the cache, for other runs to read.
    if not execution.decision.keeps_exact_rows or not scorer.is_intact(execution):
        return False
    try:
        reason = engine.stock(execution, name)
    except ResourceError as error:
        reason = error.what
    if reason is not None and name not in scorer.uncached:
        scorer.uncached.add(name)  # said once, though a set may be embedded before and after
        text = f"the {NAMES.get(name, name)} images are embedded without the cache: {reason}"
        scorer.emit("notice", {"text": text})
    return reason is None
