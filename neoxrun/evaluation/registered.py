"""The model for lm-eval's own command line, under the name ``neoxrun``.

lm-eval 0.4.13 finds models that are registered when it starts, and looks for no plug-ins. ``python -m
neoxrun.evaluation`` is its command line with this model registered.
"""

from __future__ import annotations

import atexit
import os
import sys
from dataclasses import replace

import torch
from lm_eval.api.registry import register_model

from neoxrun.errors import NeoxrunError, UsageError
from neoxrun.evaluation.adapter import NeoxLM
from neoxrun.evaluation.replicas import Replicas
from neoxrun.serving.arguments import DEFAULTS, model_arguments
from neoxrun.serving.local import open_local
from neoxrun.serving.words import error_in_python


@register_model("neoxrun")
class RegisteredLM(NeoxLM):
    """A model that lm-eval loads itself, from ``--model_args``.

    Under torchrun every process makes one; those above rank 0 then compute for rank 0, and end with it.

    Args:
        config: GPT-NeoX YAML file, or the name of a shipped configuration.
        device: ``cpu``; anything else uses a GPU if there is one (lm-eval's default is ``cuda:0``).
        batch_size: most sequences at a time. 1, lm-eval's default, and ``auto`` mean what fits.
        max_batch_size: without effect.
        others: the other arguments of ``LLM``, by its names or by those of other tools. Without ``dtype`` the number
            format is the configuration's on a GPU, and fp32 on the CPU.

    Raises:
        UsageError: an argument is unknown, or has a value that is not possible.
        NeoxrunError: see ``open_local``.
    """

    def __init__(
        self,
        config: str = "20B",
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **others: object,
    ) -> None:
        on_cpu = device == "cpu"
        given = {name: value for name, value in others.items() if name in DEFAULTS}
        given["device"] = "cpu" if on_cpu else None
        foreign = {name: value for name, value in others.items() if name not in given}
        arguments, _ = model_arguments(config, given, foreign, owner="the model in --model_args")
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if arguments.ranks != started:
            raise UsageError(
                f"tp {arguments.tp} x pp {arguments.pp} needs {arguments.ranks} processes; this is one of {started}",
                code="wrong_number_of_ranks",
                hint=f"Put torchrun in front: torchrun --nproc-per-node {arguments.ranks} -m neoxrun.evaluation ...",
            )
        if arguments.dtype is None and (on_cpu or not torch.cuda.is_available()):
            arguments = replace(arguments, dtype="fp32")  # results are exact, unless something else is asked for
        most = int(str(batch_size)) if str(batch_size).isdigit() else 1
        try:
            session = open_local(arguments, started=started > 1)
        except NeoxrunError as error:
            error_in_python(error)
            raise
        if not session.mesh.leads:
            session.replica.follow()
            session.close()
            sys.exit(0)
        replicas = Replicas(session, most if most > 1 else None)
        atexit.register(session.close)
        atexit.register(replicas.release_ranks)  # runs first
        super().__init__(session, replicas, show_progress=True)
