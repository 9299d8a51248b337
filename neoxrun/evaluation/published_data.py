"""LAMBADA and PIQA as their authors published them: the files, how they become documents, and how to fetch them.

The SHA-256 of the files are only in the download's ``models.yml``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from neoxrun.download.models_file import SHIPPED, read_catalog
from neoxrun.errors import DataError
from neoxrun.evaluation.documents import Document, RawFile, json_documents, text_lines


class DatasetName(NamedTuple):
    """The name of a task's data set.

    Attributes:
        path: the hub's repository, such as ``allenai/ai2_arc``.
        name: one of its configurations, such as ``ARC-Easy``.
        folder: a folder of the repository, for the few tasks that name one.
    """

    path: str
    name: str | None = None
    folder: str | None = None

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


@dataclass(frozen=True)
class PublishedSplit:
    """One split of a data set as its authors published it.

    Attributes:
        dataset: the hub's repository of the same documents.
        configurations: those of its configurations that hold them.
        split: the hub's name for the split.
        folder: a folder of the data folder that may hold the files.
        files: their names.
        documents: the number of documents.
        parse: turns the files into documents with the hub's fields.
        fetch: the command that fetches them into ``{folder}``, or below the data folder, which ``{to}`` names.
    """

    dataset: str
    configurations: tuple[str | None, ...]
    split: str
    folder: str
    files: tuple[str, ...]
    documents: int
    parse: Callable[[Sequence[RawFile]], list[Document]]
    fetch: str

    @property
    def checksums(self) -> list[str | None]:
        """The published SHA-256 of each of ``files``; None if it is not known."""
        return [_shipped_checksums().get(f"{self.folder}/{name}") for name in self.files]


def find_published(dataset: DatasetName, split: str) -> PublishedSplit | None:
    """A split of a data set as its authors published it; None if it is not one of those below."""
    return next(
        (
            known
            for known in _PUBLISHED
            if dataset.path == known.dataset
            and not dataset.folder
            and dataset.name in known.configurations
            and split == known.split
        ),
        None,
    )


@cache
def _shipped_checksums() -> Mapping[str, str | None]:
    """SHA-256 of the files of task data, by their paths below the data folder."""
    return {file.name: file.sha256 for task in read_catalog([SHIPPED]).tasks.values() for file in task.files}


def _lambada_openai(raws: Sequence[RawFile]) -> list[Document]:
    return json_documents(raws[0], ("text",))


def _plain_text(raws: Sequence[RawFile]) -> list[Document]:
    lines = text_lines(raws[0])
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise DataError(
                "this line is empty; each line must hold a text", code="bad_data", where=f"{raws[0].path}:{number}"
            )
    return [{"text": line, "domain": None} for line in lines]


def _piqa(raws: Sequence[RawFile]) -> list[Document]:
    texts, labels = raws
    documents = json_documents(texts, ("goal", "sol1", "sol2"))
    lines = [line.strip() for line in text_lines(labels)]
    if len(lines) != len(documents):
        raise DataError(
            f"{texts.path.name} holds {len(documents)} questions, but {labels.path.name} {len(lines)} labels",
            code="bad_data",
            where=str(labels.path),
        )
    for number, line in enumerate(lines, start=1):
        if line not in ("0", "1"):
            raise DataError(f"a label must be 0 or 1, not {line!r}", code="bad_data", where=f"{labels.path}:{number}")
    fields = ("goal", "sol1", "sol2")
    return [
        {**{field: document[field] for field in fields}, "label": int(line)}
        for document, line in zip(documents, lines, strict=True)
    ]


_LAMBADA_DEVELOPMENT = (
    "mkdir -p {folder} && curl -fL https://zenodo.org/records/2630551/files/lambada-dataset.tar.gz "
    "| tar xz -C {folder} --wildcards '*_plain_text.txt'"
)
_PIQA_TRAIN = (
    "curl -fL --create-dirs -o {folder}/'#1' 'https://yonatanbisk.com/piqa/data/{{train.jsonl,train-labels.lst}}'"
)

_PUBLISHED = (
    PublishedSplit(
        dataset="EleutherAI/lambada_openai",
        configurations=(None, "default", "en"),  # the hub has the same bytes under both names
        split="test",
        folder="lambada",
        files=("lambada_test.jsonl",),
        documents=5153,
        parse=_lambada_openai,
        fetch="neoxrun download --tasks lambada_openai{to}",
    ),
    PublishedSplit(
        dataset="cimec/lambada",
        configurations=(None, "plain_text"),
        split="test",
        folder="lambada",
        files=("lambada_test_plain_text.txt",),
        documents=5153,
        parse=_plain_text,
        fetch="neoxrun download --tasks lambada_standard{to}",
    ),
    PublishedSplit(
        dataset="cimec/lambada",
        configurations=(None, "plain_text"),
        split="validation",
        folder="lambada",
        files=("lambada_development_plain_text.txt",),
        documents=4869,
        parse=_plain_text,
        fetch=_LAMBADA_DEVELOPMENT,
    ),
    PublishedSplit(
        dataset="baber/piqa",
        configurations=(None,),
        split="validation",
        folder="piqa",
        files=("valid.jsonl", "valid-labels.lst"),
        documents=1838,
        parse=_piqa,
        fetch="neoxrun download --tasks piqa{to}",
    ),
    PublishedSplit(
        dataset="baber/piqa",
        configurations=(None,),
        split="train",
        folder="piqa",
        files=("train.jsonl", "train-labels.lst"),
        documents=16113,
        parse=_piqa,
        fetch=_PIQA_TRAIN,
    ),
)
