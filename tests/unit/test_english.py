"""The style sheet of CONTRIBUTING.md, over what the program says and over what is written about it."""

from __future__ import annotations

import re

import pytest

from support.pages import PAGES, blocks, first_cells, section
from support.paths import ROOT
from support.sentences import VALUE, hints_of, is_said, texts_of

AVOIDED = {
    "anew": r"anew",
    "beside": r"beside",
    "figures": r"figures?",
    "goes on": r"(?:go|goes|going|went|gone) on(?! line)",
    "is none": r"(?:is|are) none",
    "is there": r"(?:is|are|was|were|be) (?:(?:both|already|not|still) )?there(?! (?:an?|any|no)\b)",
    "lies": r"lies?|lying",
    "likeliest": r"likeliest",
    "of one's own": r"of (?:one's|your) own",
    "ours, theirs": r"ours|theirs",
    "place": r"(?<!in )places?",
    "said": r"said",
    "what it takes": r"what \w+ (?:takes?|gives?)",
}
"""What the style sheet does not want, by the words in its table."""

SHOWN = "error|warning|hint|note|limited"
"""How the messages begin that pages show."""

SENTENCE = re.compile(
    rf"(?:[A-Z`'\"{VALUE}-]|lm-eval\b|torchrun\b|fp16\b).*(?:[.?{VALUE}]|: (?:pip |https:)\S.*)", re.DOTALL
)
"""A hint: it begins with a capital or a name, and ends with a full stop or something to copy."""

PACKAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "neoxrun").iterdir()
    if path.suffix == ".py" or (path / "__init__.py").exists()
)


WRITTEN = PAGES | {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("CHANGELOG.md", "benchmarks/README.md", "configs/demo/README.md")
}


def _avoided_in(text: str) -> list[str]:
    return [name for name, pattern in AVOIDED.items() if re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE)]


def test_the_table_of_the_style_sheet_is_what_is_checked() -> None:
    table = section(PAGES["CONTRIBUTING.md"], "Style sheet")
    assert [cell.strip() for cell in first_cells(table)] == list(AVOIDED)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_the_program_says(package: str) -> None:
    found = [
        f"{text.path}:{text.line}: {', '.join(words)}: {text.text.replace(VALUE, '{}')}"
        for text in texts_of(ROOT / package)
        if " " in text.text and (words := _avoided_in(text.text))  # keys and names of options have no spaces
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("package", PACKAGES)
def test_hints_are_sentences(package: str) -> None:
    found = [
        f"{hint.path}:{hint.line}: {hint.text.replace(VALUE, '{}')}"
        for hint in hints_of(ROOT / package)
        if not SENTENCE.fullmatch(hint.text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", WRITTEN)
def test_what_the_pages_say(page: str) -> None:
    text = WRITTEN[page]
    if page == "CONTRIBUTING.md":  # its table names the words
        text = text.replace(section(text, "Style sheet"), "")
    # What the program says is checked where it says it.
    text = re.sub(rf"^(?:{SHOWN}): .*|`[^`\n]+`", "", text, flags=re.MULTILINE)
    # A phrase may be broken over two lines, but not over two paragraphs, list items or rows.
    parts = (" ".join(part.split()) for part in re.split(r"\n\n|\n(?=[-|#])", text))
    found = [f"{', '.join(words)}: {part}" for part in parts if (words := _avoided_in(part))]
    assert not found, "\n".join(found)


def test_the_pages_show_messages_as_the_program_says_them() -> None:
    shown = [
        (page, line)
        for page, text in PAGES.items()
        for block in blocks(text)
        for line in re.findall(rf"^(?:{SHOWN}): .*", block, re.MULTILINE)
    ]
    assert len(shown) > 30
    unknown = [f"{page}: {line}" for page, line in shown if not is_said(line) and not is_said(line.partition(": ")[2])]
    assert not unknown, "\n".join(unknown)


def test_a_message_that_the_program_does_not_have_is_noticed() -> None:
    assert is_said("the tokenizer has 7 entries, but the checkpoint's vocabulary has 6")
    assert not is_said("the tokenizer has 7 entries, but the vocabulary of the checkpoint has 6")
    assert not is_said("interrupted by something else")
    killed = "The system kills processes when memory runs out: see `dmesg`. Finished records are "
    assert is_said(killed + "kept; continue with --resume.")
    assert not is_said(killed + "lost")
