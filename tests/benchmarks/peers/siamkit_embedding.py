"""Embedding a folder with siamkit, in Python: ``python -m peers.siamkit_embedding RUN FOLDER``."""

from __future__ import annotations

import sys

from peers.task import Clock, report


def main() -> None:
    run_dir, folder, result = sys.argv[1:]
    import numpy as np

    import siamkit

    embedder = siamkit.load_embedder(run_dir, "last", device="cpu")
    clock = Clock()
    clock.start()
    embeddings = embedder.embed(folder)  # [N, dim]
    np.save(result, embeddings.numpy())
    clock.stop()
    choice = embedder.choice
    assert choice is not None
    report(
        clock.epochs,
        len(embeddings),
        kernel=choice.kernel.name,
        seconds_per_image=choice.seconds_per_image,
    )


if __name__ == "__main__":
    main()
