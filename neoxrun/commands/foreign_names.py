"""What other tools call the options of the commands: a table. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from neoxrun.config.precisions import DTYPE_NAMES, QUANTISED

CONFIG: Final = "CONFIG"
"""In place of an option: the argument that names the model."""

_MODEL_COMMANDS: Final = ("generate", "evaluate", "score", "bench", "plan", "finetune")
_TRAINING_COMMANDS: Final = ("finetune", "plan")


@dataclass(frozen=True)
class ForeignName:
    """What another tool calls an option.

    Attributes:
        names: as there, with hyphens.
        ours: the option here, or ``CONFIG``.
        commands: which commands understand it.
        tools: where it comes from.
    """

    names: tuple[str, ...]
    ours: str
    commands: tuple[str, ...]
    tools: str


FOREIGN_NAMES: Final = (
    ForeignName(
        ("--model", "-m", "--model-name-or-path"), CONFIG, _MODEL_COMMANDS, "vLLM, llama.cpp, litgpt, transformers"
    ),
    ForeignName(("--tensor-parallel-size", "-tp"), "--tp", _MODEL_COMMANDS, "vLLM"),
    ForeignName(("--pipeline-parallel-size", "-pp"), "--pp", _MODEL_COMMANDS, "vLLM"),
    ForeignName(("--data-parallel-size", "-dp"), "--replicas", _MODEL_COMMANDS, "vLLM"),
    ForeignName(("--model-parallel-size",), "--tp", _MODEL_COMMANDS, "GPT-NeoX"),
    ForeignName(("--pipe-parallel-size",), "--pp", _MODEL_COMMANDS, "GPT-NeoX"),
    ForeignName(("--torch-dtype", "--precision"), "--dtype", _MODEL_COMMANDS, "transformers, litgpt"),
    ForeignName(("--enforce-eager",), "--eager", ("generate", "evaluate", "score", "bench"), "vLLM"),
    ForeignName(("--load", "--checkpoint-dir"), "--checkpoint", _MODEL_COMMANDS, "GPT-NeoX, litgpt"),
    ForeignName(("--vocab-file",), "--tokenizer", _MODEL_COMMANDS, "GPT-NeoX"),
    ForeignName(("--lora",), "--adapter", ("generate", "evaluate", "score", "bench", "convert"), "llama.cpp"),
    ForeignName(
        ("--adapter-path", "--adapter-name-or-path", "--lora-model-dir"),
        "--adapter",
        ("generate", "evaluate", "score", "bench", "plan", "convert"),
        "mlx-lm, LLaMA-Factory, Axolotl",
    ),
    ForeignName(
        ("--max-new-tokens", "--max-tokens", "--n-predict", "--predict"),
        "--maximum-tokens",
        ("generate",),
        "transformers, vLLM, litgpt, llama.cpp",
    ),
    ForeignName(("-p",), "--prompt", ("generate",), "llama.cpp"),
    ForeignName(
        ("-f", "--file", "--input-file", "--sample-input-file"), "--input", ("generate",), "llama.cpp, GPT-NeoX"
    ),
    ForeignName(("--output-file", "--sample-output-file"), "--output", ("generate",), "GPT-NeoX"),
    ForeignName(("--num-return-sequences", "--n"), "--num-samples", ("generate",), "transformers, vLLM"),
    ForeignName(("--temp",), "--temperature", ("generate",), "llama.cpp"),
    ForeignName(("--repeat-penalty",), "--repetition-penalty", ("generate",), "llama.cpp"),
    ForeignName(("--stop-strings", "--reverse-prompt", "-r"), "--stop", ("generate",), "transformers, llama.cpp"),
    ForeignName(("--conversation", "-cnv", "--chat-cli"), "--interactive", ("generate",), "llama.cpp"),
    ForeignName(("-s",), "--seed", ("generate",), "llama.cpp"),
    ForeignName(("-t", "--eval-tasks"), "--tasks", ("evaluate",), "lm-eval, GPT-NeoX"),
    ForeignName(("-f",), "--num-fewshot", ("evaluate",), "lm-eval"),
    ForeignName(("-L",), "--limit", ("evaluate",), "lm-eval"),
    ForeignName(("-b",), "--batch-size", ("evaluate",), "lm-eval"),
    ForeignName(("-s",), "--log-samples", ("evaluate",), "lm-eval"),
    ForeignName(("-c", "--use-cache"), "--cache", ("evaluate",), "lm-eval"),
    ForeignName(("-o", "--output-path"), "--output", ("evaluate",), "lm-eval"),
    ForeignName(
        ("--train-file", "--train-data", "--dataset", "--data-path", "--train-data-paths"),
        "--data",
        ("finetune",),
        "transformers, litgpt, GPT-NeoX",
    ),
    ForeignName(
        ("--validation-file", "--valid-data", "--valid-data-paths"),
        "--eval-data",
        ("finetune",),
        "transformers, GPT-NeoX",
    ),
    ForeignName(("--output-dir", "--out-dir", "--save"), "--output", ("finetune",), "transformers, litgpt, GPT-NeoX"),
    ForeignName(("--num-train-epochs", "--train-epochs"), "--epochs", ("finetune",), "transformers, GPT-NeoX"),
    ForeignName(("--max-steps", "--train-iters"), "--steps", ("finetune",), "transformers, GPT-NeoX"),
    ForeignName(("--learning-rate",), "--lr", ("finetune",), "transformers"),
    ForeignName(("--lr-scheduler-type",), "--lr-decay-style", ("finetune",), "transformers"),
    ForeignName(("--warmup-ratio",), "--warmup", ("finetune",), "transformers"),
    ForeignName(("--max-grad-norm", "--clip-grad"), "--gradient-clipping", ("finetune",), "transformers, Megatron"),
    ForeignName(("--eval-steps",), "--eval-interval", ("finetune",), "transformers"),
    ForeignName(("--save-steps", "--checkpoint-factor"), "--save-interval", ("finetune",), "transformers, GPT-NeoX"),
    ForeignName(("--save-total-limit", "--keep-last-n-checkpoints"), "--keep", ("finetune",), "transformers, GPT-NeoX"),
    ForeignName(("--wandb-project",), "--wandb", ("finetune",), "GPT-NeoX"),
    ForeignName(("--train-batch-size", "--global-batch-size"), "--batch-size", _TRAINING_COMMANDS, "GPT-NeoX, litgpt"),
    ForeignName(
        ("--per-device-train-batch-size", "--train-micro-batch-size-per-gpu"),
        "--micro-batch-size",
        _TRAINING_COMMANDS,
        "transformers, GPT-NeoX",
    ),
    ForeignName(
        ("--max-seq-length", "--block-size", "--cutoff-len"), "--seq-length", _TRAINING_COMMANDS, "transformers, trl"
    ),
    ForeignName(("--gradient-checkpointing",), "--checkpoint-activations", _TRAINING_COMMANDS, "transformers"),
    ForeignName(("--lora-r", "--r"), "--lora-rank", _TRAINING_COMMANDS, "PEFT, litgpt"),
    ForeignName(("--use-peft", "--use-lora"), "--lora", _TRAINING_COMMANDS, "trl"),
    ForeignName(("--lora-target-modules", "--target-modules"), "--lora-targets", _TRAINING_COMMANDS, "trl, PEFT"),
    ForeignName(("--local-dir", "--output-dir"), "--to", ("download",), "huggingface-cli"),
    ForeignName(("--max-workers",), "--jobs", ("download",), "huggingface-cli"),
)

EXPLAINED: Final[Mapping[str, str]] = {
    "--model-args": "The model is the argument CONFIG, and its number format is --dtype: "
    "`neoxrun evaluate CONFIG --dtype bf16`.",
    "--do-sample": "--temperature T samples; --temperature 0 does not.",
    "--num-beams": "There is no beam search: leave it out.",
    "--use-beam-search": "There is no beam search: leave it out.",
    "--best-of": "All answers are kept: --num-samples N.",
    "--version": "`neoxrun --version` prints it.",
    "--apply-chat-template": "`python -m neoxrun.evaluation`, which is lm-eval's command line, has it.",
    "--greedy": "--temperature 0 is greedy.",
    "--max-length": "Answers are counted without their prompts: --maximum-tokens N.",
    "--max-model-len": "--set seq_length=N shortens the context.",
    "--ctx-size": "--set seq_length=N shortens the context.",
    "-c": "--set seq_length=N shortens the context.",
    "-ngl": "Leave it out: all layers are on the GPUs. --device cpu uses none.",
    "--n-gpu-layers": "Leave it out: all layers are on the GPUs. --device cpu uses none.",
    "--gpu-layers": "Leave it out: all layers are on the GPUs. --device cpu uses none.",
    "-t": "Set the environment variable OMP_NUM_THREADS.",
    "--revision": "`neoxrun download NAME --revision REVISION` fetches it, and says how to run it; "
    "`evaluate --revisions` measures several.",
    "--trust-remote-code": "Leave it out: nothing in a model's files is executed.",
    "--gpu-memory-utilization": "Leave it out: the cache takes what is free.",
    "--num-gpus": "--gpus 0,1 names GPUs; without it all are used.",
    "--load-in-8bit": QUANTISED,
    "--load-in-4bit": QUANTISED,
    "--enable-lora": "Leave it out: --adapter DIR is enough.",
    "--lora-modules": "--adapter DIR merges one adapter into the weights.",
    "--quantization": QUANTISED,
    "--system-prompt": "Write it at the beginning of the prompt.",
    "--threads": "Set the environment variable OMP_NUM_THREADS.",
    "--wandb-args": "--wandb PROJECT.",
    "--bf16": "--dtype bf16.",
    "--fp16": "--dtype fp16.",
    "--deepspeed": "`finetune` always uses DeepSpeed; --zero-stage N and --offload are its options.",
    "--fsdp": "--zero-stage 3 divides the parameters over the replicas.",
    "--packing": "Leave it out: texts are packed; --no-pack puts one into each row.",
    "--resume-from-checkpoint": "--resume continues the run in the folder --output DIR.",
    "--report-to": "--wandb PROJECT or --tensorboard.",
    "--warmup-steps": "--warmup SHARE is a share of all steps.",
    "--optim": "Leave it out: the optimizer is AdamW.",
    "--adam-beta1": "--set 'optimizer={params: {lr: 0.00001, betas: [0.9, 0.95]}}' sets both.",
    "--adam-beta2": "--set 'optimizer={params: {lr: 0.00001, betas: [0.9, 0.95]}}' sets both.",
    "--logging-steps": "Leave it out: every step is logged.",
    "--tasks-list": "`neoxrun evaluate --tasks list` prints the tasks.",
}
"""Options of other tools that nothing here takes the place of, and what to do instead."""

FOREIGN_VALUES: Final[Mapping[str, Mapping[str, str]]] = {
    "--dtype": DTYPE_NAMES,
    "--device": {"gpu": "cuda", "auto": ""},
    "--batch-size": {"auto": ""},
}
"""Values as other tools call them, by our option; an empty text leaves the option out, which means the same here."""
