"""Every mistake a user can make, as an exception that builds its own message. Other exceptions are turned into these.

Each has an exit code, which says what kind of mistake it is, and a ``code``, a word for the mistake itself. Both are
stable: programs and tests go by them. ``docs/errors.md`` is made of the tables below.
"""

# Long because: it has every code of the program, and a page is made of it.

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import Any, Final

EXIT_CODES: Final[Mapping[int, str]] = {
    0: "success",
    1: "a defect of neoxrun",
    2: "usage or configuration",
    3: "checkpoint",
    4: "data, files and network",
    5: "a rank died or ran out of memory",
    6: "the folders differ",
    130: "interrupted with Ctrl-C",
    141: "stdout was closed by its reader",
    143: "ended by SIGTERM",
}
"""What each exit code of a command means."""

CODES: Final[Mapping[int, Mapping[str, str]]] = {
    1: {
        "broken_installation": "A library cannot be loaded. Install neoxrun again, into a fresh environment.",
        "defect": "neoxrun itself went wrong. Please report it, with the output of the same command and -v.",
    },
    2: {
        "another_process": "The LLM was made before this process was forked. Make it in the process that uses it.",
        "bad_environment": "An environment variable has a value that cannot be used. Correct it or unset it.",
        "closed": "The LLM is closed, and its weights are freed. Make another one.",
        "conflicting_options": "Two options contradict each other. Keep one of them.",
        "different_commands": "The hosts were started with different commands. Give each the same command line.",
        "does_not_fit": "The model needs more memory than there is. The hint names splits and formats that fit.",
        "impossible_split": "The model cannot be divided like this. The hint says which --tp and --pp are possible.",
        "incomplete_configuration": "The configuration lacks an option that is needed. Set it in a file or with --set.",
        "invalid_value": "An option has a value that it cannot have. The message says which values it can have.",
        "invalid_yaml": "The file is not valid YAML. Correct the line that is named.",
        "missing_configuration": "There is no such configuration file. Check the path, or name one that neoxrun has.",
        "missing_option": "An option needs another one. The message says which to add.",
        "missing_package": "An optional Python package is needed and not installed. Install it.",
        "no_gpu": "A GPU was asked for and is not visible. Check nvidia-smi and CUDA_VISIBLE_DEVICES.",
        "old_driver": "The NVIDIA driver is older than torch's CUDA. Update it, or install torch for an older CUDA.",
        "unknown_command": "There is no such command. `neoxrun help` lists the commands.",
        "unknown_download": "There is no such model or data to download. See `neoxrun download --list`.",
        "unknown_option": "A key or a parameter is not known, most likely misspelt. The hint names what is known.",
        "unknown_task": "There is no such task. The hint names those that are most alike.",
        "unreadable_configuration": "The configuration file cannot be read. Check its permissions and its encoding.",
        "unsupported_option": "The configuration asks for something that neoxrun does not have. Use another model.",
        "unsupported_task": "neoxrun does not run tasks of this kind. Leave the task out.",
        "usage": "The command line is wrong; it may have an unknown option. See `neoxrun help COMMAND`.",
        "wrong_number_of_ranks": "torchrun or Slurm has started another number of ranks than the plan has. Change one.",
    },
    3: {
        "damaged_file": "A file of weights is cut short or damaged. Copy or download it again.",
        "different_checkpoints": "The hosts have different checkpoints. Give each the same files and iteration.",
        "duplicate_revisions": "Revisions have the weights of others. Leave them out, or give --allow-duplicates.",
        "failed_proof": "A converted folder is not equal to its source. Remove it, and convert again.",
        "mismatched_adapter": "The adapter is of another model, or incomplete. Name the model that it was trained on.",
        "mismatched_configuration": "The checkpoint is of another model than the configuration. Name the right one.",
        "mismatched_tokenizer": "The tokenizer is of another model than the weights. Name the right one.",
        "missing_adapter": "There is no adapter in the folder. Check --adapter.",
        "missing_checkpoint": "There is no checkpoint in the folder. Check --checkpoint, or download the weights.",
        "missing_iteration": "There is no checkpoint of this iteration. The hint lists the available ones.",
        "missing_shard": "Files of the checkpoint are missing. Copy or download them again.",
        "mixed_checkpoints": "The folder holds files of two checkpoints. Move those of one elsewhere.",
        "nonfinite_weights": "Weights are NaN or infinite, or too large for --dtype. Try bf16 or an earlier iteration.",
        "unreadable_checkpoint": "A file of the checkpoint cannot be read. Check its permissions, or copy it again.",
        "unsafe_file": "A file asks to run code when it is opened; none was run. Use weights from a source you trust.",
        "unsupported_adapter": "neoxrun does not read adapters of this kind. The hint says how to merge it.",
        "unsupported_checkpoint": "neoxrun does not read checkpoints of this kind. The hint says how to convert it.",
        "verification_failed": "Files are not what they should be. `neoxrun download --repair` fetches them again.",
        "wrong_checksum": "A file arrived with another checksum than was published. Try later, or another mirror.",
        "wrong_shape": "A tensor has another shape than the configuration asks for. Check that they belong together.",
        "wrong_tensors": "A file lacks tensors of the configuration, or has others. Check that they belong together.",
    },
    4: {
        "access_refused": "The server does not let you in. Log in, or ask the owner for access.",
        "bad_address": "An address of a file is not a URL to download from. Give it one with http or https.",
        "bad_answer": "A server's answer cannot be used. Check the address, and whether the network asks for a login.",
        "bad_chat_template": "The model's chat template is wrong, or fails on the messages. Get its file again.",
        "bad_data": "The data of a task is wrong or damaged. Fetch it again, or correct the line that is named.",
        "bad_document": "A row of the texts is wrong. Correct the line that is named, or leave it out.",
        "bad_file": "A file of checksums, answers or results does not have its format. Correct it, or name another.",
        "bad_input": "The input is not of its format, or damaged. Correct the line that is named, or copy it again.",
        "bad_prompt": "A row of the prompts is wrong, or has an id that another has. Correct it.",
        "bad_task": "The file of a task is wrong. Correct what the message names.",
        "bad_tokenizer": "The tokenizer's files are wrong or damaged. Copy or download them again.",
        "different_run": "The output file or folder is that of a different run. Name another, or follow the hint.",
        "disk_full": "The disk has too little room. Make room, or name a folder on another disk.",
        "existing_target": "The folder to be written has something in it. Name another, or follow the hint.",
        "failed_download": "A file could not be fetched from anywhere. Give the same command again: it continues.",
        "failed_logging": "Weights & Biases cannot be used. Check `wandb login` and the network.",
        "folder_in_use": "Another neoxrun is writing into the folder. Wait for it, or end it.",
        "foreign_record": "The file to resume holds something else than these prompts' records. Name another with -o.",
        "foreign_tokens": "The data have token ids that the model does not have. Use its own tokenizer.",
        "missing_column": "The texts have no such key or column. The hint lists the available ones.",
        "missing_data": "There is no data for a task, or in a run. The hint says how to get it.",
        "missing_file": "A file or folder does not exist. Check the path.",
        "no_chat_template": "The model has no chat template. Write its prompts out, or add the template to its folder.",
        "no_documents": "There are no texts in the input. Check that it is the right file.",
        "no_prompts": "The prompt file holds no prompts. Write one a line.",
        "no_tokens": "A text has no tokens, or too few to learn from. Leave it out, or give it a context.",
        "not_found": "The server has no such repository or revision. Check the name.",
        "not_text": "Text is not valid UTF-8 or Unicode. Convert it, for example with iconv.",
        "other_file": "The file to write exists and is not neoxrun's. Name another, or give --overwrite.",
        "output_in_use": "Another run is writing to the output file. Wait for it to end, or name another with -o.",
        "system_refused": "The system refused something, in its own words. Check the file that is named.",
        "too_long": "A text has more tokens than the model's context holds. Shorten it.",
        "too_many_requests": "The server asks for patience. Wait, or log in.",
        "unanswered_prompts": "Some prompts could not be answered. Their records say why; --resume tries them again.",
        "unfinished_output": "The file has a part of the records. --resume continues, --overwrite starts over.",
        "unreachable_server": "A server cannot be reached. Check the network and the proxy settings.",
        "unreadable_file": "The system refuses to read a file. Check its permissions.",
        "unwritable_file": "A file, a folder or standard output cannot be written. Check the path and the permissions.",
    },
    5: {
        "diverged": "A loss or a gradient is not a number, or the loss has jumped. The last checkpoint is kept.",
        "failed_start": "torchrun could not start the ranks. The message has its reason.",
        "lost_contact": "A rank lost contact with the others. Check the network between the hosts.",
        "no_meeting": "The hosts did not meet. Start the same command on each, with the same --rdzv-endpoint.",
        "nonfinite_output": "The model's output is not a number. Try --dtype bf16 or --dtype fp32.",
        "out_of_memory": "A device or the host ran out of memory. Lower --batch-size, or use more devices.",
        "rank_died": "A rank was killed or ended by itself. Its last lines are shown; see also `dmesg`.",
        "stuck_rank": "A rank made no step for --stall-timeout seconds. Its stack is shown; see also `nvidia-smi`.",
    },
    6: {"different": "The two folders that `neoxrun diff` compared hold different numbers. Its table says where."},
    130: {
        "interrupted": "Ctrl-C. Finished work is kept. --resume continues it, or else the same command.",
        "stopped": "Ctrl-C or SIGTERM in a training, which has written a checkpoint. --resume continues it.",
    },
    141: {"reader_gone": "The program that read stdout has ended, as `head` does. Nothing is reported."},
    143: {"terminated": "`docker stop`, a batch system or `kill`. What was finished is kept, as after Ctrl-C."},
}
"""Every code, grouped by exit code: what has happened, and what to do about it."""


class NeoxrunError(Exception):
    """A failure with one clear message: what went wrong, where, and what to do.

    Args:
        message: what is wrong, one sentence without a final full stop.
        code: which mistake it is, of those that ``CODES`` has for the exit code. Only classes with a single code have
            a default.
        where: ``file`` or ``file:line`` that the message is about.
        hint: what to do about it, in sentences.

    Attributes:
        shared: every rank raises this same error, so that one of them may report it for all.

    Raises:
        AssertionError: the code is not among those of this exit code.
    """

    exit_code = 1
    code = "defect"

    def __init__(
        self, message: str, *, code: str | None = None, where: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.where = where
        self.hint = hint
        self.shared = False
        assert self.code in CODES[self.exit_code], f"no code of exit code {self.exit_code}: {self.code}"

    def __str__(self) -> str:
        """The message, and below it the place and the hint, as a traceback shows them."""
        return self.render().removeprefix("error: ") or self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, by which errors travel between ranks: ``__init__`` would ask for the code again."""
        return type(self).__new__, (type(self), self.message), vars(self)

    def render(self, *, verbose: bool = False) -> str:
        """The text for the terminal: ``error: ...``, ``  --> where``, a blank line and ``hint: ...``.

        With ``verbose`` also ``code: ...``. Empty if nothing is to be shown.
        """
        text = f"error: {self.message}"
        if self.where:
            text += f"\n  --> {self.where}"
        if self.hint:
            text += f"\n\nhint: {self.hint}"
        return f"{text}\ncode: {self.code}" if verbose else text


class UsageError(NeoxrunError):
    """A command line that cannot be carried out."""

    exit_code = 2


class ConfigError(NeoxrunError):
    """A configuration that is missing, unreadable, contradictory or not supported."""

    exit_code = 2


class CheckpointError(NeoxrunError):
    """Checkpoint files that are missing, damaged, unsafe or do not match the configuration."""

    exit_code = 3


class DataError(NeoxrunError):
    """Prompt files, tokenizers, data sets and output files that cannot be read or written."""

    exit_code = 4


class NetworkError(NeoxrunError):
    """A server that cannot be reached or answers wrongly."""

    exit_code = 4


class RankError(NeoxrunError):
    """A rank that died, got stuck or ran out of memory."""

    exit_code = 5


class Different(NeoxrunError):
    """Two things that were compared are not equal. The result, on stdout, says so itself."""

    exit_code = 6
    code = "different"

    def render(self, *, verbose: bool = False) -> str:
        """Nothing."""
        return ""


class Interrupted(NeoxrunError):
    """The user asked to stop (Ctrl-C)."""

    exit_code = 130
    code = "interrupted"


class Stopped(NeoxrunError):
    """A training that was asked to stop, by Ctrl-C or SIGTERM, and has written its checkpoint."""

    exit_code = 130
    code = "stopped"


class Terminated(NeoxrunError):
    """The system asked to stop (SIGTERM)."""

    exit_code = 143
    code = "terminated"


class ReaderGone(NeoxrunError):
    """Nobody reads stdout any more. Every other program ends with this exit code then, and without a word."""

    exit_code = 141
    code = "reader_gone"

    def render(self, *, verbose: bool = False) -> str:
        """Nothing."""
        return ""


def classify(error: BaseException, rank: int | None = None) -> NeoxrunError:
    """Any exception as one with a message, a code and an exit code.

    Every boundary at which a process ends (``cli``, ``launch.start``, ``launch.agent``, ``launch.worker`` and
    ``evaluation.__main__``) asks this, and so does whoever passes a failure on to other ranks or threads.

    Args:
        error: what was raised. A ``NeoxrunError`` stays as it is.
        rank: the rank that it was raised on, for the message; None outside of a rank.
    """
    if isinstance(error, NeoxrunError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    if isinstance(error, BrokenPipeError):
        return ReaderGone("stdout was closed by its reader")
    where = None if rank is None else f"rank {rank}"
    if _is_out_of_memory(error):
        return RankError(
            f"out of memory on {where}{_wanted(str(error))}" if where else f"out of memory{_wanted(str(error))}",
            code="out_of_memory",
            hint="Lower --batch-size, spread the model over more devices (--tp, --pp), or see `neoxrun plan`.",
        )
    if _is_lost_contact(error, rank):
        return RankError(
            f"{where or 'this process'} lost contact with another rank: {error}",
            code="lost_contact",
            hint="If none of them died, the hosts cannot reach each other: GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME "
            "name the network interface to use.",
        )
    if isinstance(error, OSError):
        return DataError(
            f"the system says: {error.strerror or error}",
            code=writing_code(error, "system_refused"),
            where=None if error.filename is None else str(error.filename),
        )
    return NeoxrunError(
        f"{type(error).__name__}: {error}",
        where=where,
        hint="This is a defect of neoxrun: please report it, with the output of the same command and -v.",
    )


def writing_code(error: OSError, otherwise: str = "unwritable_file") -> str:
    """The code for an error of the system while writing: ``disk_full`` if the disk is full, else ``otherwise``."""
    return "disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else otherwise


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, the system or one of torch's allocators reports it. torch is not imported: names decide."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    texts = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in texts))
    )


def _wanted(text: str) -> str:
    """How much memory torch was asked for: its message has ``50331648 bytes`` on the CPU, ``20.00 MiB`` on a GPU."""
    match = re.search(r"tried to allocate ([\d.]+) (\w+)", text, re.IGNORECASE)
    if match is None:
        return ""
    amount = f"{match[1]} {match[2]}"
    if match[2] == "bytes":
        amount = f"{int(match[1]) / 1e9:.1f} GB" if int(match[1]) >= 10**9 else f"{max(1, int(match[1]) / 1e6):.0f} MB"
    return f", which asked for {amount} more"


def _is_lost_contact(error: BaseException, rank: int | None) -> bool:
    """Whether another rank cannot be reached, as torch.distributed, or on a rank gloo, NCCL or a socket, reports it."""
    if any((base.__module__, base.__name__) == ("torch.distributed", "DistError") for base in type(error).__mro__):
        return True
    said = isinstance(error, RuntimeError) and any(word in str(error) for word in ("Connection", "gloo", "NCCL"))
    return rank is not None and (said or isinstance(error, ConnectionError))
