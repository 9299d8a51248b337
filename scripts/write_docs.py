"""Writes the parts of docs/ that follow from the program: everything between two markers such as

    <!-- begin: network keys -->
    <!-- end -->

Run it after a change to what a page is made from. With --check nothing is written, and the exit code is 1 where a
page is not up to date. To add a page: a function from its text to its new text, in PAGES.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from neoxrun import errors
from neoxrun.commands import foreign_names
from neoxrun.config import neox_keys, training_keys
from neoxrun.config.neox_keys import NeoxKey
from neoxrun.config.sampling_names import EXPLAINED_PARAMETERS, FOREIGN_PARAMETERS
from neoxrun.generation.records import RECORD_CODES
from neoxrun.serving.argument_names import EXPLAINED_ARGUMENTS, FOREIGN_ARGUMENTS

ROOT = Path(__file__).resolve().parents[1]


def configuration(page: str) -> str:
    """Every key of GPT-NeoX, and those that neoxrun adds."""
    used = {
        "network keys": neox_keys.NETWORK,
        "file keys": neox_keys.FILES,
        "split keys": neox_keys.SPLIT,
        "generation keys": neox_keys.GENERATION,
        "own keys": neox_keys.OWN,
    }
    for name, keys in used.items():
        page = fill(page, name, _key_table(keys))
    fixed = ([_code(name), _values(values)] for name, values in neox_keys.FIXED.items())
    page = fill(page, "fixed keys", table(["key", "accepted"], fixed))
    return fill(page, "ignored keys", textwrap.fill(", ".join(map(_code, sorted(neox_keys.IGNORED))), 120))


def finetune_page(page: str) -> str:
    """GPT-NeoX's keys of training: those that are read, and those that are refused."""
    page = fill(page, "training keys", _key_table(training_keys.TRAINING))
    refused = [([_code(name), _values(values)]) for name, values in sorted(training_keys.REFUSED.items())]
    switched = [[_code(name), "`null`, or a mapping with `enabled: false`"] for name in training_keys.SWITCHED]
    return fill(page, "refused keys", table(["key", "accepted"], [*refused, *switched]))


def errors_page(page: str) -> str:
    """Every exit code, every code of an error, and every code of a record."""
    page = fill(
        page, "exit codes", table(["exit code", "meaning"], ([str(n), m] for n, m in errors.EXIT_CODES.items()))
    )
    sections = (
        f"### {exit_code}: {errors.EXIT_CODES[exit_code]}\n\n"
        + table(["code", "what happened", "what to do"], ([_code(code), *_split(text)] for code, text in codes.items()))
        for exit_code, codes in errors.CODES.items()
    )
    page = fill(page, "codes", "\n\n".join(sections))
    rows = ([_code(code), meaning] for code, meaning in RECORD_CODES.items())
    return fill(page, "record codes", table(["code", "meaning"], rows))


def coming_from(page: str) -> str:
    """Every option, argument and parameter that other tools call otherwise."""
    names = (
        [", ".join(map(_code, row.names)), _code(row.ours), ", ".join(row.commands), row.tools]
        for row in foreign_names.FOREIGN_NAMES
    )
    page = fill(page, "names", table(["there", "here", "commands", "tools"], names))
    values = (
        [_code(option), _code(theirs), _code(ours) if ours else "left out: it is the default"]
        for option, pairs in foreign_names.FOREIGN_VALUES.items()
        for theirs, ours in pairs.items()
    )
    page = fill(page, "values", table(["option", "there", "here"], values))
    explained = ([_code(name), hint] for name, hint in foreign_names.EXPLAINED.items())
    page = fill(page, "explained", table(["there", "here"], explained))
    called = (
        [_code(theirs), _code(ours)]
        for names in (FOREIGN_ARGUMENTS, FOREIGN_PARAMETERS)
        for theirs, ours in names.items()
    )
    page = fill(page, "python names", table(["there", "here"], called))
    without = (
        [_code(name), hint] for names in (EXPLAINED_ARGUMENTS, EXPLAINED_PARAMETERS) for name, hint in names.items()
    )
    return fill(page, "python explained", table(["there", "here"], without))


def _split(text: str) -> tuple[str, str]:
    """The first sentence, and the rest."""
    first, _, rest = text.partition(". ")
    return f"{first}.", rest


def _key_table(keys: Mapping[str, NeoxKey]) -> str:
    rows = (
        [_code(name), "required" if key.default is None else _code(key.default), key.meaning]
        for name, key in keys.items()
    )
    return table(["key", "default", "meaning here"], rows)


def _values(values: Iterable[object]) -> str:
    return ", ".join(_code(str(value).lower()) for value in values) or "`null`"


def _code(text: str) -> str:
    return f"`{text}`"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table; ``head`` names its columns."""
    lines = [f"| {' | '.join(row)} |" for row in [head, *rows]]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def fill(page: str, name: str, content: str) -> str:
    """``page`` with ``content`` between the markers of this name, of which there must be one pair."""
    begin = f"<!-- begin: {name} -->\n"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition("<!-- end -->")
    if not found or not closed or begin in after:
        raise SystemExit(f"expected one pair of markers: {begin}<!-- end -->")
    return f"{before}{begin}{content}\n{closed}{after}"


PAGES: Mapping[str, Callable[[str], str]] = {
    "docs/configuration.md": configuration,
    "docs/errors.md": errors_page,
    "docs/finetune.md": finetune_page,
    "docs/coming-from.md": coming_from,
}


def main() -> int:
    """Write or check all pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="Only say which pages are not up to date.")
    args = parser.parse_args()
    stale = False
    for name, write in PAGES.items():
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        if (new := write(old)) == old:
            continue
        if args.check:
            stale = True
            print(f"{name} is not up to date: run scripts/write_docs.py", file=sys.stderr)
        else:
            path.write_text(new, encoding="utf-8")
            print(f"wrote {name}")
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
