"""The typed, frozen settings that a GPT-NeoX configuration becomes. No torch, no YAML: ``config`` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from neoxrun.config.sampling import SamplingParams

Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class ModelConfig:
    """The network, in GPT-NeoX's own terms and with its defaults.

    Attributes:
        num_layers: transformer layers.
        hidden_size: width of the residual stream.
        num_attention_heads: heads; ``hidden_size`` is divisible by it.
        intermediate_size: width of the MLP (4 x hidden_size unless the configuration says otherwise).
        seq_length: context length the model was trained with.
        max_position_embeddings: rows of learned positions; the longest context of rotary models is ``seq_length``.
        pos_emb: how positions enter.
        rotary_pct: share of each head's dims that rotary embeddings turn.
        rotary_emb_base: base of the rotary angles.
        rotary_legacy_fp16: compute the angles in fp16, as GPT-NeoX did before 2023-09-25.
        gpt_j_residual: attention and MLP read the same input and are added together (one all-reduce a layer).
        gpt_j_tied: with ``gpt_j_residual``, ``input_layernorm`` serves both branches.
        norm: kind of every norm.
        norm_epsilon: its epsilon.
        gelu: ``tanh`` when GPT-NeoX fuses bias and GELU (and not ``onnx_safe``), else ``erf``.
        use_bias_in_attn_linear: biases in query_key_value and the attention's output projection.
        use_bias_in_mlp: biases in the MLP.
        tie_embeddings: the LM head is the word embedding (GPT-NeoX: not ``no_weight_tying``).
        make_vocab_size_divisible_by: with ``model_parallel_size``, the multiple that the vocabulary was padded to.
        model_parallel_size: tensor-parallel size that the configuration names (and the padding was made for).
        pipe_parallel_size: pipeline size that the configuration names; 0 and 1 both mean one stage.
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

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def max_context(self) -> int:
        """Most positions, prompt and answer together, that the model takes."""
        if self.pos_emb == "learned":
            return min(self.seq_length, self.max_position_embeddings)
        return self.seq_length

    def padded_vocab_size(self, tokenizer_size: int) -> int:
        """``tokenizer_size`` rounded up as GPT-NeoX does, to make_vocab_size_divisible_by x model_parallel_size."""
        multiple = self.make_vocab_size_divisible_by * self.model_parallel_size
        return -(-tokenizer_size // multiple) * multiple


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer, and where its files are (absolute paths; None where the configuration names none).

    ``looked_in`` has every place where ``vocab_file`` was looked for, for the message that it is in none of them.
    """

    tokenizer_type: str
    vocab_file: Path | None
    merge_file: Path | None
    looked_in: tuple[Path, ...] = ()


@dataclass(frozen=True)
class GenerationConfig:
    """GPT-NeoX's text-generation keys (and ours), before the command's flags.

    ``num_samples`` is None when the configuration does not name it: 10 then for unconditional generation, else 1.
    ``sample_input_file`` is None unless ``text_gen_type`` is ``input-file``: GPT-NeoX reads it only then.
    """

    sampling: SamplingParams
    text_gen_type: Literal["unconditional", "input-file", "interactive"] = "unconditional"
    prompt_end: str = "\n"
    num_samples: int | None = None
    sample_input_file: Path | None = None
    sample_output_file: Path | None = None


@dataclass(frozen=True)
class Settings:
    """Everything that configuration files and overrides decide.

    Attributes:
        model: the network.
        tokenizer: its tokenizer.
        checkpoint: GPT-NeoX's ``load`` folder, as an absolute path; None where it is not given.
        iteration: GPT-NeoX's ``iteration``: the checkpoint's ``global_step<N>``; None follows the file ``latest``.
        precision: what the configuration asks for (``precision``, ``fp16``, ``bf16``).
        generation: defaults of ``generate``.
        seed: GPT-NeoX's ``seed``.
        sources: the configuration files, in order.
        ignored: training-only keys that were read and have no effect here, sorted.
        checkpoint_looked_in: every place where ``checkpoint`` was looked for.
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
    checkpoint_looked_in: tuple[Path, ...] = ()
