"""Repositories of the Hugging Face hub: what they hold, and what of it is in the hub's cache already.

Only questions are asked here. The bytes come as those of every other server do, so that they are resumed, shown and
proved in the same way.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from neoxrun.download.catalog import url_problem
from neoxrun.download.proof import WEIGHTS
from neoxrun.download.remote import MANIFEST_NAME, RemoteFile, origin, safe_name, shown_url
from neoxrun.errors import DataError, NeoxrunError, NetworkError, UsageError, writing_code
from neoxrun.terminal.log import log
from neoxrun.terminal.words import printable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Result = TypeVar("Result")

_TIMEOUT = 30.0  # seconds without an answer
_PAUSES = (0.5, 2.0)  # seconds before a question is asked again
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # answers that another try may change

# Weights of a repository, best first: a name, and the files that go with it. One kind is enough.
_WEIGHTS = (
    ("model.safetensors", "model.safetensors"),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin"),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)
_BESIDE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "LICENSE*",
)
# GPT-NeoX's own files, where there are no weights in the hub's form.
_NEOX = ("latest", "global_step*/*", "layer_*-model_states.pt", "mp_rank_*_model_states.pt", "*.json", "*.yml")


@dataclass(frozen=True)
class Repository:
    """One version of a repository.

    Attributes:
        name: ``owner/name``.
        endpoint: the hub's address.
        revision: what was asked for.
        commit: what that is.
        files: the files that a model needs.
        blobs: git's name of the contents of each file that has no SHA-256.
        credentials: the header that the hub wants, by ``remote.origin``.
    """

    name: str
    endpoint: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]
    blobs: Mapping[str, str]
    credentials: Mapping[str, str] = field(repr=False)


def default_endpoint() -> str:
    """The hub's address: ``HF_ENDPOINT``, or the public one."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def localized(url: str) -> str:
    """A URL of the public hub at the endpoint that the user has chosen."""
    public = "https://huggingface.co"
    return default_endpoint() + url.removeprefix(public) if url.startswith(public + "/") else url


def look_up(name: str, revision: str, *, endpoint: str | None = None, ca_bundle: Path | None = None) -> Repository:
    """Ask the hub what a repository holds.

    Args:
        name: ``owner/name``.
        revision: branch, tag or commit.
        endpoint: another hub than the user's own one; it is not shown the user's token.
        ca_bundle: certificates to trust in place of the system's.

    Raises:
        NetworkError: no answer, no such repository or revision, no access, or nothing in it to load.
        UsageError: what was given cannot be a hub, a repository or a file of certificates.
    """
    from huggingface_hub import HfApi, get_token

    _trust(ca_bundle)
    token = get_token() if endpoint is None else None
    endpoint = (endpoint or default_endpoint()).rstrip("/")
    if problem := url_problem(endpoint):
        raise UsageError(
            f"{shown_url(endpoint)} is not the address of a hub: {problem}",
            code="bad_environment",
            hint="see HF_ENDPOINT",
        )
    api = HfApi(endpoint=endpoint, token=token or False)

    def ask() -> Any:
        return api.repo_info(name, revision=revision, files_metadata=True, timeout=_TIMEOUT)

    info = _ask(ask, api, name, revision)
    siblings = {file.rfilename: file for file in info.siblings or []}
    if not isinstance(info.sha, str) or not info.sha.isalnum():
        raise NetworkError(f"{_host(endpoint)} does not say which commit of {name} {revision} is", code="bad_answer")
    chosen = choose(siblings)
    if not chosen:
        raise NetworkError(
            f"the repository {name} holds no weights that neoxrun reads",
            code="not_found",
            where=shown_url(f"{endpoint}/{name}"),
            hint="it needs model*.safetensors, pytorch_model*.bin or GPT-NeoX's layer files",
        )
    files = []
    blobs = {}
    for path in chosen:
        file = siblings[path]
        sha256 = file.lfs.sha256.lower() if file.lfs is not None else None
        if sha256 is None and file.blob_id:
            blobs[path] = file.blob_id
        files.append(
            RemoteFile(safe_name(path), (f"{endpoint}/{name}/resolve/{info.sha}/{quote(path)}",), file.size, sha256)
        )
    credentials = {origin(endpoint): f"Bearer {token}"} if token else {}
    return Repository(name, endpoint, revision, info.sha, tuple(files), blobs, credentials)


def choose(names: Iterable[str]) -> list[str]:
    """The files of a repository that a model needs: weights in one form, its configuration and its tokenizer."""
    # A whole folder may have been uploaded, with the manifest of its own download.
    names = sorted(name for name in names if name.rpartition("/")[2] != MANIFEST_NAME)
    for first, rest in _WEIGHTS:
        if first in names:
            wanted = (first, rest, *_BESIDE)
            # Only the top: other folders hold the same weights for other programs.
            return [name for name in names if "/" not in name and any(fnmatch.fnmatchcase(name, w) for w in wanted)]
    found = [name for name in names if any(fnmatch.fnmatchcase(name, wanted) for wanted in _NEOX)]
    return found if any(name.endswith("model_states.pt") for name in found) else []


def from_cache(repository: Repository, folder: Path) -> list[str]:
    """Put what the hub's cache has of a repository into ``folder``: weights as links where the file system can.

    All else is copied, because people edit such files, and must not edit the cache with them.

    Returns:
        The names of the files. They are still to be proved.

    Raises:
        DataError: the folder cannot be written.
    """
    from huggingface_hub import try_to_load_from_cache

    found = []
    for file in repository.files:
        target = folder / file.name
        cached = try_to_load_from_cache(repository.name, file.name, revision=repository.commit)
        if target.exists() or not isinstance(cached, str):
            continue
        source = Path(cached).resolve()
        if not source.is_file() or (file.size is not None and source.stat().st_size != file.size):
            continue
        try:
            _take(source, target, link=target.suffix in WEIGHTS)
        except OSError as error:
            raise DataError(
                f"{target} cannot be written: {error.strerror}", code=writing_code(error), where=str(target)
            ) from error
        found.append(file.name)
    return found


def _take(source: Path, target: Path, *, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".neoxrun.{target.name}")
    temporary.unlink(missing_ok=True)
    if link:
        with suppress(OSError):  # another file system, or one without links
            os.link(source, temporary)
    if not temporary.exists():
        shutil.copyfile(source, temporary)
    temporary.replace(target)


def _trust(ca_bundle: Path | None) -> None:
    """Have the hub's client trust what requests trusts; it takes that from its own variable only."""
    chosen = str(ca_bundle) if ca_bundle is not None else os.environ.get("REQUESTS_CA_BUNDLE")
    if chosen and (ca_bundle is not None or not os.environ.get("SSL_CERT_FILE")):
        if not Path(chosen).exists():
            raise UsageError("the file of certificates is not there", code="invalid_value", where=chosen)
        os.environ["SSL_CERT_DIR" if Path(chosen).is_dir() else "SSL_CERT_FILE"] = chosen


def _host(endpoint: str) -> str:
    return urlsplit(endpoint).hostname or endpoint


def _ask(question: Callable[[], Result], api: HfApi, name: str, revision: str) -> Result:
    """The hub's answer; what passes is tried again.

    Raises:
        NetworkError: there is no usable answer.
    """
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    for pause in (*_PAUSES, None):
        try:
            return question()
        except HTTPError as error:
            response = getattr(error, "response", None)
            status = None if response is None else response.status_code
            if pause is None or (status is not None and status not in _PASSING):
                raise _refusal(error, status, api, name, revision) from error
            log.debug(f"{_host(api.endpoint)}: {_reason(error)}; trying again in {pause:g} s")
            time.sleep(pause)
        except HFValidationError as error:
            raise UsageError(
                f"{name} is not the name of a repository: {_reason(error)}", code="invalid_value"
            ) from error
        except ConnectionError as error:  # OfflineModeIsEnabled is one
            raise _refusal(error, None, api, name, revision) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.debug(f"{_host(api.endpoint)}: {type(error).__name__}: {_reason(error)}")
            raise NetworkError(
                f"{_host(api.endpoint)} does not answer as the Hugging Face hub does",
                code="bad_answer",
                where=shown_url(api.endpoint),
                hint="check HF_ENDPOINT and --mirror; a web page that asks to log in to the network looks so too",
            ) from error
    raise AssertionError("the last try returns or raises")


def _refusal(error: Exception, status: int | None, api: HfApi, name: str, revision: str) -> NeoxrunError:
    from huggingface_hub import errors

    host, where = _host(api.endpoint), shown_url(f"{api.endpoint}/{name}")
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return NetworkError(
            "HF_HUB_OFFLINE is set, so the hub is not asked", code="unreachable_server", hint="unset it to download"
        )
    if isinstance(error, errors.GatedRepoError):
        return NetworkError(
            f"{name} is gated: its owner lets in only who has asked",
            code="access_refused",
            where=where,
            hint=f"ask on that page, then {log_in}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return NetworkError(
            f"{name} has no revision {printable(revision)}{_nearest_revision(api, name, revision)}",
            code="not_found",
            where=where,
            hint="branches, tags and commits are revisions; leave out --revision for the newest",
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return NetworkError(
            f"{host} has no repository {name}, or does not show it to you",
            code="not_found",
            where=where,
            hint=f"check the name; if it is private, {log_in}; if a token is set, check that it is still valid",
        )
    if status == 403:
        return NetworkError(
            f"{host} refuses access to {name}",
            code="access_refused",
            where=where,
            hint=f"{log_in}, with a token that may read it",
        )
    if status == 429:
        return NetworkError(
            f"{host} asks for patience: too many requests",
            code="too_many_requests",
            where=where,
            hint=f"wait, or {log_in}",
        )
    if status is not None:
        return NetworkError(
            f"{host} answers with error {status}", code="bad_answer", where=where, hint="try again later"
        )
    return NetworkError(
        f"{host} cannot be reached: {_reason(error)}",
        code="unreachable_server",
        where=where,
        hint="check the network and the proxy settings; HF_ENDPOINT or --mirror names another hub, --ca-bundle a "
        "proxy's certificates",
    )


def _nearest_revision(api: HfApi, name: str, revision: str) -> str:
    """What may have been meant, if the hub says which revisions there are."""
    try:
        refs = api.list_repo_refs(name)
    except Exception:  # the first error is the one to tell
        return ""
    known = [ref.name for ref in [*refs.branches, *refs.tags]]
    close = [printable(match) for match in difflib.get_close_matches(revision, known, 3, cutoff=0.5)]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _reason(error: Exception) -> str:
    """The first line of an error, without the library's own remarks and without a login in an address."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return printable(re.sub(r"//[^/\s]*@", "//", first_line))
