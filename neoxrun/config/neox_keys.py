"""Every option name that GPT-NeoX has or had, sorted by what it means for running a model.

An option is in exactly one of four groups:

- ``USED``: ``config`` reads it.
- ``OWN``: neoxrun has added it; GPT-NeoX does not have it.
- ``FIXED``: it changes the network, and only the values listed here are implemented.
- ``IGNORED``: it says how to train, log, launch or fuse; a trained model computes the same with any value.

``scripts/write_docs`` makes the tables of docs/configuration.md from this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, NamedTuple

from neoxrun.config.sampling import SamplingParams


class NeoxKey(NamedTuple):
    """What an option means here.

    Attributes:
        default: the value, in YAML, that means the same as leaving the option out; None where it is required.
        meaning: a phrase for its documentation, in Markdown; the accepted values where they are words.
    """

    default: str | None
    meaning: str


def _sampling_key(name: str, meaning: str) -> NeoxKey:
    """A key that is a field of ``SamplingParams``, which has the default."""
    return NeoxKey(json.dumps(getattr(SamplingParams(), name)), meaning)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NETWORK: Final[Mapping[str, NeoxKey]] = {
    "num_layers": NeoxKey(None, "number of layers"),
    "hidden_size": NeoxKey(None, "width of the residual stream; a multiple of `num_attention_heads`"),
    "num_attention_heads": NeoxKey(None, "number of attention heads"),
    "seq_length": NeoxKey(None, "longest context, prompt and answer together, in tokens"),
    "max_position_embeddings": NeoxKey(None, "rows of learned positions; at least `seq_length`"),
    "pos_emb": NeoxKey("learned", "`rotary`, `learned` or `none`"),
    "rotary_pct": NeoxKey("1.0", "share of each head that rotary positions turn; the dims must be an even number"),
    "rotary_emb_base": NeoxKey("10000", "base of the rotary angles"),
    "gpt_j_residual": NeoxKey("false", "attention and MLP read the same input, and are added together"),
    "gpt_j_tied": NeoxKey("false", "with `gpt_j_residual`: both branches share `input_layernorm`"),
    "norm": NeoxKey("layernorm", "`layernorm` or `rmsnorm`"),
    "layernorm_epsilon": NeoxKey("1.0e-5", "epsilon of `layernorm`"),
    "rms_norm_epsilon": NeoxKey("1.0e-8", "epsilon of `rmsnorm`"),
    "activation": NeoxKey("gelu", "only `gelu`"),
    "bias_gelu_fusion": NeoxKey("false", "`true`: the tanh form of GELU; `false`: the exact form (erf)"),
    "onnx_safe": NeoxKey("false", "`true`: the exact form of GELU whatever `bias_gelu_fusion` says"),
    "intermediate_size": NeoxKey("null", "width of the MLP; `null`: `expansion_factor` x `hidden_size`"),
    "expansion_factor": NeoxKey("null", "`null`: 4; an error together with `intermediate_size`"),
    "mlp_multiple_of": NeoxKey("1", "the width of the MLP is rounded up to a multiple of it"),
    "use_bias_in_attn_linear": NeoxKey("true", "biases in the attention's linear layers"),
    "use_bias_in_mlp": NeoxKey("true", "biases in the MLP's linear layers"),
    "no_weight_tying": NeoxKey("false", "`true`: the head has weights of its own; `false`: it is the embedding"),
    "make_vocab_size_divisible_by": NeoxKey(
        "128", "the vocabulary is padded to a multiple of it times `model_parallel_size`"
    ),
    "num_kv_heads": NeoxKey("null", "only `null` or the same as `num_attention_heads`"),
    "attention_config": NeoxKey("null", "only `global` and `flash` attention, in any combination of layers"),
    "output_layer_parallelism": NeoxKey("column", "`row` only where `model_parallel_size` is 1"),
    "soft_prompt_tuning": NeoxKey("null", "only `null`, or a mapping with `enabled: false`"),
    "use_bnb_optimizer": NeoxKey("false", "`true` only without learned positions, to which bitsandbytes adds a norm"),
}

FILES: Final[Mapping[str, NeoxKey]] = {
    "load": NeoxKey("null", "folder of the checkpoint; `--checkpoint` replaces it"),
    "iteration": NeoxKey("null", "which `global_step` folder of it; `null`: the one that its file `latest` names"),
    "tokenizer_type": NeoxKey(
        "GPT2BPETokenizer", "`HFTokenizer`, `GPT2BPETokenizer`, `HFGPT2Tokenizer`, `SPMTokenizer`"
    ),
    "vocab_file": NeoxKey("null", "file of the tokenizer; `--tokenizer` replaces it"),
    "merge_file": NeoxKey("null", "merges of the two GPT-2 tokenizers"),
}

SPLIT: Final[Mapping[str, NeoxKey]] = {
    "precision": NeoxKey("null", "`fp16`, `bf16` or `fp32`; `null`: what the next two keys say, or else `fp32`"),
    "fp16": NeoxKey("null", 'a mapping with `enabled`; with `type: "bfloat16"` it means bf16, as GPT-NeoX once had it'),
    "bf16": NeoxKey("null", "a mapping with `enabled`"),
    "model_parallel_size": NeoxKey(
        "1", "tensor-parallel size of the checkpoint, which pads the vocabulary; the plan chooses another where needed"
    ),
    "pipe_parallel_size": NeoxKey("0", "number of stages of the checkpoint; the plan chooses its own"),
}

GENERATION: Final[Mapping[str, NeoxKey]] = {
    "text_gen_type": NeoxKey(
        "null", "`unconditional`, `input-file` or `interactive`; `null`: `input-file` where `sample_input_file` is set"
    ),
    "sample_input_file": NeoxKey("null", "file of prompts, where `-i`, `--prompt` and `--interactive` are not given"),
    "sample_output_file": NeoxKey("null", "file of records, where `-o` is not given"),
    "num_samples": NeoxKey("null", "number of texts without a prompt; `null`: 10"),
    "prompt_end": NeoxKey(r'"\n"', "what ends a prompt in a text file or a dialogue"),
    "maximum_tokens": _sampling_key("maximum_tokens", "most tokens of an answer"),
    "temperature": _sampling_key(
        "temperature", "logits are divided by it before sampling; 0 always takes the most likely token"
    ),
    "top_k": _sampling_key("top_k", "sample from so many of the most likely tokens; 0: from all"),
    "top_p": _sampling_key("top_p", "sample from the fewest tokens whose probabilities reach this; 0: from all"),
    "seed": _sampling_key("seed", "start of the random streams, one for each answer"),
}

USED: Final[Mapping[str, NeoxKey]] = {**NETWORK, **FILES, **SPLIT, **GENERATION}

OWN: Final[Mapping[str, NeoxKey]] = {
    "rotary_legacy_fp16": NeoxKey("false", "rotary angles in fp16, as GPT-NeoX computed them before 2023-09-25"),
    "rope_scaling": NeoxKey(
        "null",
        "rotary angles for contexts longer than the training's, as in a config.json: `{type: linear, factor: 2}`, or "
        "`yarn` with its values; the context is `max_position_embeddings`",
    ),
    "min_p": _sampling_key("min_p", "drop tokens that are less likely than this times the most likely one"),
    "repetition_penalty": _sampling_key(
        "repetition_penalty", "tokens of the prompt and the answer become less likely by this factor"
    ),
    "frequency_penalty": _sampling_key(
        "frequency_penalty", "subtracted from a token's logit for each time it is in the answer"
    ),
    "presence_penalty": _sampling_key(
        "presence_penalty", "subtracted from the logits of tokens that are in the answer"
    ),
    "stop": _sampling_key("stop", "a text or a list of texts that end an answer"),
}

FIXED: Final[Mapping[str, tuple[bool | int | str, ...]]] = {
    "apply_residual_connection_post_layernorm": (False,),
    "attention_type": ("multihead",),
    "geglu": (False,),
    "mlp_type": ("regular",),
    "moe_num_experts": (1,),
    "mup_rp_embedding_mult": (1,),
    "num_experts": (1,),
    "openai_gelu": (False,),
    "opt_pos_emb_offset": (0,),
    "reset_attention_mask": (False,),
    "reset_position_ids": (False,),
    "return_logits": (False,),
    "rms_norm": (False,),
    "sliding_window_width": (),
    "sparsity": ("none",),
    "te_columnparallel": (False,),
    "te_fp8_mha": (False,),
    "te_layernorm_mlp": (False,),
    "te_mha": (False,),
    "te_rowparallel": (False,),
    "train_impl": ("normal", "dpo", "kto", "reinforce"),
    "use_mup": (False,),
    "use_qk_layernorm": (False,),
}

IGNORED: Final = _words(
    """
    account activation_checkpointing adam_beta1 adam_beta2 adam_eps adlr_autoresume
    adlr_autoresume_interval adlr_autoresume_object allow_chopped amp apply_query_key_layer_scaling
    attention_dropout attention_softmax_in_fp32 autotuning autotuning_config autotuning_run
    base_shapes_file batch_size bias_dropout_fusion char_level_ppl checkpoint checkpoint_activations
    checkpoint_factor checkpoint_in_cpu checkpoint_num_layers checkpoint_scale
    checkpoint_validation_with_forward_pass clip_grad comet_experiment comet_experiment_name comet_others
    comet_project comet_tags comet_workspace comment comms_logger communication_data_type
    compression_training config_files contiguous_checkpointing coord_check cpu_optimizer cpu_torch_adam
    create_moe_param_group csv_monitor curriculum_learning curriculum_seqlen data_efficiency data_impl
    data_path data_types dataset_impl decay_lr_to deepscale deepscale_config deepspeed
    deepspeed_activation_checkpointing deepspeed_extra_args deepspeed_mpi deepspeed_slurm
    detect_nvlink_pairs dim_att distribute_checkpointed_activations distributed_backend do_test do_train
    do_valid dpo_beta dpo_fp32 dpo_reference_free dump_state dynamic_loss_scale elasticity
    enable_expert_tensor_parallelism eod_mask_loss eval_interval eval_iters eval_results_prefix
    eval_tasks exclude exit_interval expert_interval extra_save_iters ffn_dim finetune flops_profiler
    force_multi fp16_lm_cross_entropy fp32_allreduce fp32_reinforce fused_kernels_build_path gas git_hash
    global_num_gpus gmlp_attn_dim gradient_accumulation_steps gradient_clipping
    gradient_noise_scale_cpu_offload gradient_noise_scale_n_batches gradient_predivide_factor head_size
    hidden_dropout hostfile hysteresis include init_method init_method_std is_pipe_parallel
    keep_last_n_checkpoints kl_div_beta kl_impl kto_beta kto_desirable_weight kto_fp32
    kto_undesirable_weight label_data_paths launcher layernorm_fusion lazy_mpu_init local_rank log_dir
    log_grad_norm log_grad_pct_zeros log_gradient_noise_scale log_interval log_optimizer_states
    log_param_norm loss_scale loss_scale_window lr lr_decay_fraction lr_decay_iters lr_decay_style
    mamba_causal_conv_fusion mamba_inner_func_fusion mamba_selective_fp32_params
    mamba_selective_scan_fusion mamba_use_bias_in_conv mamba_use_bias_in_linears master_addr master_port
    memory_profiling memory_profiling_path min_lr min_scale mmap_warmup moe_eval_capacity_factor
    moe_expert_interval moe_expert_parallel_size moe_glu moe_jitter_eps moe_lbl_in_fp32 moe_loss_coeff
    moe_min_capacity moe_router_type moe_token_dropping moe_top_k moe_train_capacity_factor moe_type
    moe_use_residual momentum mup_attn_temp mup_embedding_mult mup_init_scale mup_output_temp
    mup_width_scale neg_test_data_paths neg_test_label_data_paths neg_train_data_paths
    neg_train_label_data_paths neg_valid_data_paths neg_valid_label_data_paths no_adamw no_load_optim
    no_load_rng no_save_optim no_save_rng no_ssh_check num_gpus num_nodes num_unique_layers num_workers
    onebitadam online_dataserver_ips online_dataserver_ports only_default_arguments optimizer
    optimizer_type output_layer_init_method override_lr_scheduler pack_impl padded_vocab_size
    param_sharing_style partition_activations peak_theoretical_tflops pipe_partition_method
    pos_test_data_paths pos_test_label_data_paths pos_train_data_paths pos_train_label_data_paths
    pos_valid_data_paths pos_valid_label_data_paths precompute_model_name prescale_gradients profile
    profile_backward profile_step_start profile_step_stop rank recompute reinforce_leave_one_out
    rmsnorm_fusion rope_fusion rotary_save_freqs_buffer rpe_max_distance rpe_num_buckets s3_chunk_size
    s3_path save save_base_shapes save_interval save_iters scaled_masked_softmax_fusion
    scaled_upper_triang_masked_softmax_fusion scalenorm_epsilon scheduler sequence_parallel
    serve_model_weights short_seq_prob slurm_comment sm3 sparse_attention sparse_gradients
    sparsity_config split steps_per_print synchronize_each_layer te_fp8_amax_compute_algo
    te_fp8_amax_history_len te_fp8_format te_fp8_margin te_fp8_wgrad tensorboard tensorboard_dir
    tensorboard_writer test_data_path test_data_paths test_data_weights test_label_data_paths
    test_reward_data_paths tokenizer train_batch_size train_data_path train_data_paths train_data_weights
    train_epochs train_iters train_label_data_paths train_micro_batch_size_per_gpu
    train_reward_data_paths use_bias_in_norms use_checkpoint_lr_scheduler use_comet
    use_cpu_initialization use_flashattn_swiglu use_shared_fs use_tutel use_wandb user_script
    valid_data_path valid_data_paths valid_data_weights valid_label_data_paths valid_reward_data_paths
    wall_clock_breakdown wandb wandb_group wandb_host wandb_init_all_ranks wandb_project wandb_run_name
    wandb_team warmup warmup_iters weight_by_num_documents weight_decay weight_server_port
    weighted_sampler_alpha world_size z_loss zero_allgather_bucket_size zero_allow_untested_optimizer
    zero_contigious_gradients zero_contiguous_gradients zero_optimization zero_reduce_bucket_size
    zero_reduce_scatter zero_stage
    """
)

RENAMED: Final[Mapping[str, str]] = {
    "genfile": "sample_output_file",
    "max_tokens": "maximum_tokens",
    "out_seq_length": "maximum_tokens",
}
"""Names that options had in GPT-NeoX until 2021, and their names since."""

KNOWN: Final = frozenset({*USED, *OWN, *FIXED, *IGNORED})
