"""Every mistake a user can make, as an exception that builds its own message.

``cli.main`` is the only place that turns one of these into an exit code:

====  =======================================================================
code  meaning
====  =======================================================================
0     everything that was asked for was done
1     a defect of neoxrun itself
2     usage or configuration
3     checkpoint
4     data, files and network
5     a rank died, or ran out of memory
130   interrupted with Ctrl-C
141   the reader of stdout has gone, as `head` does; nothing is said
====  =======================================================================
"""

from __future__ import annotations

READER_GONE = 141
"""Exit code of a command whose stdout nobody reads any more; the shell has it for every other program too."""


class NeoxrunError(Exception):
    """A failure with one clear message: what went wrong, where, and what to do.

    Args:
        message: what is wrong, one sentence without a final full stop.
        where: ``file`` or ``file:line`` that the message is about.
        hint: what to do about it.

    Attributes:
        shared: every rank raises this same error, so that one of them may report it for all.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        self.shared = False

    def render(self) -> str:
        """The text for the terminal: ``error: ...``, ``  --> where``, a blank line and ``hint: ...``."""
        text = f"error: {self.message}"
        if self.where:
            text += f"\n  --> {self.where}"
        if self.hint:
            text += f"\n\nhint: {self.hint}"
        return text


def system_refusal(error: OSError) -> DataError:
    """The system's own error, for what no other message covers."""
    return DataError(
        f"the system says: {error.strerror or error}",
        where=None if error.filename is None else str(error.filename),
    )


def defect(error: Exception) -> NeoxrunError:
    """The message for an exception that should not have been possible."""
    return NeoxrunError(
        f"{type(error).__name__}: {error}",
        hint="This is a defect of neoxrun: please report it, with the output of the same command and -v.",
    )


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


class Interrupted(NeoxrunError):
    """The user asked to stop (Ctrl-C)."""

    exit_code = 130
