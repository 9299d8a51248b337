"""``neoxrun generate``: continue prompts with the model."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from neoxrun.commands import common, input_args, jobs, output_args
from neoxrun.commands.sampling_args import check_logit_bias, sampling_params, unescape
from neoxrun.config.sampling import SamplingParams
from neoxrun.config.settings import GenerationConfig, Settings, TokenizerConfig
from neoxrun.errors import ConfigError, UsageError
from neoxrun.generation import lines, records
from neoxrun.generation import prompts as reading
from neoxrun.generation.options import GenerateOptions
from neoxrun.generation.output_lock import lock_file, output_lock
from neoxrun.generation.prompts import Prompt, Render
from neoxrun.input.source import open_source
from neoxrun.launch import launcher
from neoxrun.planning.request import DIALOGUE, TYPICAL_PROMPTS, Work
from neoxrun.terminal import streams
from neoxrun.terminal.log import log
from neoxrun.terminal.words import check_unicode, counted

_UNCONDITIONAL_SAMPLES = 10  # GPT-NeoX's configs/text_generation.yml
_UNCONDITIONAL_OUTPUT = "samples.txt"
_MANY_SAMPLES = 32  # -n is llama.cpp's length of an answer, mostly a power of 2 from here on
_TOKEN_LETTERS = 4  # of English, about


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked now, then hand the job to the ranks. Returns only if there is nothing to do.

    Raises:
        NeoxrunError: the command line, the configuration, the prompts or the output are wrong.
    """
    with ExitStack() as held:
        return _run(args, held)


def _run(args: argparse.Namespace, held: ExitStack) -> int:
    """As ``run``; ``held`` gets the lock of the output."""
    if "" in (args.input, args.chat, args.output):
        raise UsageError(
            "-i, --chat and -o need the name of a file",
            code="invalid_value",
            hint="Is a shell variable empty? Use - for stdin or stdout.",
        )
    args.resume |= args.resume_anyway
    try:
        settings = common.settings_from_args(args)
    except ConfigError as error:
        hint = input_args.misplaced_input(args.config)
        if hint is None and error.code in ("missing_configuration", "unreadable_configuration"):
            hint = input_args.misplaced_text(args.config)
        error.hint = hint or error.hint
        raise
    defaults = settings.generation
    sampling = sampling_params(args, replace(defaults.sampling, seed=settings.seed))
    leading = common.is_first(args)
    dialogue = args.interactive or (
        defaults.text_gen_type == "interactive" and args.input is args.chat is args.prompt is None
    )
    if dialogue:
        if args.output or args.resume or args.overwrite or args.num_samples or (args.replicas or 1) > 1:
            raise UsageError(
                "--interactive cannot be combined with -o, --resume, --overwrite, --num-samples or --replicas",
                code="conflicting_options",
            )
        args.replicas = 1
        streams.check_stdout()
        options = GenerateOptions(
            [],
            dialogue=sampling,
            truncate=args.truncate,
            prompt_end=_prompt_end(args, defaults),
            keep_history=not args.no_history,
        )
    elif leading:
        if args.input is args.chat is args.prompt is defaults.sample_input_file is None and common.is_alone(args):
            args.input = input_args.piped_input()
        options, prompts = _options(args, settings, sampling, held)
    else:
        options = GenerateOptions([])
    # Processes that do not read the prompts plan, too, and must come to the same.
    work = DIALOGUE if dialogue else TYPICAL_PROMPTS
    if options.prompts and common.is_alone(args):
        work = _work(options.prompts, settings.model.max_context)
    plan = common.plan_from_args(args, settings, common.devices_from_args(args), work, args.batch_size)
    common.check_files(settings, random_weights=args.random_weights)
    check_logit_bias(sampling, settings)
    if options.output is not None:
        checksum, own = _checksum(prompts, sampling), _own_parameters(prompts, sampling)
        answered = {prompt.id for prompt in prompts} - {prompt.id for prompt in options.prompts}
        how = output_args.sampling_keys(sampling) | {"truncate": args.truncate, "own": own}
        made = output_args.work_of(args, "generate", settings, plan, checksum, how)
        wanted, source = options.finished + len(options.prompts), args.input or args.chat
        checked = output_args.check_work(args, options.output, made, source, wanted, answered=answered)
        options = replace(options, made=checked)
    if options.output is not None and not options.prompts and common.is_alone(args):
        records.RecordWriter(options.output, sys.stdout, resume=True).close()  # drops a half-written line
        log.info(f"nothing to do: {options.output} already has {counted(options.finished, 'record')}")
        return 0
    if leading:
        jobs.log_plan(plan)
    launcher.run_job(
        jobs.job_for(
            args,
            "generate",
            settings,
            plan,
            options,
            interactive=dialogue,
            kept=lines.AGAIN if options.output is None else lines.KEPT,
            records=options.output,
            lock=None if options.output is None else lock_file(options.output),
            replaces=not args.resume,
        )
    )


def _work(prompts: Sequence[Prompt], max_context: int) -> Work:
    """The prompts in numbers; how many tokens they have is guessed, as the ranks encode them."""
    count = len(prompts)
    letters = sum(len(prompt.context) for prompt in prompts)
    answers = [min(prompt.params.maximum_tokens, max_context) for prompt in prompts]
    return Work(count, max(1, letters // (_TOKEN_LETTERS * count)), max(1, sum(answers) // count), max(answers))


def _options(
    args: argparse.Namespace, settings: Settings, sampling: SamplingParams, held: ExitStack
) -> tuple[GenerateOptions, list[Prompt]]:
    """The work, of which what an earlier run has done is taken off, and all prompts that were asked for."""
    defaults = settings.generation
    prompts, default_output = _prompts(args, settings, sampling)
    if any(prompt.sample and prompt.params.temperature == 0 for prompt in prompts):
        log.warning("at temperature 0 all answers to a prompt are the same: give --temperature")
    named = args.output or defaults.sample_output_file or default_output
    output = None if named is None else lines.output_of(str(named))
    finished: set[records.RecordKey] = set()
    plain_text = args.prompt is not None and args.output is None and output is None
    if plain_text and args.logprobs is not None:
        raise UsageError(
            "--logprobs needs records, and this prints the text alone",
            code="missing_option",
            hint="Add -o - to print the record, or -o FILE.",
        )
    if output is None:
        streams.check_stdout()
    if output is not None:
        held.enter_context(output_lock(output))
        lines.check_output(output, args.input or args.chat, "--resume" if args.resume else None)
        if not (args.resume or args.overwrite):
            lines.refuse_other_lines(output)
        if args.resume:
            finished = records.finished_keys(output, prompts)
    elif args.resume:
        raise UsageError("--resume needs a file to continue", code="missing_option", hint="Name it with -o FILE.")
    options = GenerateOptions(
        prompts=[prompt for prompt in prompts if prompt.key not in finished],
        finished=len(finished),
        output=output,
        plain_text=plain_text,
        keep_partial=args.prompt is not None,
        resume=args.resume,
        batch_size=args.batch_size,
        truncate=args.truncate,
    )
    return options, prompts


def _differing(prompt: Prompt, sampling: SamplingParams) -> dict[str, Any]:
    """The parameters of a prompt that are not the usual ones."""
    usual = vars(sampling)
    return {name: value for name, value in vars(prompt.params).items() if value != usual[name]}


def _own_parameters(prompts: Sequence[Prompt], sampling: SamplingParams) -> dict[str, str]:
    """A checksum of the parameters that a prompt sets itself, by its id as JSON; prompts that set none have none."""
    found = {}
    for prompt in prompts:
        if not prompt.sample:
            own = _differing(prompt, sampling)
            own.pop("seed", None)
            if seed := (prompt.params.seed - sampling.seed) % 2**64:  # above: the prompt's index
                own["seed"] = seed
            if own:
                found[json.dumps(prompt.id)] = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]
    return found


def _checksum(prompts: Sequence[Prompt], sampling: SamplingParams) -> str:
    """Of the prompts, with the parameters that are their own."""
    whole = hashlib.sha256()
    for prompt in prompts:
        own = _differing(prompt, sampling)
        own["seed"] = prompt.params.seed - sampling.seed
        whole.update(json.dumps([prompt.id, prompt.sample, prompt.context, own, prompt.complete]).encode())
    return whole.hexdigest()[:16]


def _prompts(args: argparse.Namespace, settings: Settings, sampling: SamplingParams) -> tuple[list[Prompt], str | None]:
    """The prompts, and the default output file for their records; None is stdout."""
    defaults = settings.generation
    wanted = args.num_samples or defaults.num_samples
    if args.prompt is not None:
        check_unicode(args.prompt)
        reading.check_count(args.num_samples or 1)
        if (args.num_samples or 1) >= _MANY_SAMPLES:
            log.info(f"{args.num_samples} answers: -n is the number of answers, --maximum-tokens the length of each")
        return list(reading.expand_prompt(0, 0, args.prompt, sampling, args.num_samples or 1)), None
    source = args.input or args.chat or defaults.sample_input_file
    if source is not None:
        if args.output is None and defaults.sample_output_file is None and _is_stream(Path(source)):
            raise UsageError(
                f"{source} is a stream, so the output file has no default name",
                code="missing_option",
                hint="Name the output with -o FILE; -o - is stdout.",
            )
        found = reading.read_prompts(
            open_source(
                str(source),
                end=_prompt_end(args, defaults),
                wanted=args.input_format,
                text=args.chat is None,
                missing="Give a file with -i, or --prompt TEXT.",
            ),
            params=sampling,
            num_samples=args.num_samples or 1,
            render=_renderer(settings.tokenizer),
            chat=args.chat is not None,
            strict=args.strict_keys,
        )
        return found, None if source == "-" else f"{source}.output.jsonl"
    count = wanted or _UNCONDITIONAL_SAMPLES
    reading.check_count(count)
    if count > 1 and sampling.temperature == 0:
        log.warning("at temperature 0 all samples are the same: give --temperature")
    samples = (next(reading.expand_prompt(i, i, "", sampling, 1)) for i in range(count))
    return list(samples), _UNCONDITIONAL_OUTPUT


def _renderer(tokenizer: TokenizerConfig) -> Render:
    """Makes the text of a conversation; the template is read with the first one."""

    from neoxrun.tokenizer.chat import read_chat_template

    template = cache(partial(read_chat_template, tokenizer))
    return lambda messages, where: template().render(messages, where=where)


def _is_stream(source: Path) -> bool:
    """Whether a file of prompts is a pipe, such as that of `<(...)`, or another name of stdin."""
    return source.is_fifo() or source.is_relative_to("/dev") or source.is_relative_to("/proc")


def _prompt_end(args: argparse.Namespace, defaults: GenerationConfig) -> str:
    end = defaults.prompt_end if args.prompt_end is None else unescape(args.prompt_end)
    if not end:
        raise UsageError(
            "--prompt-end is empty",
            code="invalid_value",
            hint=r"Give the text between two prompts, for example '\n---\n'.",
        )
    return end
