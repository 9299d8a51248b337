"""The command line: parse, dispatch, and the one place where an exception becomes an exit code. No torch here."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Collection, Sequence
from typing import IO

from neoxrun.errors import READER_GONE, Interrupted, NeoxrunError, UsageError, defect, system_refusal
from neoxrun.launch.world import existing_world
from neoxrun.terminal import log, streams
from neoxrun.version import __version__

# Each is a module of neoxrun.commands with add_arguments(parser) and run(args); what it does, in one sentence.
COMMANDS = {
    "download": "Download weights, tokenizers and task data, and check that every file is complete.",
    "generate": "Generate text: continue prompts from a file, from the command line or in a dialogue, or write freely.",
    "evaluate": "Measure the model on standard tasks (LAMBADA, PIQA, ...) with EleutherAI's lm-evaluation-harness.",
    "plan": "Show what will run where, and how much memory it needs.",
}

EXIT_CODES = """\
exit codes:
  0    everything that was asked for was done
  1    a defect of neoxrun
  2    usage or configuration
  3    checkpoint
  4    data, files and network
  5    a rank died or ran out of memory
  130  interrupted with Ctrl-C
  141  the reader of stdout has gone
"""


class _Parser(argparse.ArgumentParser):
    """Wrong usage is an error like any other."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message, hint=f"See `{self.prog} --help`.")

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:  # type: ignore[override]
        """So is help that cannot be written, which argparse takes no notice of."""
        streams.check_stdout()
        sys.stdout.write(message)
        sys.stdout.flush()


def build_parser(loaded: Collection[str] = COMMANDS.keys()) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        loaded: the commands whose modules are imported and whose options are known. The others only have their names:
            a command's own imports take longer than everything else that happens before it runs.
    """
    parser = _Parser(
        prog="neoxrun",
        description="Run GPT-NeoX models (GPT-NeoX-20B, Pythia, Polyglot, own training runs) from their checkpoint "
        "files, on any number of GPUs.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"neoxrun {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, description in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=description,
            description=description,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name not in loaded:
            continue
        module = importlib.import_module(f"neoxrun.commands.{name}")
        module.add_arguments(sub)
        sub.add_argument(
            "-v",
            "--verbose",
            action="count",
            default=0,
            help="Show details, the other ranks' messages and the traceback of an error.",
        )
        sub.add_argument("-q", "--quiet", action="store_true", help="Show warnings and errors only.")
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    verbose = False
    speaks = True
    try:
        streams.open_closed()
        world = existing_world()
        # The other ranks of a host meet the same error.
        speaks = world is None or world.local_rank == 0
        words = sys.argv[1:] if argv is None else list(argv)
        args = build_parser([word for word in words if not word.startswith("-")][:1]).parse_args(words)
        verbose = args.verbose > 0
        args.verbosity = -1 if args.quiet else args.verbose
        log.set_up(args.verbosity, world.rank if world else 0)
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except NeoxrunError as error:
        failure = error
    except KeyboardInterrupt:
        failure = Interrupted("interrupted")
    except BrokenPipeError:
        _drop_stdout()
        return READER_GONE
    except OSError as error:
        _drop_stdout()
        failure = system_refusal(error)
    except Exception as error:
        if verbose:
            traceback.print_exc()
        failure = defect(error)
    if speaks:
        print(failure.render(), file=sys.stderr)
    return failure.exit_code


def _drop_stdout() -> None:
    """Nothing more can be written there: not even what Python still holds back."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
