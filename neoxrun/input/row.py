"""One row of an input, and where it is."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from neoxrun.errors import DataError
from neoxrun.terminal.words import check_unicode, printable

_WHOLE: Final = re.compile(r"0|-?[1-9]\d{0,18}", re.ASCII)  # 007 is a text


@dataclass(frozen=True, slots=True)
class Row:
    """A row as its format has it; what its keys mean is the reader's business.

    Attributes:
        value: mostly a dict of its keys or columns; whatever else JSON may have. A text's only key is ``text``.
        source: the name of the input.
        number: of the line or the row, from 1.
        unit: what ``number`` counts.
        cells: its values are the cells of a table: all of them texts.
    """

    value: Any
    source: str
    number: int
    unit: Literal["line", "row"] = "line"
    cells: bool = False

    @property
    def where(self) -> str:
        """File and line (or row), for messages."""
        return f"{self.source}:{self.number}" if self.unit == "line" else f"{self.source}, row {self.number}"

    @property
    def fields(self) -> dict[str, Any]:
        """The row's keys.

        Raises:
            DataError: it is not an object.
        """
        if not isinstance(self.value, dict):
            raise DataError(f"this {self.unit} is not a JSON object", code="bad_input", where=self.where)
        return self.value

    def identity(self, index: int) -> str | int:
        """What the row has as ``id``, or else ``index``. In a table, a cell that is a whole number is one.

        Raises:
            DataError: it is not a text or a whole number.
        """
        found = self.fields.get("id")
        if found is None or (self.cells and found == ""):
            return index
        if self.cells and _WHOLE.fullmatch(found):
            return int(found)
        if isinstance(found, float) and found.is_integer():  # of a column in which other rows have none
            return int(found)
        if not isinstance(found, str | int) or isinstance(found, bool):
            raise DataError(
                f'"id" is a text or a whole number, not {printable(json.dumps(found, default=str))}',
                code="bad_input",
                where=self.where,
            )
        check_unicode(str(found), self.where)
        return found


def check_columns(names: Sequence[str], where: str) -> None:
    """Refuse columns of which two have one name.

    Raises:
        DataError: they have.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f'there are two columns with the name "{printable(twice[0])}"',
            code="bad_input",
            where=where,
            hint="Rename one of them.",
        )
