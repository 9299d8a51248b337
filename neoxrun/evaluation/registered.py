"""The model for lm-eval's own command line, under the name ``neoxrun``.

lm-eval 0.4.13 finds models that are registered when it starts, and looks for no plug-ins. ``python -m
neoxrun.evaluation`` is its command line with this model registered.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any, cast, get_args

import torch
from lm_eval.api.registry import register_model

from neoxrun.config.settings import Precision
from neoxrun.errors import UsageError
from neoxrun.evaluation.adapter import NeoxLM
from neoxrun.evaluation.replicas import Replicas
from neoxrun.serving.local import ModelArguments, open_local


@register_model("neoxrun")
class RegisteredLM(NeoxLM):
    """A model that lm-eval loads itself, from ``--model_args``.

    Under torchrun every process makes one; those above rank 0 then compute for rank 0, and end with it.

    Args:
        config: GPT-NeoX YAML file, or the name of a shipped configuration.
        checkpoint: folder of the weights; the configuration's otherwise.
        tokenizer: tokenizer file; the configuration's otherwise.
        tp, pp: tensor-parallel size and pipeline stages; their product is the number of processes.
        device: ``cpu``; anything else uses a GPU if there is one (lm-eval's default is ``cuda:0``).
        dtype: ``fp32``, ``fp16`` or ``bf16``; None: the configuration's on a GPU, fp32 on the CPU.
        batch_size: most sequences at a time. 1, lm-eval's default, and ``auto`` mean what fits.
        max_batch_size: without effect.
        random_weights: build the model without a checkpoint.
        merge: ``fold`` or ``average``, as for ``LLM``.
        adapter: folder of a LoRA adapter, as for ``LLM``.

    Raises:
        NeoxrunError: see ``open_local``.
    """

    def __init__(
        self,
        config: str = "20B",
        checkpoint: str | None = None,
        tokenizer: str | None = None,
        tp: int = 1,
        pp: int = 1,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        random_weights: bool = False,
        merge: str = "fold",
        adapter: str | None = None,
        **others: object,
    ) -> None:
        if others:
            raise UsageError(
                f"--model_args {', '.join(others)}: neoxrun has no such argument",
                code="unknown_option",
                hint="There are: config, checkpoint, tokenizer, tp, pp, dtype, random_weights, merge and adapter.",
            )
        wrong = next((value for value in (tp, pp) if not isinstance(value, int) or value < 1), None)
        if wrong is not None:
            raise UsageError(
                f"--model_args: {wrong} is not a number of ranks",
                code="invalid_value",
                hint="For example tp=2,pp=1.",
            )
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if tp * pp != started:
            raise UsageError(
                f"tp {tp} x pp {pp} needs {tp * pp} processes; this is one of {started}",
                code="wrong_number_of_ranks",
                hint=f"Put torchrun in front: torchrun --nproc-per-node {tp * pp} -m neoxrun.evaluation ...",
            )
        if dtype not in (None, *get_args(Precision)):
            raise UsageError(f"dtype={dtype} is not one of {', '.join(get_args(Precision))}", code="invalid_value")
        if dtype is None and (device == "cpu" or not torch.cuda.is_available()):
            dtype = "fp32"  # results are exact, unless something else is asked for
        most = int(str(batch_size)) if str(batch_size).isdigit() else 1
        session = open_local(
            ModelArguments(
                (config,),
                checkpoint=checkpoint,
                tokenizer=tokenizer,
                tp=tp,
                pp=pp,
                device="cpu" if device == "cpu" else None,
                dtype=cast(Any, dtype),
                random_weights=random_weights,
                merge=cast(Any, merge),
                adapter=adapter,
            ),
            started=started > 1,
        )
        if not session.mesh.leads:
            session.replica.follow()
            session.close()
            sys.exit(0)
        replicas = Replicas(session, most if most > 1 else None)
        atexit.register(session.close)
        atexit.register(replicas.release_ranks)  # runs first
        super().__init__(session, replicas, show_progress=True)
