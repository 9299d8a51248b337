"""A lock on an output file, so that no two runs write to it. No torch.

It is a file of its own, ``.NAME.lock``: the output does not exist at first, and is replaced while a run continues it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from neoxrun.errors import DataError
from neoxrun.locks import held_file, holder


def lock_file(output: Path) -> Path:
    """The file that locks an output; next to the file itself where the output is a link."""
    target = output.resolve()
    return target.with_name(f".{target.name}.lock")


@contextmanager
def output_lock(output: Path | None) -> Iterator[None]:
    """Hold an output file, from before its records are looked at.

    A program that replaces this one (``launcher.run_job``) holds it, too, and removes the file at its end. A stream or
    a device needs no lock, and on a file system without locks there is none.

    Args:
        output: the file; None is stdout.

    Raises:
        DataError: another run holds it.
    """
    if output is None or (output.exists() and not output.is_file()):
        yield
        return
    path = lock_file(output)
    with ExitStack() as held:
        try:
            held.enter_context(held_file(path))
        except BlockingIOError:
            raise DataError(
                f"another run is writing to {output} ({holder(path)})",
                code="output_in_use",
                where=str(output),
                hint="Wait for it to end, or name another file with -o.",
            ) from None
        except OSError:  # no locks here; or no such folder, which whoever opens the output will say
            pass
        yield
