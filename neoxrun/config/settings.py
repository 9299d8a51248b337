"""The typed, frozen settings that a GPT-NeoX configuration becomes; ``config.reader`` makes them. No torch, no YAML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neoxrun.config.names import bare_name
from neoxrun.config.sampling import SamplingParams

Precision = Literal["fp32", "fp16", "bf16"]

Merge = Literal["fold", "average"]
"""What becomes of norms that differ between a checkpoint's tensor-parallel ranks, at another tensor-parallel size."""


@dataclass(frozen=True)
class RopeScaling:
    """How rotary angles are scaled for contexts longer than the model was trained with; as transformers has it.

    Attributes:
        kind: ``linear`` divides all frequencies by ``factor``; ``yarn`` (Peng et al., 2023) the low ones.
        factor: how many times longer the context becomes.
        original_max_position_embeddings: positions that the model was trained with.
        beta_fast: ``yarn`` leaves frequencies that turn more often than this within these positions as they are;
        beta_slow: and divides those that turn less often by the factor. Between the two it interpolates.
        attention_factor: cosines and sines are multiplied by it.
        truncate: round the bounds between which ``yarn`` interpolates to whole dims.
    """

    kind: Literal["linear", "yarn"]
    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """The network, in GPT-NeoX's terms and with its defaults.

    Attributes:
        num_layers: transformer layers.
        hidden_size: width of the residual stream.
        num_attention_heads: attention heads; their number divides ``hidden_size``.
        intermediate_size: width of the MLP (4 x hidden_size unless the configuration says otherwise).
        seq_length: context length the model was trained with.
        max_position_embeddings: rows of learned positions, and the longest context of scaled rotary models; that of
            other rotary models is ``seq_length``.
        pos_emb: how the network sees positions.
        rotary_pct: share of each head's dims that are rotated.
        rotary_emb_base: base of the rotary angles.
        rotary_legacy_fp16: compute the angles in fp16, as GPT-NeoX did before 2023-09-25.
        gpt_j_residual: attention and MLP have the same input and are added together (one all-reduce per layer).
        gpt_j_tied: with ``gpt_j_residual``, both branches use ``input_layernorm``.
        norm: kind of all norms.
        norm_epsilon: epsilon of all norms.
        gelu: ``tanh`` where GPT-NeoX fuses bias and GELU (and ``onnx_safe`` is off), else ``erf``.
        use_bias_in_attn_linear: biases in query_key_value and the attention's output projection.
        use_bias_in_mlp: biases in the MLP.
        tie_embeddings: the LM head is the word embedding (GPT-NeoX: not ``no_weight_tying``).
        make_vocab_size_divisible_by: the vocabulary was padded to a multiple of this times ``model_parallel_size``.
        model_parallel_size: tensor-parallel size in the configuration (for which the vocabulary was padded).
        pipe_parallel_size: pipeline-parallel size in the configuration; 0 and 1 both mean one stage.
        rope_scaling: how the rotary angles are scaled; None: not at all.
    """

    num_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    seq_length: int
    max_position_embeddings: int
    pos_emb: Literal["rotary", "learned", "none"] = "learned"
    rotary_pct: float = 1.0
    rotary_emb_base: float = 10000.0
    rotary_legacy_fp16: bool = False
    gpt_j_residual: bool = False
    gpt_j_tied: bool = False
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_epsilon: float = 1e-5
    gelu: Literal["tanh", "erf"] = "erf"
    use_bias_in_attn_linear: bool = True
    use_bias_in_mlp: bool = True
    tie_embeddings: bool = True
    make_vocab_size_divisible_by: int = 128
    model_parallel_size: int = 1
    pipe_parallel_size: int = 1
    rope_scaling: RopeScaling | None = None

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def max_context(self) -> int:
        """The model's longest sequence in tokens, prompt and answer together."""
        if self.pos_emb == "learned":
            return min(self.seq_length, self.max_position_embeddings)
        if self.rope_scaling is not None:
            return self.max_position_embeddings
        return self.seq_length

    def padded_vocab_size(self, tokenizer_size: int) -> int:
        """``tokenizer_size`` rounded up as GPT-NeoX does, to make_vocab_size_divisible_by x model_parallel_size."""
        multiple = self.make_vocab_size_divisible_by * self.model_parallel_size
        return -(-tokenizer_size // multiple) * multiple


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer, and where its files are (absolute paths; None where the configuration names none).

    For the message that it is missing: ``looked_in`` holds every path at which ``vocab_file`` was looked for, and
    ``folder`` is the model's folder where no file of a tokenizer was found.
    """

    tokenizer_type: str
    vocab_file: Path | None
    merge_file: Path | None
    looked_in: tuple[Path, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True)
class GenerationConfig:
    """The configuration's text-generation keys, before the command's flags.

    ``num_samples`` is None where the configuration does not set it: then 10 for unconditional generation, else 1.
    ``sample_input_file`` is None unless ``text_gen_type`` is ``input-file``: GPT-NeoX reads the file only then.
    """

    sampling: SamplingParams
    text_gen_type: Literal["unconditional", "input-file", "interactive"] = "unconditional"
    prompt_end: str = "\n"
    num_samples: int | None = None
    sample_input_file: Path | None = None
    sample_output_file: Path | None = None


@dataclass(frozen=True)
class Settings:
    """Everything that the configuration files and overrides set.

    Attributes:
        model: the network.
        tokenizer: its tokenizer.
        checkpoint: GPT-NeoX's ``load`` folder, as an absolute path; None where it is not set.
        iteration: GPT-NeoX's ``iteration``: the ``global_step<N>`` to load; None: as the file ``latest`` says.
        precision: number format by the keys ``precision``, ``fp16`` and ``bf16``.
        precision_stated: False where the network comes from a config.json that states no number format, and nothing
            else does: then the weights decide (``checkpoint.stored``).
        generation: defaults of ``generate``.
        seed: GPT-NeoX's ``seed``.
        sources: the configuration files and the models' folders, in order.
        ignored: keys that do not change what the model computes and have no effect here, sorted.
        unread: keys of a config.json that transformers' network computes the same without, sorted.
        checkpoint_looked_in: every path at which ``checkpoint`` was looked for.
        merge: ``fold`` norms that differ between the checkpoint's tensor-parallel ranks into the layers that read them,
            where that is exact, or take their ``average``, as Hugging Face's conversion does.
        adapter: folder of a low-rank adapter that is merged into the weights when they are loaded; None: there is none.
        end_ids: ids that end a text besides the tokenizer's end of document, as the model's own files name them.
    """

    model: ModelConfig
    tokenizer: TokenizerConfig
    checkpoint: Path | None
    iteration: int | None
    precision: Precision
    generation: GenerationConfig
    seed: int
    sources: tuple[Path, ...]
    ignored: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    checkpoint_looked_in: tuple[Path, ...] = ()
    merge: Merge = "fold"
    adapter: Path | None = None
    end_ids: tuple[int, ...] = ()
    precision_stated: bool = True

    @property
    def title(self) -> str:
        """The names of the configuration files, without their endings, and of the models' folders."""
        return ", ".join(bare_name(path.absolute()) for path in self.sources)
