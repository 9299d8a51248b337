"""Downloads as people and programs read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from neoxrun.download.catalog import Catalog
from neoxrun.download.order import Done, Order
from neoxrun.download.remote import shown_url
from neoxrun.download.verify import Verdict
from neoxrun.terminal.words import counted, human_bytes


def human(size: int | None) -> str:
    """A number of bytes for people, known or not."""
    return "?" if size is None else human_bytes(size)


def table(rows: Iterable[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Columns of text, two spaces apart; those of ``right`` end together."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def catalog_table(catalog: Catalog) -> str:
    """Everything that has a name."""
    models = [("MODEL", "SIZE", "FOLDER", "LICENCE", "WHAT IT IS")]
    for model in catalog.models.values():
        size = "?" if model.size is None else "~ " + human(model.size)
        models.append((model.name, size, model.folder, model.licence or "?", model.about))
    tasks = [("DATA OF TASK", "SIZE", "WHAT IT IS")]
    for task in catalog.tasks.values():
        tasks.append((task.name, human(total(file.size for file in task.files)), task.about))
    text = table(models, (1,)) + "\n" + table(tasks, (1,))
    revised = {model.revisions for model in catalog.models.values() if model.revisions != "main"}
    for revisions in sorted(revised):
        names = [model.name for model in catalog.models.values() if model.revisions == revisions]
        text += f"\n--revision of {names[0]} and {len(names) - 1} others: {revisions}\n"
    return text + "Every other repository of the Hugging Face hub with GPT-NeoX weights is given as OWNER/NAME.\n"


def catalog_json(catalog: Catalog) -> dict[str, Any]:
    """The same for programs."""
    models = [
        {
            "name": model.name,
            "about": model.about,
            "licence": model.licence,
            "size": model.size,
            "folder": model.folder,
            "config": model.config,
            "hub": model.hub,
            "revisions": model.revisions,
            "mirrors": [shown_url(url) for url in model.mirrors],
            "files": len(model.files) or None,
        }
        for model in catalog.models.values()
    ]
    tasks = [
        {"name": task.name, "about": task.about, "files": [file.name for file in task.files]}
        for task in catalog.tasks.values()
    ]
    return {"models": models, "tasks": tasks}


def total(sizes: Iterable[int | None]) -> int | None:
    """Bytes in all; None where one size is not known."""
    known = list(sizes)
    return None if None in known else sum(size or 0 for size in known)


def order_table(order: Order, sizes: Mapping[str, int | None]) -> str:
    """What would be fetched, and from where; ``sizes`` by name, as far as they are known or told."""
    rows = [("FILE", "SIZE", "HERE", "FROM")]
    for file in order.files:
        size = sizes[file.name]
        rows.append((file.name, human(size), _here(order, file.name, size), shown_url(file.urls[0])))
    whole = total(sizes.values())
    told = human(whole) if whole is not None else f"about {human(order.size)}" if order.size else "size not known"
    text = table(rows, (1,)) + f"\n{counted(len(order.files), 'file')}, {told}, into {order.folder}\n"
    places = dict.fromkeys(_folder(url, file.name) for file in order.files for url in file.urls[1:])
    return text + "".join(f"if that fails: {place}\n" for place in places)


def _folder(url: str, name: str) -> str:
    """Where a mirror has its files, if it calls them as they are called here."""
    shown = shown_url(url)
    return shown.removesuffix(name)


def _here(order: Order, name: str, size: int | None) -> str:
    """Whether a file is there; its contents are not looked at."""
    path = order.folder / name
    if not path.is_file():
        return "no"
    return "yes" if size in (None, path.stat().st_size) else "differs"


def order_json(order: Order, sizes: Mapping[str, int | None]) -> dict[str, Any]:
    """The same for programs."""
    files = [
        {
            "name": file.name,
            "size": sizes[file.name],
            "sha256": file.sha256,
            "here": _here(order, file.name, sizes[file.name]),
            "urls": [shown_url(url) for url in file.urls],
        }
        for file in order.files
    ]
    return {
        "name": order.name,
        "folder": str(order.folder),
        "revision": order.source.revision,
        "size": total(sizes.values()),
        "files": files,
    }


def done_json(order: Order, done: Done, following: str | None) -> dict[str, Any]:
    """What a download has brought, for programs."""
    files = [
        {
            "name": arrival.name,
            "size": arrival.size,
            "sha256": arrival.sha256,
            "url": arrival.url,
            "seconds": round(arrival.seconds, 3),
        }
        for arrival in done.arrivals
    ]
    return {
        "name": order.name,
        "folder": str(order.folder),
        "revision": order.source.revision,
        "size": sum(arrival.size for arrival in done.arrivals),
        "fetched_files": len(done.fetched),
        "fetched_bytes": sum(arrival.size for arrival in done.fetched),
        "seconds": round(done.seconds, 3),
        "manifest": str(done.manifest),
        "next": following,
        "files": files,
    }


def verdict_table(verdict: Verdict) -> str:
    """The files that are not right."""
    return table((name, why) for name, why in verdict.wrong.items()) if verdict.wrong else ""


def verdict_json(verdict: Verdict, repaired: Sequence[str] | None = None) -> dict[str, Any]:
    """What became of a check, for programs."""
    content: dict[str, Any] = {
        "folder": str(verdict.folder),
        "right": list(verdict.right),
        "unrecorded": list(verdict.unrecorded),
        "wrong": dict(verdict.wrong),
    }
    if repaired is not None:
        content["repaired"] = list(repaired)
    return content


def size_of(folder: Path, names: Iterable[str]) -> int:
    """The bytes of some files."""
    return sum((folder / name).stat().st_size for name in names)
