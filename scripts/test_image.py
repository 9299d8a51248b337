"""Tries what the README does with Docker: an ordinary folder, its owner's uid, the entry point, `docker stop`.

    python scripts/test_image.py

With a Docker daemon the image is built and run. Without one, and as root, the image's root file system is put together
from the Dockerfile and this machine: the wheel of this tree is installed into it, what the Dockerfile runs besides
installing packages is run in it, and processes get their own mounts and process ids (`unshare`), the Dockerfile's
environment and entry point, and the uid that is asked for. What is not tried then is the installation of packages.

Exit codes: 0 all is well, 1 something is not, 77 there is neither Docker nor root.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OWNER = 12345  # uid and gid of the ordinary folder
PROMPTS = [f"def function_{number}(value):" for number in range(40)]
SLOWLY = ("--temperature", "0", "--maximum-tokens", "60", "--ignore-eos", "--dtype", "fp32", "--batch-size", "1")
STOP_SECONDS = 10  # that `docker stop` waits before it kills
_INSTALLS = ("apt-get", "pip install", "-m venv")  # what a simulation replaces
_ETC = ("passwd", "group", "shadow", "gshadow", "login.defs", "nsswitch.conf", "ld.so.cache", "localtime")


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """The name and the text of each instruction."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        name, _, text = line.strip().partition(" ")
        yield name, " ".join(text.split())


class Docker:
    """The image, built and run by Docker."""

    def __init__(self) -> None:
        self._tag = "neoxrun-test"
        subprocess.run(["docker", "build", "--tag", self._tag, str(ROOT)], check=True, stdout=sys.stderr)

    def start(self, arguments: Sequence[str], folder: Path, user: int | None) -> tuple[subprocess.Popen[str], str]:
        """A container under way, and its name."""
        name = f"neoxrun-test-{uuid.uuid4().hex}"
        options = ["--rm", "--name", name, "-v", f"{folder}:/models"]
        if user is not None:
            options += ["--user", f"{user}:{user}"]
        return _popen(["docker", "run", *options, self._tag, *arguments]), name

    def stop(self, process: subprocess.Popen[str], name: str) -> None:
        """As `docker stop` does."""
        subprocess.run(["docker", "stop", "--time", str(STOP_SECONDS), name], check=True, stdout=subprocess.DEVNULL)

    def close(self) -> None:
        """Nothing is left to be done: containers are removed as they end."""


class Simulation:
    """The image's root file system and processes, without Docker."""

    def __init__(self) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="neoxrun-image-"))
        self._root.chmod(0o755)
        self._environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self._user, self._work, self._entry, self._default = "0", "/", [""], [""]
        self._make_root()
        for name, text in instructions((ROOT / "Dockerfile").read_text(encoding="utf-8")):
            if name == "ENV":
                for word in shlex.split(text):
                    key, _, value = word.partition("=")
                    self._environment[key] = value.replace("$PATH", self._environment["PATH"])
            elif name == "RUN" and not any(word in text for word in _INSTALLS):
                subprocess.run(self._inside(["sh", "-c", text], "0"), check=True)
            elif name == "USER":
                self._user = text
            elif name == "WORKDIR":
                self._work = text
                (self._root / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif name == "ENTRYPOINT":
                self._entry = json.loads(text)
            elif name == "CMD":
                self._default = json.loads(text)

    def start(self, arguments: Sequence[str], folder: Path, user: int | None) -> tuple[subprocess.Popen[str], str]:
        """A process with the entry point as its namespace's first, and nothing."""
        words = [*self._entry, *(arguments or self._default)]
        return _popen(self._inside(words, self._user if user is None else str(user), folder)), ""

    def stop(self, process: subprocess.Popen[str], name: str) -> None:
        """SIGTERM to the first process, and SIGKILL if it does not end."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        first = int(children[0])
        numbers = next(line for line in Path(f"/proc/{first}/status").read_text().splitlines() if "NSpid" in line)
        assert numbers.split()[-1] == "1", "the entry point is not the first process"
        os.kill(first, signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.kill(first, signal.SIGKILL)

    def close(self) -> None:
        """Remove the root file system; its mounts have ended with its processes."""
        shutil.rmtree(self._root)

    def _make_root(self) -> None:
        for name in ("etc", "opt/neoxrun/bin", "opt/neoxrun/lib", "home", "tmp", "proc", "root", "var/tmp", "src"):
            (self._root / name).mkdir(parents=True, exist_ok=True)
        for name in _ETC:
            if Path("/etc", name).exists():
                shutil.copy(Path("/etc", name), self._root / "etc" / name)
        with tempfile.TemporaryDirectory() as built:
            pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
            subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", built, ROOT], check=True)
            (wheel,) = Path(built).glob("*.whl")
            library = self._root / "opt/neoxrun/lib"
            subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", library, wheel], check=True)
        # What pip would have written into the environment's bin.
        command = self._root / "opt/neoxrun/bin/neoxrun"
        command.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, '/opt/neoxrun/lib')\n"
            "from neoxrun.cli import main\nsys.exit(main())\n"
        )
        command.chmod(0o755)
        (self._root / "opt/neoxrun/bin/python").symlink_to(sys.executable)

    def _binds(self, folder: Path | None) -> Iterator[tuple[Path, str, str]]:
        """What of this machine is in the image: where from, where to, and how."""
        for name in ("bin", "lib", "lib64", "sbin", "usr"):
            if Path("/", name).exists():
                yield Path("/", name), name, "ro"
        python = {sys.prefix, sys.base_prefix, *(path for path in sys.path if path.endswith("site-packages"))}
        for path in sorted(python):
            if not path.startswith("/usr/"):
                yield Path(path), path.lstrip("/"), "ro"
        yield Path("/dev"), "dev", "rw"
        yield Path("/sys"), "sys", "ro"
        if folder is not None:
            yield folder, "models", "rw"

    def _inside(self, words: list[str], user: str, folder: Path | None = None) -> list[str]:
        """A command that runs ``words`` in the root file system, as a user and as the first process."""
        root = shlex.quote(str(self._root))
        # A user's PATH need not have chroot. /tmp comes before the rest, as this tree may lie below it.
        lines = ["set -e", "PATH=$PATH:/usr/sbin:/sbin", f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp"]
        for source, target, how in self._binds(folder):
            place = f"{root}/{shlex.quote(target)}"
            lines += [
                f"mkdir -p {place}",
                f"mount --rbind {shlex.quote(str(source))} {place}",
                *([f"mount -o remount,bind,ro {place}"] if how == "ro" else []),
            ]
        lines.append(f"mount -t proc proc {root}/proc")
        environment = self._environment | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": "/opt/neoxrun/lib"}
        environment |= {name: os.environ[name] for name in ("OMP_NUM_THREADS",) if name in os.environ}
        variables = shlex.join(f"{key}={value}" for key, value in environment.items())
        number, group = (user, user) if user.isdigit() else self._numbers(user)
        inner = f"cd {shlex.quote(self._work)} && exec {shlex.join(words)}"
        lines.append(
            f"exec chroot {root} setpriv --reuid {number} --regid {group} --clear-groups -- "
            f"env -i {variables} sh -c {shlex.quote(inner)}"
        )
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", "\n".join(lines)]

    def _numbers(self, user: str) -> tuple[str, str]:
        line = next(
            line for line in (self._root / "etc/passwd").read_text().splitlines() if line.startswith(f"{user}:")
        )
        return line.split(":")[2], line.split(":")[3]


def _popen(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _check(what: str, holds: bool, told: str) -> None:
    """One line for each thing that was tried."""
    print(f"{'ok' if holds else 'FAILED'}: {what}")
    if not holds:
        raise SystemExit(f"it said:\n{told}")


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def try_image(image: Docker | Simulation, folder: Path) -> None:
    """Everything that a user does with the image, in an ordinary folder of another user."""
    (folder / "prompt.txt").write_text("\n".join(PROMPTS[:2]) + "\n")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    for path in (folder, *folder.iterdir()):
        os.chown(path, OWNER, OWNER)
    folder.chmod(0o755)

    process, _ = image.start([], folder, None)
    out, err = process.communicate(timeout=300)
    _check("without arguments it prints its help", process.returncode == 0 and "usage: neoxrun" in out, out + err)

    process, _ = image.start(["generate", "demo", "-i", "prompt.txt", "--tp", "1"], folder, OWNER)
    out, err = process.communicate(timeout=300)
    output = folder / "prompt.txt.output.jsonl"
    done = process.returncode == 0 and len(_records(output)) == 2
    _check("the README's command answers the prompts in an ordinary folder", done, out + err)
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in folder.iterdir()}
    _check("what it writes belongs to the folder's owner", owners == {(OWNER, OWNER)}, str(owners))

    process, _ = image.start(["generate", "demo", "-i", "prompt.txt", "-o", "other.jsonl"], folder, None)
    out, err = process.communicate(timeout=300)
    refused = process.returncode == 4 and "other.jsonl cannot be written: Permission denied" in err
    _check("without --user the folder of another is refused, by name", refused, out + err)

    arguments = ["generate", "demo", "-i", "prompts.txt", "-o", "long.jsonl", "--tp", "1", *SLOWLY]
    process, name = image.start(arguments, folder, OWNER)
    end = time.monotonic() + 300
    while not _records(folder / "long.jsonl") and process.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    start = time.monotonic()
    image.stop(process, name)
    out, err = process.communicate(timeout=60)
    took = time.monotonic() - start
    kept = len(_records(folder / "long.jsonl"))
    ended = process.returncode == 143 and took < STOP_SECONDS and 0 < kept < len(PROMPTS) and "--resume" in err
    _check(
        f"`docker stop` ends it in time ({took:.1f} s), with {kept} records and a word on --resume", ended, out + err
    )

    process, _ = image.start([*arguments, "--resume"], folder, OWNER)
    out, err = process.communicate(timeout=300)
    whole = process.returncode == 0 and len(_records(folder / "long.jsonl")) == len(PROMPTS)
    _check("--resume completes it", whole, out + err)


def main() -> int:
    """Choose how, and try everything."""
    has_docker = shutil.which("docker") and not subprocess.run(["docker", "info"], capture_output=True).returncode
    if not has_docker and (
        os.geteuid() or subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"]).returncode
    ):
        print("this needs a Docker daemon, or root", file=sys.stderr)
        return 77
    print("with Docker" if has_docker else "simulated, without Docker")
    image: Docker | Simulation = Docker() if has_docker else Simulation()
    try:
        with tempfile.TemporaryDirectory() as folder:
            try_image(image, Path(folder))
    finally:
        image.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
