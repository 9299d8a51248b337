"""What runs where, as a value: ``planner.make_plan`` makes it, ``explain`` words it. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from neoxrun.config.precisions import DTYPE_BYTES, DeviceKind, Precisions
from neoxrun.config.settings import Precision
from neoxrun.planning.decision import Decision, Note


@dataclass(frozen=True)
class RankMemory:
    """One rank of the first replica.

    Attributes:
        rank: global rank.
        node: host that it runs on, from 0.
        device: index of its GPU; 0 on the CPU.
        device_name: name of the device.
        stage: pipeline stage.
        tensor_rank: rank within the stage's tensor-parallel group.
        first_layer: its first transformer layer, from 0.
        num_layers: how many it has.
        weights_bytes: parameters.
        kv_cache_bytes: cache of ``max_batch`` sequences of ``max_context`` tokens.
        workspace_bytes: activations, logits and what the runtime needs.
        total_bytes: the sum of the three.
        free_bytes: what is free on the device; on the CPU, this rank's equal share of the host.
    """

    rank: int
    node: int
    device: int
    device_name: str
    stage: int
    tensor_rank: int
    first_layer: int
    num_layers: int
    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Plan:
    """The decision, and what it needs.

    Attributes:
        tp: tensor-parallel size.
        pp: pipeline stages.
        replicas: replicas of the model.
        precisions: number formats of weights, activations and cache.
        device_kind: ``cuda`` or ``cpu``.
        gpus: indices of the GPUs used on each host, one for each of its ranks in order; empty on the CPU.
        nnodes: hosts.
        decision: why this split.
        notes: everything that differs from what the configuration or a flag asked for.
        devices: every rank of the first replica.
        host_peak_bytes: peak host memory of one rank while it loads.
        max_context: longest sequence, prompt and answer together.
        max_batch: sequences of ``max_context`` tokens that one replica's cache holds.
        prefill_tokens: most tokens of one forward pass that the workspace allows for.
        parameters: of the whole model, each counted once.
        kv_bytes_per_token: cache of one token of one sequence, over all ranks of a replica.
        vocab_size: rows of the word embedding that the sizes are for.
        vocab_assumed: the vocabulary's size is a guess, because there is no tokenizer file.
    """

    tp: int
    pp: int
    replicas: int
    precisions: Precisions
    device_kind: DeviceKind
    gpus: tuple[int, ...]
    nnodes: int
    decision: Decision
    notes: tuple[Note, ...]
    devices: tuple[RankMemory, ...]
    host_peak_bytes: int
    max_context: int
    max_batch: int
    prefill_tokens: int
    parameters: int
    kv_bytes_per_token: int
    vocab_size: int
    vocab_assumed: bool

    @property
    def world_size(self) -> int:
        """Number of ranks, on all hosts."""
        return self.tp * self.pp * self.replicas

    @property
    def dtype(self) -> Precision:
        """Number format of the weights, by which a run is described."""
        return self.precisions.weights

    @property
    def weights_bytes(self) -> int:
        """The parameters of the whole model, each counted once."""
        return self.parameters * DTYPE_BYTES[self.dtype]
