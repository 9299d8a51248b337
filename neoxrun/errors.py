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
====  =======================================================================
"""

from __future__ import annotations


class NeoxrunError(Exception):
    """A failure with one clear message: what went wrong, where, and what to do.

    Args:
        message: what is wrong, one sentence without a final full stop.
        where: ``file`` or ``file:line`` that the message is about.
        hint: what to do about it.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def render(self) -> str:
        """The text for the terminal: ``error: ...``, ``  --> where``, a blank line and ``hint: ...``."""
        text = f"error: {self.message}"
        if self.where:
            text += f"\n  --> {self.where}"
        if self.hint:
            text += f"\n\nhint: {self.hint}"
        return text


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
