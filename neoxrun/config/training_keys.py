"""GPT-NeoX's keys of training that ``finetune`` reads, and those that it refuses. All other commands ignore both.

``scripts/write_docs`` makes tables of docs/finetune.md from this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from neoxrun.config.neox_keys import NeoxKey

TRAINING: Final[Mapping[str, NeoxKey]] = {
    "train_iters": NeoxKey("null", "optimizer steps; `--steps`"),
    "train_epochs": NeoxKey("null", "passes over the data instead of `train_iters`; without either, 1; `--epochs`"),
    "train_batch_size": NeoxKey(
        "null", "rows of a step; without it and the next two, 8, or one for each replica; `--batch-size`"
    ),
    "train_micro_batch_size_per_gpu": NeoxKey(
        "null", "rows of a pass on one replica; without it, as many as fit; `--micro-batch-size`"
    ),
    "gradient_accumulation_steps": NeoxKey("null", "passes of a step; follows from the other two where both are set"),
    "optimizer": NeoxKey("null", "`type: Adam`, which is AdamW, and `params` with `lr`, `betas` and `eps`"),
    "lr": NeoxKey("null", "peak of the learning rate where `optimizer` has none: 1e-5, with LoRA 2e-4; `--lr`"),
    "min_lr": NeoxKey("null", "below which the rate does not fall; a tenth of `lr`; `--min-lr`"),
    "lr_decay_style": NeoxKey("cosine", "`constant`, `linear`, `cosine` or `exponential`; `--lr-decay-style`"),
    "lr_decay_iters": NeoxKey("null", "steps until the rate has fallen; all of them"),
    "lr_decay_fraction": NeoxKey("null", "the same as a share of all steps"),
    "warmup": NeoxKey("0.03", "share of the steps of the decay in which the rate rises; `--warmup`"),
    "weight_decay": NeoxKey("0.01", "of all weights but biases and norms; `--weight-decay`"),
    "gradient_clipping": NeoxKey("1.0", "largest norm of the gradients; 0: any; `--gradient-clipping`"),
    "data_types": NeoxKey(
        "null", "`grad_accum_dtype: fp32`: in bf16, sum the gradients of a step's passes in fp32 and not in bf16"
    ),
    "zero_optimization": NeoxKey(
        "null",
        "`stage` (`--zero-stage`), `offload_optimizer` and `offload_param` with `device: cpu` (`--offload`); without "
        "it, stage 1, and 0 for fp32 on one replica",
    ),
    "checkpoint_activations": NeoxKey(
        "null", "compute activations twice instead of keeping them; `null`: if they do not fit otherwise"
    ),
    "attention_dropout": NeoxKey("0.0", "probability"),
    "hidden_dropout": NeoxKey("0.0", "probability"),
    "eod_mask_loss": NeoxKey("false", "do not learn the first token of a document, which follows an end of document"),
    "data_path": NeoxKey("null", "a `.bin` and `.idx` pair, without its ending, or a file of texts; `--data`"),
    "split": NeoxKey('"969, 30, 1"', "of `data_path`: documents to train on, to evaluate on, and others; `--split`"),
    "train_data_paths": NeoxKey("null", "several of these to train on; `--data`"),
    "train_data_weights": NeoxKey("null", "their shares; `null`: equal"),
    "valid_data_paths": NeoxKey("null", "several to evaluate on; `--eval-data`"),
    "valid_data_weights": NeoxKey("null", "only `null`, or equal weights"),
    "eval_interval": NeoxKey("null", "steps between evaluations; a tenth of all; `--eval-interval`"),
    "eval_iters": NeoxKey("null", "batches of an evaluation; those of the data, at most 100; `--eval-iters`"),
    "save": NeoxKey("null", "folder of the run; `--output`"),
    "checkpoint_factor": NeoxKey("null", "steps between checkpoints; a tenth of all; `--save-interval`"),
    "checkpoint_scale": NeoxKey("linear", "`linear`, or `log`: after the powers of `checkpoint_factor`"),
    "extra_save_iters": NeoxKey("null", "further steps after which there is a checkpoint"),
    "keep_last_n_checkpoints": NeoxKey("2", "checkpoints that are kept besides the best one; `--keep`"),
    "finetune": NeoxKey(
        "true", "`false`: continue GPT-NeoX's run with the state of its optimizer, where `load` has it; see below"
    ),
    "no_load_optim": NeoxKey("false", "`true`: leave that state out, and begin with step 1"),
    "override_lr_scheduler": NeoxKey(
        "false", "`true`: continue with this configuration's learning rate, where it is not that of the run"
    ),
    "use_checkpoint_lr_scheduler": NeoxKey("false", "`true`: continue with the run's own"),
}
"""What ``config.training_reader`` and ``config.data_reader`` read. The default is that of ``finetune``."""

REFUSED: Final[Mapping[str, tuple[object, ...]]] = {
    "dataset_impl": ("gpt2",),
    "exit_interval": (),
    "pack_impl": ("packed",),
    "train_impl": ("normal",),
    "use_bnb_optimizer": (False,),
    "weight_by_num_documents": (False,),
    "z_loss": (0,),
    **dict.fromkeys(
        (
            "train_label_data_paths",
            "valid_label_data_paths",
            "train_reward_data_paths",
            "valid_reward_data_paths",
            "pos_train_data_paths",
            "pos_valid_data_paths",
            "neg_train_data_paths",
            "neg_valid_data_paths",
            "label_data_paths",
            "sm3",
            "onebitadam",
        ),
        (),
    ),
}
"""Keys that would change the training, and the values of them that do not; null is always one."""

SWITCHED: Final = (
    "amp",
    "autotuning",
    "compression_training",
    "curriculum_learning",
    "data_efficiency",
    "elasticity",
)
"""Mappings that would change the training unless they have ``enabled: false``."""

READ: Final = frozenset({*TRAINING, *REFUSED, *SWITCHED, "deepspeed_extra_args", "use_wandb", "wandb_project"})
"""All that ``finetune`` reads, although other commands ignore it."""
