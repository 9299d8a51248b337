"""Process groups, and the few collectives that inference needs.

Rank order is that of GPT-NeoX: tensor parallel fastest, then replicas, then pipeline stages.

On CUDA every group has two backends, NCCL for GPU tensors and gloo for CPU tensors; on the CPU only gloo is used.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from neoxrun.errors import UsageError
from neoxrun.parallel.interface import choose_interface
from neoxrun.parallel.partition import coordinates_of, rank_at
from neoxrun.terminal.log import log, waiting

# An interactive session may leave the other ranks waiting for hours. A dead rank is noticed by the program that started
# it (torchrun, or srun with --kill-on-bad-exit) or by its closed sockets, not by this timeout.
_TIMEOUT = timedelta(days=7)
_MEETING_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Mesh:
    """This rank's coordinates among ``tp x replicas x pp`` ranks, and its transfers.

    Attributes:
        tp, pp, replicas: sizes of the three axes.
        tp_rank, stage, replica: this rank's coordinates on them.
        device: the device that this rank computes on.
        tp_group, replica_group: the ranks of this stage; the ranks of this replica. None for a single rank.
        store: key-value store that all ranks share. None for a single rank.
    """

    tp: int
    pp: int
    replicas: int
    tp_rank: int
    stage: int
    replica: int
    device: torch.device
    tp_group: dist.ProcessGroup | None = None
    replica_group: dist.ProcessGroup | None = None
    store: Store | None = None

    @property
    def rank(self) -> int:
        """Global rank."""
        return self.rank_at(self.tp_rank, self.stage)

    def rank_at(self, tp_rank: int, stage: int) -> int:
        """Global rank at these coordinates in this rank's replica."""
        return rank_at(self.tp, self.replicas, tp_rank, self.replica, stage)

    @property
    def first_stage(self) -> bool:
        """Whether this rank holds the embedding."""
        return self.stage == 0

    @property
    def last_stage(self) -> bool:
        """Whether this rank holds the final norm and the head."""
        return self.stage == self.pp - 1

    @property
    def leads(self) -> bool:
        """Whether this rank drives its replica: the first rank of the first stage."""
        return self.tp_rank == 0 and self.stage == 0

    @property
    def samples(self) -> bool:
        """Whether this rank samples the replica's tokens: the first rank of the last stage."""
        return self.tp_rank == 0 and self.last_stage

    @property
    def other_ranks(self) -> list[int]:
        """Global ranks of this rank's replica without its own."""
        ranks = [self.rank_at(tp_rank, stage) for stage in range(self.pp) for tp_rank in range(self.tp)]
        return [rank for rank in ranks if rank != self.rank]

    def connect_gpus(self) -> None:
        """Have NCCL connect this rank's groups, which takes it seconds, and which their first use would wait for."""
        for group in (self.tp_group, self.replica_group):
            if group is not None:
                dist.all_reduce(torch.zeros(1, device=self.device), group=group)
        torch.cuda.synchronize(self.device)

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Sum ``x`` over the tensor-parallel ranks, in place where possible. ``x`` must be contiguous."""
        if self.tp == 1:
            return x
        if self.tp == 2 and x.device.type == "cpu":
            # gloo's all_reduce takes 0.3-0.8 ms for one token; a plain exchange takes 0.09 ms. a + b == b + a, so
            # both ranks hold the same bits afterwards.
            other = torch.empty_like(x)
            peer = self.rank_at(1 - self.tp_rank, self.stage)
            sending = dist.isend(x, peer, group=self.tp_group)
            dist.recv(other, peer, group=self.tp_group)
            if sending is not None:
                sending.wait()
            return x.add_(other)
        dist.all_reduce(x, group=self.tp_group)
        return x

    def gather_last_dim(self, x: torch.Tensor) -> torch.Tensor | None:
        """The tensor-parallel ranks' ``x`` joined along the last dim, on the first of them; None on the others."""
        if self.tp == 1:
            return x
        first = self.rank_at(0, self.stage)
        parts = [torch.empty_like(x) for _ in range(self.tp)] if self.tp_rank == 0 else None
        dist.gather(x.contiguous(), parts, dst=first, group=self.tp_group)
        return torch.cat(parts, dim=-1) if parts is not None else None

    def receive_activations(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Receive the previous stage's output from its rank with the same tensor-parallel rank."""
        x = torch.empty(shape, dtype=dtype, device=self.device)
        dist.recv(x, self.rank_at(self.tp_rank, self.stage - 1), group=self.replica_group)
        return x

    def send_activations(self, x: torch.Tensor) -> None:
        """Send this stage's output to the next stage's rank with the same tensor-parallel rank."""
        dist.send(x.contiguous(), self.rank_at(self.tp_rank, self.stage + 1), group=self.replica_group)

    def broadcast_from_first(self, x: torch.Tensor) -> torch.Tensor:
        """Send the first tensor-parallel rank's ``x`` to the others of its stage, in place."""
        if self.tp_group is not None:
            dist.broadcast(x, self.rank_at(0, self.stage), group=self.tp_group)
        return x

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        """Send the leader's CPU tensor ``x`` to every rank of its replica, in place."""
        if self.replica_group is not None:
            dist.broadcast(x, self.rank_at(0, 0), group=self.replica_group)
        return x

    def broadcast_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Send the sampling rank's ``tokens`` to every rank of its replica, on their devices, in place."""
        if self.replica_group is not None:
            dist.broadcast(tokens, self.rank_at(0, self.pp - 1), group=self.replica_group)
        return tokens

    def broadcast_object(self, value: Any) -> Any:
        """Send the leader's object to every rank of its replica."""
        if self.replica_group is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, self.rank_at(0, 0), group=self.replica_group, device=torch.device("cpu"))
        return box[0]

    def sampler_to_leader(self, value: Any) -> Any:
        """Send the sampling rank's object to the leader; the other ranks do nothing."""
        if self.pp == 1:
            return value
        sampler, leader = self.rank_at(0, self.pp - 1), self.rank_at(0, 0)
        box = [value]
        if self.samples:
            dist.send_object_list(box, leader, group=self.replica_group, device=torch.device("cpu"))
        elif self.leads:
            dist.recv_object_list(box, sampler, group=self.replica_group, device=torch.device("cpu"))
        return box[0]

    def gather_from_tp(self, value: Any) -> list[Any]:
        """The object of each tensor-parallel rank."""
        if self.tp_group is None:
            return [value]
        values: list[Any] = [None] * self.tp
        dist.all_gather_object(values, value, group=self.tp_group)
        return values

    def minimum(self, value: int) -> int:
        """The smallest ``value`` of all ranks of the replica."""
        if self.replica_group is None:
            return value
        box = torch.tensor([value])
        dist.all_reduce(box, op=dist.ReduceOp.MIN, group=self.replica_group)
        return int(box.item())


def gather_from_all(value: Any) -> list[Any]:
    """Every rank's object, in rank order, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def share_from_first(value: Any) -> Any:
    """Rank 0's object, on every rank."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
    return box[0]


def single_rank_mesh(device: torch.device) -> Mesh:
    """The mesh of a single rank."""
    return Mesh(1, 1, 1, 0, 0, 0, device)


def connect_ranks(tp: int, pp: int, replicas: int, device: torch.device) -> Mesh:
    """Join the other ranks, which torchrun's environment variables describe.

    Raises:
        UsageError: the number of ranks started is not ``tp * pp * replicas``, or GLOO_SOCKET_IFNAME names an
            interface that this host does not have.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != tp * pp * replicas:
        raise UsageError(
            f"{world} ranks were started, and tp {tp} x pp {pp} x replicas {replicas} needs {tp * pp * replicas}",
            code="different_commands",
            hint="Give every host the same command line; --tp, --pp, --replicas and --dtype fix the split.",
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)  # Triton launches on the current device, whatever the tensors' is
    if world == 1:
        return single_rank_mesh(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    choose_interface()
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    with waiting(f"waiting for all {world} ranks to meet at {address}", log.warning):
        store, rank, world = next(rendezvous("env://", timeout=_MEETING_TIMEOUT))
    dist.init_process_group(backend, store=store, timeout=_TIMEOUT, rank=rank, world_size=world)
    tp_rank, replica, stage = coordinates_of(tp, replicas, rank)
    return Mesh(
        tp=tp,
        pp=pp,
        replicas=replicas,
        tp_rank=tp_rank,
        stage=stage,
        replica=replica,
        device=device,
        tp_group=_group_of(rank, [[first + at for at in range(tp)] for first in range(0, world, tp)]),
        replica_group=_group_of(
            rank,
            [
                [rank_at(tp, replicas, at, number, part) for part in range(pp) for at in range(tp)]
                for number in range(replicas)
            ],
        ),
        store=PrefixStore("neoxrun", store),
    )


def data_parallel_group(mesh: Mesh) -> dist.ProcessGroup:
    """The ranks that have the same coordinates in their replicas as this one; all ranks call this together.

    A single rank, which has joined no others, has a group of its own from then on.
    """
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if mesh.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    members = [
        [rank_at(mesh.tp, mesh.replicas, at, number, stage) for number in range(mesh.replicas)]
        for stage in range(mesh.pp)
        for at in range(mesh.tp)
    ]
    group = _group_of(mesh.rank, members)
    assert group is not None
    return group


def _group_of(rank: int, members: list[list[int]]) -> dist.ProcessGroup | None:
    """The group that ``rank`` is in, of groups that have these members; all ranks make all of them together."""
    if len(members) == 1:
        return dist.group.WORLD
    groups: list[dist.ProcessGroup] = [dist.new_group(ranks, timeout=_TIMEOUT) for ranks in members]
    return next(group for group, ranks in zip(groups, members, strict=True) if rank in ranks)


def disconnect_ranks() -> None:
    """Leave the process groups."""
    if dist.is_initialized():
        dist.destroy_process_group()
