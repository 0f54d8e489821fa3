"""Several processes: compares the plans of the processes that train one network together."""

from __future__ import annotations

from collections.abc import Collection

from torch import distributed

from siamkit.errors import ConfigError


def require_same(trainable: Collection[str]) -> None:
    """Check that all processes of ``torch.distributed`` train the same parameters.

    ``DistributedDataParallel`` averages gradients by their place among the trainable parameters. If
    the plans differ, it averages gradients of different parameters, and notices only if the shapes
    differ.

    Without a process group, this function does nothing. Otherwise each process must call it: it
    waits for the others.

    Args:
        trainable: The plain names of the parameters that train in this process.

    Raises:
        ConfigError: They are others in another process. It is raised in every process.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return
    everywhere: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(everywhere, sorted(trainable))
    for rank, names in enumerate(everywhere):
        if differing := set(names) ^ set(everywhere[0]):
            own = everywhere[distributed.get_rank()]
            name = min(differing)
            raise ConfigError(
                f"the processes 0 and {rank} train different parameters, so the average of their "
                "gradients would be wrong",
                got=f"{name}, which is {'trained' if name in own else 'frozen'} in this process",
                hint="give the policy the same metrics in each process: average them over all",
            )
