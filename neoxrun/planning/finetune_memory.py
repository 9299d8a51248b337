"""What a fine-tuning needs on each rank, in bytes: weights, gradients, optimizer, activations. Arithmetic, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from neoxrun.config.precisions import DTYPE_BYTES, DeviceKind
from neoxrun.config.settings import ModelConfig, Precision
from neoxrun.config.training import LoraConfig, ZeroConfig
from neoxrun.planning.memory import CPU_RANK_BYTES, CUDA_RANK_BYTES, NCCL_BYTES, model_parameters, stage_parameters

_ADAM_BYTES: Final = 8  # two fp32 averages of each trained number
_MASTER_BYTES: Final = 4  # and, in 16 bits, an fp32 copy of it
_STEP_BYTES: Final = 8  # while AdamW makes a step: the gradient in fp32, and a root of the second average
_BUCKET: Final = 500_000_000  # numbers that DeepSpeed reduces together, unless it is told otherwise


@dataclass(frozen=True)
class Share:
    """How a fine-tuning is divided.

    Attributes:
        tp: tensor-parallel size.
        replicas: data-parallel size.
        zero: what ZeRO divides over the replicas, and what is in the host's memory.
        micro: rows of a pass.
        recompute: activations are computed twice instead of being kept.
        fp32_gradients: the gradients of several passes are summed in fp32, where they are computed in bf16.
    """

    tp: int
    replicas: int
    zero: ZeroConfig
    micro: int
    recompute: bool
    fp32_gradients: bool = False


@dataclass(frozen=True)
class RankBytes:
    """What one rank holds.

    Attributes:
        weights: the parameters, in the format of the computation.
        gradients: of what is trained.
        optimizer: AdamW's two averages, and in 16 bits the fp32 weights.
        activations: what a pass keeps for its gradients, and the logits.
        step: what a step of the optimizer needs, when these are gone.
        runtime: of the process, its libraries and what is on its way to other ranks.
        host: what is offloaded to the host's memory.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    step: int
    runtime: int
    host: int

    @property
    def total(self) -> int:
        """On the device."""
        return self.weights + self.gradients + self.optimizer + self.working[1] + self.runtime

    @property
    def working(self) -> tuple[str, int]:
        """The larger of what a pass and a step of the optimizer need, next to the optimizer, and how much it is."""
        return ("its step", self.step) if self.step > self.activations else ("activations", self.activations)


@dataclass(frozen=True)
class FinetuneSizing:
    """A model, and how it is to be fine-tuned.

    Attributes:
        model: the network.
        vocab_size: rows of the word embedding.
        precision: of the computation; in 16 bits the optimizer has fp32 weights.
        kind: of the devices.
        lora: the adapters that are trained; None: all parameters are.
        seq_length: tokens of a row.
    """

    model: ModelConfig
    vocab_size: int
    precision: Precision
    kind: DeviceKind
    lora: LoraConfig | None
    seq_length: int

    @property
    def parameters(self) -> int:
        """Of the model, without adapters."""
        return model_parameters(self.model, self.vocab_size)

    @property
    def trained(self) -> int:
        """Parameters that are trained, of the whole model."""
        return self.parameters if self.lora is None else self._adapters(1)

    def operations(self, *, recompute: bool) -> float:
        """Multiplications and additions for one token: 4 for each frozen parameter, 6 for each trained one.

        Embeddings are looked up, and count only where they are the head, too. Attention adds 6 for each layer, dim and
        token of the row, of which half are seen on average; computing the activations twice adds a third pass forward,
        of 2.
        """
        multiplied = self.parameters
        if not self.model.tie_embeddings:
            multiplied -= self.vocab_size * self.model.hidden_size
        weights = 6 * multiplied if self.lora is None else 4 * multiplied + 6 * self.trained
        attention = 6 * self.model.num_layers * self.model.hidden_size * self.seq_length
        again = 2 * multiplied + attention / 3 if recompute else 0
        return weights + attention + again

    def rank_bytes(self, share: Share) -> RankBytes:
        """What one rank holds; all hold the same, but for rounding."""
        number, zero, replicas = DTYPE_BYTES[self.precision], share.zero, share.replicas
        held = stage_parameters(self.model, self.vocab_size, share.tp, 1)[0]
        trained = held if self.lora is None else self._adapters(share.tp)
        if self.lora is not None:
            held += trained
        weights = held * number // (replicas if zero.stage == 3 else 1)
        gradients = trained * number // (replicas if zero.stage >= 2 else 1)
        if share.fp32_gradients and self.precision == "bf16":  # those of one pass are in bf16, whole below stage 2
            own = gradients if zero.stage < 2 else 0
            gradients = own + trained * _MASTER_BYTES // (replicas if zero.stage >= 2 else 1)
        state = _ADAM_BYTES + (_MASTER_BYTES if number == 2 else 0)
        mine = trained // (replicas if zero.stage >= 1 else 1)
        optimizer = mine * state
        buckets = min(trained, _BUCKET) * number if zero.stage >= 1 and replicas > 1 else 0
        host = 0
        on_gpu = self.kind == "cuda"  # else both memories are the same
        if zero.offload_optimizer and on_gpu:
            host, optimizer = host + optimizer + mine * _MASTER_BYTES, 0
            gradients = 0 if zero.stage >= 2 else gradients  # which go to the host as they are computed
        if zero.offload_parameters and on_gpu:
            host += weights
            weights = 2 * held // self.model.num_layers * number  # the layers that are fetched
        step = 0 if zero.offload_optimizer and on_gpu else mine * _STEP_BYTES
        return RankBytes(
            weights=weights,
            gradients=gradients,
            optimizer=optimizer,
            activations=self._activations(share),
            step=step,
            runtime=buckets + self._runtime(share),
            host=host,
        )

    def _activations(self, share: Share) -> int:
        """Of a pass, as autograd keeps them for the backward pass.

        For each token a layer keeps, in the type of the computation: its input, the two normed inputs, and what
        attention and MLP add (``5 H``); query, key and value, turned, and the result of attention (``6 H / tp``); the
        MLP's inner activation before and after GELU (``2 I / tp``); and adapters as much as their inputs again, where
        they have dropout. Computed twice, only the inputs of all layers are kept, and one layer's rest. On a CPU
        attention keeps its scores. The logits are there in the type of the computation, in fp32, as probabilities,
        and as their gradient.
        """
        model, number = self.model, DTYPE_BYTES[self.precision]
        tokens = share.micro * self.seq_length
        width = 5 * model.hidden_size + (6 * model.hidden_size + 2 * model.intermediate_size) // share.tp
        if self.lora is not None and self.lora.dropout:
            width += 2 * model.hidden_size + (model.hidden_size + model.intermediate_size) // share.tp
        layer = tokens * width * number
        if self.kind == "cpu":
            layer += 2 * tokens * self.seq_length * model.num_attention_heads // share.tp * DTYPE_BYTES["fp32"]
        kept = model.num_layers * tokens * model.hidden_size * number + layer
        logits = tokens * -(-self.vocab_size // share.tp) * (2 * number + 2 * DTYPE_BYTES["fp32"])
        return (kept if share.recompute else model.num_layers * layer) + logits

    def _runtime(self, share: Share) -> int:
        if self.kind == "cpu":
            return CPU_RANK_BYTES
        return CUDA_RANK_BYTES + (NCCL_BYTES if share.tp * share.replicas > 1 else 0)

    def _adapters(self, tp: int) -> int:
        """Numbers of the adapters on one of ``tp`` ranks: a divided layer's A or B is divided with it."""
        assert self.lora is not None
        hidden, inner = self.model.hidden_size, self.model.intermediate_size
        sizes = {  # inputs and outputs of a rank
            "query_key_value": hidden + 3 * hidden // tp,
            "dense": hidden // tp + hidden,
            "dense_h_to_4h": hidden + inner // tp,
            "dense_4h_to_h": inner // tp + hidden,
        }
        return self.model.num_layers * self.lora.rank * sum(sizes[name] for name in self.lora.targets)
