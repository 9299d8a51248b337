"""The command line: parse, dispatch, and end with an exit code. No torch here."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import sys
from collections.abc import Collection, Sequence
from typing import IO, Any

from neoxrun.commands.foreign import translate
from neoxrun.errors import EXIT_CODES, Interrupted, Terminated, UsageError, classify
from neoxrun.launch.termination import Termination
from neoxrun.launch.world import existing_world
from neoxrun.terminal import log, streams
from neoxrun.terminal.json_lines import asks_for_json
from neoxrun.terminal.words import did_you_mean, printable
from neoxrun.version import __version__

# Each is a module of neoxrun.flags with add_arguments(parser), which is all that its help needs, and one of
# neoxrun.commands with run(args); what it does, in one sentence.
COMMANDS = {
    "download": "Download weights, tokenizers and task data, and check that every file is complete.",
    "generate": "Generate text: continue prompts from a file, from the command line or in a dialogue, or write freely.",
    "evaluate": "Measure the model on standard tasks (LAMBADA, PIQA, ...) with EleutherAI's lm-evaluation-harness.",
    "score": "Score the texts of a file: log-probabilities of tokens, words and documents, and perplexities.",
    "finetune": "Train a model on your texts, or an adapter for it (LoRA), with DeepSpeed on one or more GPUs.",
    "plan": "Show what will run where, and how much memory it needs.",
    "inspect": "Show what is in a folder of weights, what a configuration for it says, and what is odd about it.",
    "convert": "Write a checkpoint as GPT-NeoX files of any split or as a Hugging Face folder, and prove it equal.",
    "diff": "Compare two folders of weights of any kind, tensor by tensor.",
    "bench": "Measure what this machine gives: start, load and generation, next to the limits of its hardware.",
    "plot": "Draw the losses of a fine-tuning, which may still be running, as a picture.",
    "completion": "Print a script that completes commands and options in bash, zsh or fish.",
}

_SHORT = {"eval": "evaluate", "gen": "generate", "benchmark": "bench"}
# Commands of other tools.
_ELSEWHERE = {
    "chat": "`neoxrun generate CONFIG --interactive` is a dialogue.",
    "run": "`neoxrun generate CONFIG --prompt TEXT` answers one prompt, and --interactive is a dialogue.",
    "complete": "`neoxrun generate CONFIG --prompt TEXT` continues a text.",
    "list": "`neoxrun download --list` shows the models, and `neoxrun evaluate --tasks list` the tasks.",
    "pull": "`neoxrun download NAME` fetches a model.",
    "serve": "There is no server yet; neoxrun.LLM is the same in Python.",
}

# Where a word is after the options, which takes it for none of the configurations.
_STRAY = {
    "generate": "A text to continue is given with --prompt TEXT, and a file of prompts with -i FILE.",
    "score": "A file of texts is given with -i FILE.",
    "finetune": "Files to train on are given with --data FILE.",
    "evaluate": "Tasks are given with --tasks.",
}

_EXIT_CODES = "exit codes:\n" + "".join(f"  {code:<3}  {meaning}\n" for code, meaning in EXIT_CODES.items())


class _Parser(argparse.ArgumentParser):
    """A parser that raises its errors, so that they are handled like all others.

    What begins like a negative number is never an option: ``--lr -1e-5`` and ``--devices -2xH100`` are answered by what
    reads the value.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message, code="usage", hint=f"See `{self.prog} --help`.")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """As argparse's, with the value that is meant."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            choices = {str(choice) for choice in action.choices or ()}
            near = did_you_mean(str(value), choices, 1)
            if choices.issuperset(parts := str(value).split(",")):
                near = f"Write {' '.join(parts)}, with spaces."
            raise UsageError(str(error), code="usage", hint=f"{near} See `{self.prog} --help`.".strip()) from None

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:  # type: ignore[override]
        """Help that cannot be written is an error too, which argparse would ignore."""
        streams.check_stdout()
        sys.stdout.write(message)
        sys.stdout.flush()


class _CommandParser(_Parser):
    """The parser of one command, which understands other tools' names of its options, too."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str], namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's."""
        return super().parse_known_args(translate(self.prog.split()[-1], args, self), namespace)


def build_parser(loaded: Collection[str] = COMMANDS.keys()) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        loaded: the commands whose options are known. The others only have their names.
    """
    parser = _Parser(
        prog="neoxrun",
        description="Run GPT-NeoX models (GPT-NeoX-20B, Pythia, Polyglot, your own training runs) from their "
        "checkpoint files, on any number of GPUs.",
        epilog=f"`neoxrun help COMMAND` shows the options of a command.\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"neoxrun {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_CommandParser)
    for name, description in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=description,
            description=description,
            epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name not in loaded:
            continue
        importlib.import_module(f"neoxrun.flags.{name}").add_arguments(sub)
        messages = sub.add_mutually_exclusive_group()
        messages.add_argument(
            "-v",
            "--verbose",
            action="count",
            default=0,
            help="Show details, the other ranks' messages and the traceback of an error.",
        )
        messages.add_argument("-q", "--quiet", action="store_true", help="Show warnings and errors only.")
        sub.add_argument(
            "--log-format",
            choices=("text", "json"),
            default="text",
            help="With json every message is one JSON object a line, with time, level, rank and message, and errors "
            "also with code and hint. Default: text.",
        )
        sub.set_defaults(build_parser=build_parser)
    return parser


def _asked(words: Sequence[str]) -> list[str]:
    """The command line for the parser: an empty one, `help` and `help COMMAND` all become --help.

    Raises:
        UsageError: there is no such command.
    """
    if not words or words[0] == "help":
        words = [*(word for word in words[1:2] if word != "help"), "--help"]
    name = _SHORT.get(words[0], words[0])
    if name in COMMANDS or name.startswith("-"):
        return [name, *words[1:]]
    if name in _ELSEWHERE:
        raise UsageError(f"there is no command {name}", code="unknown_command", hint=_ELSEWHERE[name])
    close = [command for command in COMMANDS if command.startswith(name)] if name else []
    close = close or difflib.get_close_matches(name, COMMANDS, 1)
    raise UsageError(
        f"there is no command {printable(name) or repr(name)}",
        code="unknown_command",
        hint=f"Did you mean {close[0]}?" if close else f"The commands are {', '.join(COMMANDS)}.",
    )


def _stray(command: str, words: Sequence[str]) -> UsageError:
    """The error for words after the options, where no argument can be."""
    if command.startswith("-"):
        hint = "Options follow the command. See `neoxrun --help`."
        return UsageError(f"neoxrun cannot use {printable(' '.join(words))}", code="usage", hint=hint)
    hint = f"{_STRAY.get(command, 'Arguments are given before the options.')} See `neoxrun {command} --help`."
    return UsageError(f"{command} cannot use {printable(' '.join(words))}", code="usage", hint=hint)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    termination = Termination()
    with termination.answered():
        return _main(sys.argv[1:] if argv is None else argv, termination)


def _main(words: Sequence[str], termination: Termination) -> int:
    verbose = False
    speaks = True
    rank = None
    try:
        streams.open_closed()
        streams.name_stdout()
        world = existing_world()
        # The other ranks of a host meet the same error.
        speaks = world is None or world.local_rank == 0
        rank = None if world is None else world.rank
        log.set_up(0, rank, as_json=asks_for_json(words))
        words = _asked(words)
        args, stray = build_parser(words[:1]).parse_known_args(words)
        if stray:
            raise _stray(words[0], stray)
        verbose = args.verbose > 0
        args.verbosity = -1 if args.quiet else args.verbose
        log.set_up(args.verbosity, rank, as_json=args.log_format == "json")
        code: int = importlib.import_module(f"neoxrun.commands.{args.command}").run(args)
        sys.stdout.flush()
        log.finish_line()
        # Of a job in a child process, which has reported it.
        return Terminated.exit_code if termination.raised and code == Interrupted.exit_code else code
    except (Exception, KeyboardInterrupt) as error:
        failure = termination.rename(classify(error))
        log.details_of(error)
        if isinstance(error, OSError):
            streams.drop_stdout()
    text = log.error_text(failure, rank, verbose=verbose)
    log.finish_line()
    if speaks and text:
        print(text, file=sys.stderr)
    return failure.exit_code
