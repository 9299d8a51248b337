"""Errors: their codes, their texts, and what every other exception becomes."""

from __future__ import annotations

import ast
import errno
import pickle
import re
import subprocess
import sys
from functools import cache

import pytest
import torch
import torch.distributed as dist

from neoxrun import errors
from neoxrun.errors import CODES, EXIT_CODES, NeoxrunError, classify, writing_code
from support.paths import ROOT

CLASSES = {kind.__name__: kind for kind in [NeoxrunError, *NeoxrunError.__subclasses__()]}
HAS_DEFAULT = {NeoxrunError, errors.Different, errors.Interrupted, errors.ReaderGone, errors.Stopped, errors.Terminated}
ALL_CODES = [code for codes in CODES.values() for code in codes]


@cache
def raise_sites() -> list[tuple[str, type[NeoxrunError], ast.expr | None]]:
    """Every place in neoxrun where an error is built: file and line, its class, and its ``code=``."""
    found = []
    for path in sorted((ROOT / "neoxrun").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLASSES:
                code = next((word.value for word in node.keywords if word.arg == "code"), None)
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", CLASSES[node.func.id], code))
    return found


def test_every_code_at_a_raise_site_is_one_of_its_exit_code() -> None:
    sites = raise_sites()
    assert len(sites) > 200
    for where, kind, code in sites:
        if code is None:
            assert kind in HAS_DEFAULT, f"{where} has no code"
        if isinstance(code, ast.Constant):
            assert code.value in CODES[kind.exit_code], where


def test_every_code_is_raised_somewhere() -> None:
    raised = {kind.code for _, kind, code in raise_sites() if code is None}
    raised |= {code.value for _, _, code in raise_sites() if isinstance(code, ast.Constant)}
    raised |= {writing_code(OSError(number, "")) for number in (errno.ENOSPC, errno.EACCES)}
    raised.add(writing_code(OSError(errno.EIO, ""), "system_refused"))  # as in classify
    assert set(ALL_CODES) == raised


def test_the_table_is_whole() -> None:
    assert CODES.keys() | {0} == EXIT_CODES.keys()
    assert len(set(ALL_CODES)) == len(ALL_CODES), "a code means one thing"
    for codes in CODES.values():
        assert list(codes) == sorted(codes)
        for code, text in codes.items():
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
            assert re.fullmatch(r"\S[^.]+\. \S.+\.", text), f"{code}: not what happened, and then what to do: {text}"


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_only_a_class_with_one_code_has_a_default(kind: type[NeoxrunError]) -> None:
    if kind in HAS_DEFAULT:
        assert kind("x").code == kind.code
        assert kind.code in CODES[kind.exit_code]
    else:
        with pytest.raises(AssertionError, match="no code of exit code"):
            kind("x")


def test_a_code_of_another_exit_code_is_refused() -> None:
    assert errors.DataError("x", code="missing_file").code == "missing_file"
    for code in ("missing_shard", "no_such_code"):
        with pytest.raises(AssertionError, match=code):
            errors.DataError("x", code=code)


def test_render() -> None:
    assert errors.DataError("no file", code="missing_file").render() == "error: no file"
    error = errors.DataError("no file", code="missing_file", where="a:1", hint="Make one.")
    assert error.render() == "error: no file\n  --> a:1\n\nhint: Make one."
    assert error.render(verbose=True) == f"{error.render()}\ncode: missing_file"
    assert errors.ReaderGone("x").render(verbose=True) == ""


def test_an_error_travels_between_ranks() -> None:
    error = errors.DataError("no file", code="missing_file", where="a:1", hint="Make one.")
    error.shared = True
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), other.args, vars(other)) == (type(error), ("no file",), vars(error))
    assert str(other) == "no file\n  --> a:1\n\nhint: Make one.", "what a traceback shows"
    assert str(errors.ReaderGone("gone")) == "gone"


def gloo_lost() -> RuntimeError:
    return RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")


def cpu_allocator() -> RuntimeError:
    """The error of a real allocation that is too large for any machine."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15, dtype=torch.float32, device="cpu")
    return caught.value


CUDA_TEXT = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.11 GiB"

# Name: the exception, its code on rank 3, and what the message says.
KNOWN = {
    "our own": (lambda: errors.CheckpointError("cut", code="damaged_file"), "damaged_file", "cut"),
    "Ctrl-C": (KeyboardInterrupt, "interrupted", "interrupted"),
    "closed pipe": (lambda: BrokenPipeError(errno.EPIPE, "Broken pipe"), "reader_gone", ""),
    "Python's memory": (MemoryError, "out_of_memory", "out of memory on rank 3"),
    "the system's memory": (lambda: OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory", "on rank 3"),
    "CPU allocator": (cpu_allocator, "out_of_memory", "on rank 3, which asked for 4000000.0 GB more"),
    "CUDA allocator": (lambda: torch.OutOfMemoryError(CUDA_TEXT), "out_of_memory", "which asked for 20.00 MiB more"),
    "CUDA itself": (lambda: RuntimeError("CUDA error: out of memory"), "out_of_memory", "on rank 3"),
    "cuBLAS": (lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out_of_memory", "rank 3"),
    "NCCL's memory": (lambda: dist.DistBackendError("NCCL error: Cuda failure 2 'out of memory'"), "out_of_memory", ""),
    "gloo": (gloo_lost, "lost_contact", "rank 3 lost contact with another rank: [/pytorch/"),
    "NCCL": (lambda: dist.DistBackendError("NCCL error in: x.cpp, remote process exited"), "lost_contact", "rank 3"),
    "store": (lambda: dist.DistStoreError("wait timeout after 300000ms"), "lost_contact", "rank 3"),
    "network": (lambda: dist.DistNetworkError("Connection reset by peer"), "lost_contact", "rank 3"),
    "socket": (lambda: ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "lost_contact", "rank 3"),
    "full disk": (lambda: OSError(errno.ENOSPC, "No space left on device", "f"), "disk_full", "No space left"),
    "no permission": (lambda: PermissionError(errno.EACCES, "Permission denied", "f"), "system_refused", "denied"),
    "error without a number": (lambda: OSError("odd"), "system_refused", "odd"),
    "defect": (lambda: KeyError("oops"), "defect", "KeyError: 'oops'"),
    "runtime error": (lambda: RuntimeError("The size of tensor a (3) must match"), "defect", "RuntimeError: The size"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_classify(name: str) -> None:
    make, code, says = KNOWN[name]
    error = make()
    found = classify(error, rank=3)
    assert found.code == code
    assert says in found.message
    assert (found is error) == isinstance(error, NeoxrunError)
    assert found.exit_code == next(number for number, codes in CODES.items() if code in codes)


def test_classify_says_where() -> None:
    assert classify(OSError(errno.EACCES, "Permission denied", "some/file"), rank=3).where == "some/file"
    assert classify(KeyError("oops"), rank=3).where == "rank 3"
    assert classify(KeyError("oops")).where is None
    assert classify(MemoryError()).message == "out of memory"


def test_what_speaks_of_connections_outside_of_ranks_is_no_lost_rank() -> None:
    assert classify(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")).code == "system_refused"
    assert classify(RuntimeError("Connection lost")).code == "defect"
    assert classify(dist.DistNetworkError("timed out")).code == "lost_contact"


def test_an_allocator_that_wants_little() -> None:
    text = "DefaultCPUAllocator: can't allocate memory: you tried to allocate {} bytes. Error code 12"
    assert classify(RuntimeError(text.format(50331648))).message == "out of memory, which asked for 50 MB more"
    assert classify(RuntimeError(text.format(64))).message == "out of memory, which asked for 1 MB more"


def test_errors_need_nothing() -> None:
    program = (
        "import sys, neoxrun.errors; print(*(name for name in sys.modules if name.startswith(('neoxrun.', 'torch'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["neoxrun.version", "neoxrun.errors"], "the version is the package's own"
