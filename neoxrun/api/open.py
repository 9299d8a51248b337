"""Which processes hold the model of an ``LLM``."""

from __future__ import annotations

import os

from neoxrun.api.backends import Backend, Callbacks, CollectiveBackend, ThreadBackend
from neoxrun.api.ranks import RanksBackend
from neoxrun.errors import NeoxrunError, UsageError
from neoxrun.launch.world import existing_world, rendezvous_of
from neoxrun.serving.local import ModelArguments
from neoxrun.serving.words import error_in_python


def open_backend(arguments: ModelArguments, batch_size: int | None, callbacks: Callbacks) -> Backend:
    """Load a model: in this process, in ranks that it starts, or in those that torchrun or Slurm has started.

    Args:
        arguments: which model.
        batch_size: most texts at a time; None: what fits.
        callbacks: who hears of what comes.

    Raises:
        NeoxrunError: the model cannot be loaded.
        UsageError: another number of ranks was started.
    """
    try:
        return _open(arguments, batch_size, callbacks)
    except NeoxrunError as error:
        error_in_python(error)
        raise


def _open(arguments: ModelArguments, batch_size: int | None, callbacks: Callbacks) -> Backend:
    world = existing_world()
    if world is not None:
        if world.size != arguments.ranks:
            raise UsageError(
                f"tp {arguments.tp} x pp {arguments.pp} is {arguments.ranks}, but the number of processes is "
                f"{world.size}",
                code="wrong_number_of_ranks",
                hint="Choose sizes whose product is the number of processes, or start as many with torchrun.",
            )
        os.environ |= rendezvous_of(world)
        return CollectiveBackend(arguments, batch_size, callbacks)
    kind = ThreadBackend if arguments.ranks == 1 else RanksBackend
    return kind(arguments, batch_size, callbacks)
