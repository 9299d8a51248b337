"""Repositories of the Hugging Face hub: their revisions and their files.

This module only asks the hub's API. The files are downloaded as from any other server, so that they are resumed, shown
and checked in the same way.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlsplit

from neoxrun.download.hub_files import Repository, choose_files, variants_of
from neoxrun.download.remote import RemoteFile, safe_name
from neoxrun.download.urls import origin, shown_url, url_problem
from neoxrun.errors import NetworkError, UsageError
from neoxrun.terminal.log import log
from neoxrun.terminal.words import did_you_mean, listing, printable

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Result = TypeVar("Result")

_TIMEOUT = 30.0  # seconds without a response
_PAUSES = (0.5, 2.0)  # seconds before a request is repeated
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses that another try may change


def default_endpoint() -> str:
    """The hub's address: ``HF_ENDPOINT``, or the public one."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def localized_url(url: str) -> str:
    """A URL of the public hub, changed to the endpoint that the user has chosen."""
    public = "https://huggingface.co"
    return default_endpoint() + url.removeprefix(public) if url.startswith(public + "/") else url


def look_up_repository(
    name: str, revision: str, *, variant: str | None = None, endpoint: str | None = None, ca_bundle: Path | None = None
) -> Repository:
    """Ask the hub for the files of a repository.

    Args:
        name: ``owner/name``.
        revision: branch, tag or commit.
        variant: of the weights, such as fp16; None: those without one.
        endpoint: a hub other than the user's usual one; the user's token is not sent to it.
        ca_bundle: certificates to trust instead of the system's.

    Raises:
        NetworkError: no response, no such repository or revision, no access, or no weights in it.
        UsageError: an argument cannot be a hub, a repository or a file of certificates.
    """
    api, token = _client(endpoint, ca_bundle)
    endpoint = api.endpoint

    def request_repository() -> Any:
        return api.repo_info(name, revision=revision, files_metadata=True, timeout=_TIMEOUT)

    info = _ask_hub(request_repository, api, name, revision)
    siblings = {file.rfilename: file for file in info.siblings or []}
    if not isinstance(info.sha, str) or not info.sha.isalnum():
        raise NetworkError(
            f"{_host_of(endpoint)} does not report which commit the revision {revision} of {name} is",
            code="bad_answer",
        )
    chosen = choose_files(siblings, variant)
    if not chosen:
        others, wanted = (
            listing(variants_of(siblings)),
            f"of the variant {variant}" if variant else "that neoxrun can read",
        )
        raise NetworkError(
            f"the repository {name} has no weights {wanted}",
            code="not_found",
            where=shown_url(f"{endpoint}/{name}"),
            hint=f"Its weights have variants: choose one with --variant ({others})."
            if others
            else "It needs model*.safetensors, pytorch_model*.bin or GPT-NeoX's layer files.",
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


def list_revisions(name: str, *, endpoint: str | None = None, ca_bundle: Path | None = None) -> list[str]:
    """Ask the hub for the branches and tags of a repository; the arguments are those of ``look_up_repository``.

    Raises:
        NetworkError: no response, no such repository, or no access.
        UsageError: an argument cannot be a hub, a repository or a file of certificates.
    """
    api, _ = _client(endpoint, ca_bundle)
    refs = _ask_hub(lambda: api.list_repo_refs(name), api, name, "main")
    return list(dict.fromkeys(ref.name for ref in [*refs.branches, *refs.tags]))


def _client(endpoint: str | None, ca_bundle: Path | None) -> tuple[HfApi, str | None]:
    """The hub's client, whose endpoint has no slash at its end, and the user's token if it may be sent there.

    Raises:
        UsageError: the endpoint is not an address, or the file of certificates does not exist.
    """
    from huggingface_hub import HfApi, get_token

    _trust(ca_bundle)
    token = get_token() if endpoint is None else None
    endpoint = (endpoint or default_endpoint()).rstrip("/")
    if problem := url_problem(endpoint):
        raise UsageError(
            f"{shown_url(endpoint)} is not the address of a hub: {problem}",
            code="bad_environment",
            hint="Check HF_ENDPOINT and --mirror.",
        )
    return HfApi(endpoint=endpoint, token=token or False), token


def _trust(ca_bundle: Path | None) -> None:
    """Make the hub's client trust what requests trusts; it reads only its own environment variables."""
    chosen = str(ca_bundle) if ca_bundle is not None else os.environ.get("REQUESTS_CA_BUNDLE")
    if chosen and (ca_bundle is not None or not os.environ.get("SSL_CERT_FILE")):
        if not Path(chosen).exists():
            raise UsageError("the file of certificates does not exist", code="invalid_value", where=chosen)
        os.environ["SSL_CERT_DIR" if Path(chosen).is_dir() else "SSL_CERT_FILE"] = chosen


def _ask_hub(question: Callable[[], Result], api: HfApi, name: str, revision: str) -> Result:
    """The hub's response; errors that may pass are tried again.

    Raises:
        NetworkError: there is no usable response.
    """
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    for pause in (*_PAUSES, None):
        try:
            return question()
        except HTTPError as error:
            response = getattr(error, "response", None)
            status = None if response is None else response.status_code
            if pause is None or (status is not None and status not in _PASSING):
                raise _access_error(error, status, api, name, revision) from error
            log.debug(f"{_host_of(api.endpoint)}: {_first_line(error)}; trying again in {pause:g} s")
            time.sleep(pause)
        except HFValidationError as error:
            raise UsageError(
                f"{name} is not the name of a repository: {_first_line(error)}",
                code="invalid_value",
            ) from error
        except ConnectionError as error:  # OfflineModeIsEnabled is one
            raise _access_error(error, None, api, name, revision) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.debug(f"{_host_of(api.endpoint)}: {type(error).__name__}: {_first_line(error)}")
            raise NetworkError(
                f"{_host_of(api.endpoint)} does not respond as a Hugging Face hub would",
                code="bad_answer",
                where=shown_url(api.endpoint),
                hint="Check HF_ENDPOINT and --mirror, and whether the network asks for a login in a web browser.",
            ) from error
    raise AssertionError("the last try returns or raises")


def _access_error(error: Exception, status: int | None, api: HfApi, name: str, revision: str) -> NetworkError:
    """What to tell the user when the hub refuses, or cannot be reached.

    Args:
        error: of huggingface_hub, or of what it uses.
        status: of the response; None if there was none.
        api: the hub's client.
        name, revision: what was asked for.
    """
    from huggingface_hub import errors

    host, where = _host_of(api.endpoint), shown_url(f"{api.endpoint}/{name}")
    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    revisions = "Revisions are branches, tags and commits; without --revision the newest version is downloaded."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return NetworkError(
            "HF_HUB_OFFLINE is set, so the hub is not asked",
            code="unreachable_server",
            hint="Unset it to download.",
        )
    if isinstance(error, errors.GatedRepoError):
        return NetworkError(
            f"{name} is gated: its owner must grant you access",
            code="access_refused",
            where=where,
            hint=f"Request access on that page, then {log_in}.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return NetworkError(
            f"{name} has no revision {printable(revision)}",
            code="not_found",
            where=where,
            hint=f"{_nearest_revision(api, name, revision)} {revisions}".lstrip(),
        )
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        return NetworkError(
            f"{host} has no repository {name}, or does not show it to you",
            code="not_found",
            where=where,
            hint=f"Check the name. If it is private, {log_in}; if a token is set, check that it is still valid.",
        )
    if status == 403:
        return NetworkError(
            f"{host} refuses access to {name}",
            code="access_refused",
            where=where,
            hint="Use a token that may read it: `hf auth login`, or HF_TOKEN.",
        )
    if status == 429:
        return NetworkError(
            f"{host} has received too many requests",
            code="too_many_requests",
            where=where,
            hint=f"Wait, or {log_in}.",
        )
    if status is not None:
        return NetworkError(
            f"{host} responds with error {status}",
            code="bad_answer",
            where=where,
            hint="Try again later.",
        )
    return NetworkError(
        f"{host} cannot be reached: {_first_line(error)}",
        code="unreachable_server",
        where=where,
        hint="Check the network and the proxy settings. HF_ENDPOINT or --mirror names another hub, --ca-bundle a "
        "proxy's certificates.",
    )


def _nearest_revision(api: HfApi, name: str, revision: str) -> str:
    """A hint with the revisions that may have been meant; empty if the hub does not list any."""
    try:
        refs = api.list_repo_refs(name)
    except Exception:  # the first error is the one to report
        return ""
    return did_you_mean(revision, [ref.name for ref in [*refs.branches, *refs.tags]])


def _first_line(error: Exception) -> str:
    """The first line of an error, without the library's further remarks, and without logins in addresses."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return printable(re.sub(r"//[^/\s]*@", "//", first_line))


def _host_of(endpoint: str) -> str:
    """The host in a hub's address."""
    return urlsplit(endpoint).hostname or endpoint
