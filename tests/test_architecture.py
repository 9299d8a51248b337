"""The order of the modules: who may import whom, and which packages each of them may use.

``LAYERS`` is the table of docs/architecture.md, from the bottom up. A module imports only what stands before
it: in an earlier layer, or earlier in its own. Imports inside functions count too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "neoxrun"

# Layer, the processes that run it (the command, a rank, or both), its modules. Only a rank's may use torch.
LAYERS = (
    ("base", "both", "errors terminal.log terminal.streams terminal.progress"),
    ("values", "both", "engine.request parallel.partition config.settings config.sampling config.released"),
    (
        "configuration",
        "both",
        "config.neox_keys config.yaml_source config.typed config.architecture config.reader tokenizer",
    ),
    (
        "planning",
        "both",
        "planning.memory planning.placement planning.explain planning.choose planning.plan planning.devices",
    ),
    ("checkpoint names", "both", "checkpoint.merge checkpoint.huggingface checkpoint.layout checkpoint.content"),
    ("prompts and records", "both", "generation.prompts generation.options generation.records"),
    (
        "tasks and data",
        "both",
        "evaluation.catalog evaluation.hub evaluation.local_data evaluation.find evaluation.data",
    ),
    (
        "answers and figures",
        "both",
        "evaluation.compare evaluation.report evaluation.fingerprint evaluation.cache evaluation.options",
    ),
    ("hand-over", "both", "launch.job launch.start"),
    (
        "download",
        "command",
        "download.remote download.trouble download.http download.part download.threads download.listing "
        "download.proof download.transfer download.fetch download.catalog download.hub download.manifest "
        "download.order download.tasks download.verify download.show",
    ),
    (
        "commands",
        "command",
        "launch.launcher commands.common commands.plan commands.generate commands.evaluate commands.download cli "
        "__main__",
    ),
    ("parallel", "rank", "engine.allocator model.kernels.cpu parallel.mesh model.layers parallel.queue"),
    ("checkpoint contents", "rank", "checkpoint.files checkpoint.source checkpoint.load checkpoint.writers"),
    ("network", "rank", "model.kv_cache model.rotary model.attention model.gpt_neox"),
    ("engine", "rank", "engine.scoring engine.messages engine.scheduler engine.sampler engine.runner engine.engine"),
    ("session", "rank", "engine.session generation.interrupt generation.answer generation.dialogue generation.run"),
    ("evaluation", "rank", "evaluation.copies evaluation.adapter evaluation.checks evaluation.run"),
    ("ranks", "rank", "launch.agent launch.worker"),
    ("Python API", "rank", "llm neoxrun evaluation.registered evaluation.__main__"),
)
ORDER = [module for _, _, modules in LAYERS for module in modules.split()]
SIDE = {module: side for _, side, modules in LAYERS for module in modules.split()}

# Imports against the order, each with its reason.
EXCEPTIONS = {
    ("cli", "neoxrun"): "the version number, which stands in the package itself",
    ("evaluation.run", "neoxrun"): "the version number, too",
    ("launch.start", "launch.agent"): "a process becomes what its arguments name, by a late import",
    ("launch.start", "launch.worker"): "a process becomes what its arguments name, by a late import",
}

# The only modules that import a package, and the package's name on the index where it is another.
IMPORTERS = {
    "datasets": "evaluation.data",
    "huggingface_hub": "evaluation.hub download.hub",
    "lm_eval": "evaluation.adapter evaluation.checks evaluation.data evaluation.run evaluation.registered "
    "evaluation.__main__",
    "megatron": "parallel.mesh",
    "numpy": "checkpoint.files evaluation.run",
    "pyarrow": "evaluation.local_data",
    "pynvml": "planning.devices",
    "requests": "download.http",
    "safetensors": "checkpoint.files",
    "tokenizers": "tokenizer",
    "tqdm": "terminal.progress",
    "urllib3": "download.trouble",
    "wandb": "evaluation.run commands.evaluate",
    "yaml": "config.yaml_source",
}
INDEX_NAMES = {
    "huggingface_hub": "huggingface-hub",
    "lm_eval": "lm-eval",
    "megatron": "megatron-core",
    "pynvml": "nvidia-ml-py",
    "yaml": "pyyaml",
}

SPEAKS = {
    "launch.agent",
    "cli",
    "generation.dialogue",
    "launch.start",
    "launch.worker",
}  # to people, on stderr, beside the log
# Those that write data to stdout.
USES_STDOUT = {
    "cli",
    "commands.download",
    "commands.evaluate",
    "commands.generate",
    "commands.plan",
    "generation.records",
    "launch.launcher",
    "launch.start",
    "terminal.streams",
}


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every module, under its name without ``neoxrun.``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")
        found[name or "neoxrun"] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imported(tree: ast.Module) -> set[str]:
    """Everything that a module imports, anywhere in it: modules of ours by short name, others by package."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole.removeprefix("neoxrun.") in trees() else str(node.module))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            # Each name that is written out in the call; one that ends with a dot stands for a package.
            written = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            for text in (part for part in written if isinstance(part, str) and part.startswith("neoxrun.")):
                within = [f"neoxrun.{name}" for name in trees() if f"neoxrun.{name}".startswith(text)]
                names |= set(within) if text.endswith(".") else {text}
    return {name.removeprefix("neoxrun.") if name.startswith("neoxrun.") else name.split(".")[0] for name in names}


@cache
def edges() -> dict[str, set[str]]:
    """Who imports whom among our modules, less the exceptions."""
    return {
        name: {other for other in imported(tree) if other in trees() and (name, other) not in EXCEPTIONS}
        for name, tree in trees().items()
    }


def is_empty(tree: ast.Module) -> bool:
    """Whether there is nothing but a docstring."""
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body)


def test_every_module_has_one_place() -> None:
    assert len(ORDER) == len(set(ORDER))
    assert set(ORDER) == {name for name, tree in trees().items() if not is_empty(tree)}


def test_imports_run_downward() -> None:
    wrong = [
        f"{name} imports {other}"
        for name in ORDER
        for other in edges()[name]
        if ORDER.index(other) >= ORDER.index(name) or SIDE[other] not in ("both", SIDE[name])
    ]
    assert not wrong, "against the order in LAYERS: " + "; ".join(sorted(wrong))


def test_every_exception_is_needed() -> None:
    assert all(other in imported(trees()[name]) for name, other in EXCEPTIONS)


def test_documented_order_is_this_one() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| (both|command|rank) \| ([^|]+) \|$", text, re.MULTILINE)
    documented = tuple((name, side, " ".join(re.findall(r"`([\w.]+)`", modules))) for _, name, side, modules in rows)
    assert documented == LAYERS
    assert [int(number) for number, *_ in rows] == list(range(1, len(LAYERS) + 1))


@pytest.mark.parametrize("package", sorted(IMPORTERS))
def test_a_package_has_few_importers(package: str) -> None:
    importers = {name for name, tree in trees().items() if package in imported(tree)}
    assert importers == set(IMPORTERS[package].split())


def test_only_ranks_import_torch() -> None:
    assert {SIDE[name] for name, tree in trees().items() if "torch" in imported(tree)} == {"rank"}


def test_what_is_imported_is_what_is_depended_on() -> None:
    foreign = {name for tree in trees().values() for name in imported(tree)} - trees().keys()
    foreign -= sys.stdlib_module_names
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["wandb"]]
    depended = {re.split(r"[^\w-]", requirement)[0] for requirement in wanted}
    assert {INDEX_NAMES.get(name, name) for name in foreign} == depended


def test_command_imports_no_torch() -> None:
    """Really so: every module of the command's side, and a whole `neoxrun plan`, in a fresh interpreter."""
    modules = [f"neoxrun.{name}" for name in ORDER if SIDE[name] != "rank"]
    program = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
from neoxrun.cli import main
assert main(["plan", "20B", "--devices", "2x48GB"]) == 0
print(*sorted({{name.split(".")[0] for name in sys.modules}}), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    assert "tokenizers" in loaded
    assert not loaded & {"torch", "transformers", "megatron", "numpy", "safetensors"}


def test_few_modules_speak() -> None:
    calls = {
        (name, ast.unparse(node))
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    }
    assert {name for name, _ in calls} == SPEAKS
    assert [call for _, call in calls if "file=sys.stderr" not in call] == []
    touches = {name for name, tree in trees().items() if re.search(r"\bsys\.stdout\b", ast.unparse(tree))}
    assert touches == USES_STDOUT
