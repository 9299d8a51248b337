"""What belongs to the weights in a new folder: the configuration and the tokenizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from neoxrun.config import neox_keys
from neoxrun.config.huggingface import CONFIG_JSON, read_json
from neoxrun.config.reader import load_settings
from neoxrun.config.settings import Precision, Settings
from neoxrun.conversion.configurations import config_json, neox_options, vocabulary_divisor, yaml_text
from neoxrun.conversion.opened import OpenedSource
from neoxrun.conversion.options import ConvertOptions
from neoxrun.conversion.tokenizer_files import copy_tokenizer, write_end_ids, write_tokenizer_config
from neoxrun.conversion.workplace import Workplace
from neoxrun.terminal.log import log
from neoxrun.terminal.words import listing

_NEOX_YAML: Final = "config.yml"
_COMMENTS: Final = (
    "Written by neoxrun convert. neoxrun takes paths from this file's folder, GPT-NeoX from the one it is started in.",
    "GPT-NeoX asks for the last three options in any case; `finetune`, since there is no optimizer to continue with.",
)
# What its loader and its set-up need, for texts too (megatron/checkpointing.py, neox_arguments/arguments.py and
# training.py): without the first it ends over random states that the folder does not have, with exit code 0.
_FOR_GPT_NEOX: Final = {"finetune": True, "train_micro_batch_size_per_gpu": 1, "train_iters": 1}


def write_companions(options: ConvertOptions, source: OpenedSource, work: Workplace, written: Precision) -> Settings:
    """Write the configuration and the tokenizer; returns what they describe, read from them.

    Args:
        options: the conversion.
        source: what is converted.
        work: where to write.
        written: number format of the files.
    """
    if options.kind == "huggingface":
        return _for_hugging_face(options, source, work, written)
    return _for_neox(options, source, work, written)


def _for_hugging_face(options: ConvertOptions, source: OpenedSource, work: Workplace, written: Precision) -> Settings:
    copy_tokenizer(work, options.settings.tokenizer)
    ends = options.settings.end_ids
    if not ends and source.tokenizer is not None and source.tokenizer.eod is not None:
        ends = (source.tokenizer.eod,)
    content = config_json(source.config, source.rows, written, ends)
    if source.checkpoint.kind == "huggingface":
        # Its own words, but for what has changed.
        folder = source.checkpoint.folder
        same = load_settings([str(folder)]).model == source.config
        kept = ("torch_dtype", "vocab_size", "tie_word_embeddings") if same else tuple(content)
        content = read_json(folder / CONFIG_JSON) | {key: content[key] for key in kept}
        content.pop("dtype", None)
    else:
        content |= source.words
    work.write_json(CONFIG_JSON, content)
    write_end_ids(work, ends)
    if source.tokenizer is not None:
        write_tokenizer_config(work, options.settings.tokenizer, source.tokenizer, source.config.max_context)
    return load_settings([str(work.folder)])


def _for_neox(options: ConvertOptions, source: OpenedSource, work: Workplace, written: Precision) -> Settings:
    tokenizer = copy_tokenizer(work, options.settings.tokenizer)
    if options.settings.end_ids:
        write_end_ids(work, options.settings.end_ids)
    if not source.new_names:
        log.info("the MLP's matrices keep their names of before September 2024, which GPT-NeoX no longer loads")
    if source.words:
        log.debug(f"the receipt keeps what GPT-NeoX has no options for: {', '.join(sorted(source.words))}")
    padded = source.rows + source.division.padding
    size = None if source.tokenizer is None else source.tokenizer.vocab_size
    divisor = vocabulary_divisor(padded, options.tp, size, source.config.make_vocab_size_divisible_by)
    config = replace(
        source.config, model_parallel_size=options.tp, pipe_parallel_size=1, make_vocab_size_divisible_by=divisor
    )
    network = neox_options(config, written)
    if own := network.keys() & neox_keys.OWN.keys():
        log.warning(f"GPT-NeoX has no {listing(sorted(own))}, so it refuses {_NEOX_YAML}; neoxrun reads it")
    for name, above in ((_NEOX_YAML, ""), (f"{source.tag}/configs/{_NEOX_YAML}", "../../")):
        paths: dict[str, object] = {"load": above or "."}
        if tokenizer.vocab_file is not None:
            paths |= {"tokenizer_type": tokenizer.tokenizer_type, "vocab_file": above + tokenizer.vocab_file.name}
        if tokenizer.merge_file is not None:
            paths["merge_file"] = above + tokenizer.merge_file.name
        work.write_text(name, yaml_text(network | paths | _FOR_GPT_NEOX, *_COMMENTS))
    return load_settings([str(work.folder / _NEOX_YAML)])
