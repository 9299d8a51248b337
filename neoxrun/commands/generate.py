"""``neoxrun generate``: continue prompts with the model."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from neoxrun.commands import common
from neoxrun.config.sampling import SAMPLING_NAMES, SamplingParams, update_sampling
from neoxrun.config.settings import GenerationConfig, Settings
from neoxrun.errors import UsageError
from neoxrun.generation import prompts as reading
from neoxrun.generation import records
from neoxrun.generation.options import GenerateOptions
from neoxrun.generation.prompts import Prompt
from neoxrun.launch import launcher as launch
from neoxrun.launch.job import Job
from neoxrun.planning.explain import explain_notes
from neoxrun.planning.planner import vocab_size_for_planning
from neoxrun.terminal import streams
from neoxrun.terminal.log import log
from neoxrun.terminal.words import check_unicode

_UNCONDITIONAL_SAMPLES = 10  # GPT-NeoX's configs/text_generation.yml
_UNCONDITIONAL_OUTPUT = "samples.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``neoxrun generate``."""
    common.add_model_arguments(parser)
    common.add_random_weights(parser)
    common.add_seed(parser)
    source = parser.add_argument_group("prompts and output")
    what = source.add_mutually_exclusive_group()
    what.add_argument(
        "-i",
        "--input",
        metavar="FILE",
        help="Continue the prompts of this file, one a line; a .jsonl file has an object a line with prompt (or "
        "context) and, where wanted, id, n and sampling parameters; - reads stdin. Default: the configuration's "
        "`sample_input_file`; without it, write freely from nothing.",
    )
    what.add_argument(
        "--prompt",
        metavar="TEXT",
        help="Continue this text; without -o the answer goes to stdout. Default: none.",
    )
    what.add_argument(
        "--interactive",
        action="store_true",
        help="Ask for prompts and stream the answers. Ctrl-C stops an answer, Ctrl-D leaves. Default: as the "
        "configuration's `text_gen_type` says.",
    )
    source.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="Write one JSON record a line to this file; - is stdout. Default: samples.txt when writing freely, "
        "FILE.output.jsonl with -i FILE, stdout with -i -.",
    )
    source.add_argument(
        "--resume",
        action="store_true",
        help="Keep the records that the output file holds and give the answers that are missing. Default: start anew.",
    )
    source.add_argument(
        "--prompt-end",
        metavar="TEXT",
        help=r"What ends a prompt in a text file or a dialogue (\n and \t may be written so). Default: a line's end.",
    )
    source.add_argument(
        "--truncate",
        choices=("left", "right"),
        help="Cut prompts that are too long for the context at this side. Default: they become error records.",
    )
    source.add_argument(
        "--batch-size",
        type=common.positive,
        metavar="N",
        help="Work on at most this many prompts at a time. Default: what fits, at most 256 on GPUs and 64 on the CPU.",
    )
    source.add_argument(
        "-n",
        "--num-samples",
        type=common.positive,
        metavar="N",
        help="Answers to each prompt. Default: 1; 10 when writing freely.",
    )
    _add_sampling_arguments(
        parser.add_argument_group("sampling", "What the configuration says of these wins over the defaults.")
    )


def _add_sampling_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--maximum-tokens", type=int, metavar="N", help="Most tokens of an answer. Default: 64.")
    group.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="Divide the logits by T before sampling; 0 always takes the likeliest token. Default: 0.",
    )
    group.add_argument(
        "--top-k", type=int, metavar="N", help="Sample from the N likeliest tokens; 0 from all. Default: 0."
    )
    group.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="Sample from the fewest tokens whose probabilities reach P; 0 from all. Default: 0.",
    )
    group.add_argument(
        "--min-p",
        type=float,
        metavar="P",
        help="Leave out tokens less likely than P times the likeliest. Default: 0.",
    )
    group.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="R",
        help="Make tokens of the prompt and the answer less likely by this factor. Default: 1, off.",
    )
    group.add_argument(
        "--frequency-penalty",
        type=float,
        metavar="F",
        help="Subtract F from a token's logit for each time it is in the answer. Default: 0.",
    )
    group.add_argument(
        "--presence-penalty",
        type=float,
        metavar="F",
        help="Subtract F from the logits of tokens that are in the answer. Default: 0.",
    )
    group.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help=r"End an answer before this text (\n and \t may be written so). May be repeated. Default: none.",
    )
    group.add_argument(
        "--logprobs",
        type=int,
        metavar="N",
        help="Record each token's log-probability and the N likeliest tokens. Default: off.",
    )
    group.add_argument(
        "--logit-bias",
        action="append",
        metavar="ID=VALUE",
        help="Add VALUE to the logit of token ID. May be repeated. Default: none.",
    )
    group.add_argument("--ignore-eos", action="store_true", default=None, help="Go on past the end of a document.")


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked, and hand the job to the ranks. Does not return when there is work.

    Raises:
        NeoxrunError: the command line, the configuration, the prompts or the output are wrong.
    """
    if "" in (args.input, args.output):
        raise UsageError("-i and -o need the name of a file", hint="Is a shell variable empty? - is stdin or stdout.")
    settings = common.settings_from_args(args)
    defaults = settings.generation
    sampling = _sampling(args, replace(defaults.sampling, seed=settings.seed))
    leading = common.is_first(args)
    dialogue = args.interactive or (
        defaults.text_gen_type == "interactive" and args.input is None and args.prompt is None
    )
    if dialogue:
        if args.output or args.resume or args.num_samples or (args.replicas or 1) > 1:
            raise UsageError("--interactive goes with neither -o, --resume, --num-samples nor --replicas")
        args.replicas = 1
        streams.check_stdout()
        options = GenerateOptions([], dialogue=sampling, truncate=args.truncate, prompt_end=_prompt_end(args, defaults))
    elif leading:
        options = _options(args, defaults, sampling)
        if not options.prompts and common.is_alone(args):
            records.RecordWriter(options.output, sys.stdout, resume=True).close()  # drops a half-written line
            log.info(f"all {options.finished} records are in {options.output} already")
            return 0
    else:
        options = GenerateOptions([])
    plan = common.plan_from_args(args, settings, common.devices_from_args(args), args.batch_size)
    common.check_files(settings, random_weights=args.random_weights)
    _check_bias(sampling, settings)
    if leading:
        for note in explain_notes(plan):
            log.info(note)
        if options.output is not None and not args.resume:
            records.warn_of_replacing(options.output)
    launch.run(
        Job(
            "generate",
            settings,
            plan,
            options,
            random_weights=args.random_weights,
            verbosity=args.verbosity,
            node_rank=args.node_rank,
            rendezvous=args.rdzv_endpoint,
            interactive=dialogue,
        )
    )


def _options(args: argparse.Namespace, defaults: GenerationConfig, sampling: SamplingParams) -> GenerateOptions:
    prompts, default_output = _prompts(args, defaults, sampling)
    named = args.output or defaults.sample_output_file or default_output
    # The ranks keep stdout under another number, so that its names must not be opened there.
    output = None if named is None or str(named) in ("-", "/dev/stdout", "/dev/fd/1") else Path(named)
    finished: set[records.Key] = set()
    if output is None:
        streams.check_stdout()
    if output is not None:
        if args.input and output.exists() and Path(args.input).exists() and output.samefile(args.input):
            raise UsageError(f"the output {output} is the input", hint="Give another file with -o.")
        records.check_writable(output)
        if args.resume and output.exists() and not output.is_file():
            raise UsageError(f"--resume needs a file to go on with, and {output} is none")
        if args.resume:
            finished = records.finished_keys(output, prompts)
    elif args.resume:
        raise UsageError("--resume needs a file to go on with", hint="Give one with -o FILE.")
    return GenerateOptions(
        prompts=[prompt for prompt in prompts if prompt.key not in finished],
        finished=len(finished),
        output=output,
        plain_text=args.prompt is not None and args.output is None and output is None,
        resume=args.resume,
        batch_size=args.batch_size,
        truncate=args.truncate,
    )


def _prompts(
    args: argparse.Namespace, defaults: GenerationConfig, sampling: SamplingParams
) -> tuple[list[Prompt], str | None]:
    """The prompts, and where their records go by default; None is stdout."""
    wanted = args.num_samples or defaults.num_samples
    if args.prompt is not None:
        check_unicode(args.prompt)
        reading.check_count(args.num_samples or 1)
        return list(reading.answers(0, 0, args.prompt, sampling, args.num_samples or 1)), None
    source = args.input or defaults.sample_input_file
    if source is not None:
        if args.output is None and defaults.sample_output_file is None and _is_stream(Path(source)):
            raise UsageError(
                f"{source} is a stream, beside which no output file can be",
                hint="Name the output with -o; - is stdout.",
            )
        found = reading.read(
            str(source),
            prompt_end=_prompt_end(args, defaults),
            params=sampling,
            num_samples=args.num_samples or 1,
        )
        return found, None if source == "-" else f"{source}.output.jsonl"
    count = wanted or _UNCONDITIONAL_SAMPLES
    reading.check_count(count)
    if count > 1 and sampling.temperature == 0:
        log.warning("at temperature 0 all samples are the same: give --temperature")
    samples = (next(reading.answers(i, i, "", sampling, 1)) for i in range(count))
    return list(samples), _UNCONDITIONAL_OUTPUT


def _is_stream(source: Path) -> bool:
    """Whether a file of prompts is a pipe, as `<(...)` makes one, or another name of stdin."""
    return source.is_fifo() or source.is_relative_to("/dev") or source.is_relative_to("/proc")


def _sampling(args: argparse.Namespace, defaults: SamplingParams) -> SamplingParams:
    given: dict[str, Any] = {name: value for name in SAMPLING_NAMES if (value := getattr(args, name, None)) is not None}
    given.pop("seed", None)
    if args.stop:
        given["stop"] = [_unescape(text) for text in args.stop]
    if args.logit_bias:
        given["logit_bias"] = dict(_bias(text) for text in args.logit_bias)
    return update_sampling(defaults, given)


def _bias(text: str) -> tuple[int, float]:
    token, _, value = text.partition("=")
    try:
        return int(token), float(value)
    except ValueError:
        raise UsageError(f"--logit-bias {text} is not ID=VALUE", hint="For example --logit-bias 187=-100.") from None


def _check_bias(sampling: SamplingParams, settings: Settings) -> None:
    if sampling.logit_bias and (largest := max(sampling.logit_bias)) >= (size := vocab_size_for_planning(settings)[0]):
        raise UsageError(f"--logit-bias {largest}=...: the model has no such token, but ids 0 to {size - 1}")


def _prompt_end(args: argparse.Namespace, defaults: GenerationConfig) -> str:
    end = defaults.prompt_end if args.prompt_end is None else _unescape(args.prompt_end)
    if not end:
        raise UsageError("--prompt-end is empty", hint=r"Give the text between two prompts, for example '\n---\n'.")
    return end


def _unescape(text: str) -> str:
    r"""``\n`` and ``\t`` as a shell user writes them."""
    return text.replace("\\n", "\n").replace("\\t", "\t")
