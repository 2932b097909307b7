"""One stack after the other, in this process."""

from collections.abc import Sequence

from mnist1d.executors import Tell
from mnist1d.plan import Stack
from mnist1d.provenance import cores


class Serial:
    """One stack after the other, in this process."""

    workers = 1

    def __init__(self) -> None:
        self.cpus = cores()

    def warm_up(self, most: int) -> None:
        """Nothing to do."""

    def __call__(self, stacks: Sequence[Stack], tell: Tell) -> None:
        """See `Executor`."""
        from mnist1d.fit import train

        for stack in stacks:
            train(stack, tell)
