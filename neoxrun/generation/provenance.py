"""``FILE.meta.json``: what made the records of FILE, so that no other work replaces or continues them. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from neoxrun.errors import DataError
from neoxrun.generation.lines import OTHER_OUTPUT, check_output, unwritable
from neoxrun.version import __version__

Provenance = Mapping[str, Any]
"""What made records, as JSON values. ``checkpoint`` and ``earlier`` are for people; all else is compared.

``own`` are checksums of the parameters that prompts set themselves, by id. ``input`` covers them, too, so they are
compared only where records are continued, those of prompts that have records.
"""

_INPUT: Final = "input"
_TRUNCATE: Final = "truncate"
_OWN: Final = "own"
_NOT_COMPARED: Final = ("checkpoint", "earlier", _OWN)


def provenance_of(
    command: str, *, model: str, checkpoint: str, dtype: str, input_checksum: str, how: Mapping[str, Any]
) -> dict[str, Any]:
    """What makes the records of a run.

    Args:
        command: the name of the command.
        model: tells the model from others.
        checkpoint: where its weights are.
        dtype: the number format.
        input_checksum: a checksum of the input.
        how: the options that the records depend on.
    """
    made = {"version": __version__, "command": command, "model": model, "checkpoint": checkpoint, "dtype": dtype}
    # As they come back from the file.
    values: dict[str, Any] = json.loads(json.dumps({**made, **how, _INPUT: input_checksum}))
    return values


def meta_file(output: Path) -> Path:
    """The file next to an output that holds its provenance; next to the file itself where the output is a link."""
    target = output.resolve() if output.is_symlink() else output
    return target.with_name(f"{target.name}.meta.json")


def check_replacing(output: Path, made: Provenance, source: str | None, unfinished: Path | None = None) -> None:
    """Refuse to replace records unless the same work made them.

    Args:
        output: the file; what it holds, if anything, are records.
        made: the work that is asked for.
        source: the input, if it has a name.
        unfinished: where records are as long as they are not all there, if it is another file.

    Raises:
        DataError: other work made the records, or it is not known which; or the file for the provenance holds
            something else.
        UsageError: that file is the input.
    """
    before = _checked(output, source)
    if not (_has_records(output) or _has_records(unfinished)):
        return
    hint = "Name another file with -o, or give --overwrite to replace this one."
    if before is None:
        raise DataError(
            f"{output} has records, and {meta_file(output).name}, which would say what made them, does not exist",
            code="different_run",
            where=str(output),
            hint=hint,
        )
    _refuse(output, _differences(before, made), hint)


def check_continuing(
    output: Path,
    made: Provenance,
    source: str | None,
    unfinished: Path | None = None,
    *,
    answered: Collection[str | int] = (),
    anyway: bool,
    hint: str,
) -> Provenance:
    """Refuse to add records to those of another model or way to run it; returns the provenance of them all.

    Of the input only the parameters of answered prompts are compared: the records themselves say to which texts they
    belong. No record of a run without --truncate depends on it, since what was too long is tried again. Records
    without a provenance are continued: earlier versions wrote none.

    Args:
        output: the file of records.
        made: the work that is asked for.
        source, unfinished: as for ``check_replacing``.
        answered: ids of the prompts that have records.
        anyway: refuse nothing.
        hint: what to do where they are refused.

    Raises:
        DataError: other work made the records, or the file for the provenance holds something else.
        UsageError: that file is the input.
    """
    before = _checked(output, source)
    if not (_has_records(output) or _has_records(unfinished)):
        return made
    if before is None:
        return {**made, "earlier": ["unknown"]}
    different = _differences(before, made)
    different.pop(_INPUT, None)
    if before.get(_TRUNCATE) is None:
        different.pop(_TRUNCATE, None)
    if "command" not in different and (changed := _changed_parameters(before, made, answered)):
        more = f" and of {len(changed) - 1} more" if len(changed) > 1 else ""
        different[_OWN] = f"the parameters of the prompt {changed[0]}{more} differ"
    if not anyway:
        _refuse(output, different, hint)
    earlier = before.get("earlier") or []
    if not different:
        return {**made, "earlier": earlier} if earlier else made
    return {**made, "earlier": [*earlier, {key: value for key, value in before.items() if key != "earlier"}]}


def write_provenance(output: Path | None, made: Provenance | None) -> None:
    """Write the file next to an output, whole or not at all; nothing for a stream.

    Raises:
        DataError: it cannot be written.
    """
    if output is None or made is None or (output.exists() and not output.is_file()):
        return
    path = meta_file(output)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise unwritable(path, error) from None


def _has_records(path: Path | None) -> bool:
    return path is not None and path.is_file() and path.stat().st_size > 0


def _checked(output: Path, source: str | None) -> dict[str, Any] | None:
    """The provenance of an output, whose file can be written; None where there is none.

    Raises:
        DataError: the file holds something else.
        UsageError: it is the input.
    """
    path = meta_file(output)
    check_output(path, source, None)
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not {"version", "command", "model"} <= values.keys():
        raise DataError(
            f"{path} is not neoxrun's, which would write there what made the records",
            code="other_file",
            where=str(path),
            hint=f"{OTHER_OUTPUT} Or rename that file.",
        )
    return values


def _differences(before: Provenance, made: Provenance) -> dict[str, str]:
    """What differs, each with a text that says how."""
    old, new = _flat(before), _flat(made)
    found = {}
    for key in sorted(dict.fromkeys([*new, *old]), key=lambda key: key == _INPUT):
        if key not in _NOT_COMPARED and old.get(key) != new.get(key):
            found[key] = f"{key} was {_shown(key, old, before)}, is {_shown(key, new, made)}"
    if "command" in found:  # the rest has other keys
        return {"command": found["command"]}
    if _INPUT in found:
        found[_INPUT] = f"the {'texts' if made['command'] == 'score' else 'prompts'} differ"
    return found


def _changed_parameters(before: Provenance, made: Provenance, answered: Collection[str | int]) -> list[str]:
    """The ids, as JSON, of answered prompts that set other parameters themselves."""
    old, new = before.get(_OWN), made.get(_OWN)
    if not isinstance(old, dict) or not isinstance(new, dict):
        return []
    return [key for key in sorted(map(json.dumps, answered)) if old.get(key) != new.get(key)]


def _shown(key: str, flat: Mapping[str, Any], whole: Provenance) -> str:
    value = flat.get(key)
    if key == "model":
        return f"{value} ({whole.get('checkpoint')})"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _flat(values: Provenance) -> dict[str, Any]:
    """The sampling parameters next to all other keys."""
    inner = values.get("sampling")
    rest = {key: value for key, value in values.items() if key != "sampling"}
    return {**rest, **inner} if isinstance(inner, dict) else rest


def _refuse(output: Path, different: Mapping[str, str], hint: str) -> None:
    if different:
        raise DataError(
            f"the records in {output} come from a different run: {'; '.join(different.values())}",
            code="different_run",
            where=str(meta_file(output)),
            hint=hint,
        )
