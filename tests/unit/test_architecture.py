"""The walls of the house, computed from the imports themselves: nothing here lists the modules.

Two rules: an import between packages only goes down in ``FLOORS``; and what the command imports, before it becomes a
rank, does not import torch.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from itertools import chain

import pytest

from support.pages import PAGES, first_cells, section, written
from support.paths import ROOT

PACKAGE = ROOT / "neoxrun"

# From the bottom up; packages of one floor do not import each other. The last is the package itself, whose names are
# the Python API.
FLOORS = (
    "errors locks version",
    "terminal",
    "config input",
    "parallel tokenizer",
    "planning checkpoint",
    "model download",
    "engine",
    "generation",
    "serving",
    "evaluation benchmark conversion",
    "scoring training",
    "launch",
    "api",
    "flags",
    "commands",
    "cli",
    "__main__ neoxrun",
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names.split()}

# What is reachable from these answers without torch, which takes seconds to import.
COMMAND_SIDE = re.compile(r"cli|flags\..+|commands\..+|launch\.(job|launcher|start)")

# The imports of ours within functions: each decides what a process becomes, gives the API a name on first use, needs
# Triton, which not every machine has, a library that few runs need, lm-eval, or torch, for a command that works in its
# own process.
LATE = {
    ("commands.convert", "conversion.convert"),
    ("commands.diff", "conversion.diff_folders"),
    ("commands.inspect", "conversion.inspect"),
    ("commands.finetune", "training.data.cache"),
    ("commands.finetune", "training.data.found"),
    ("commands.finetune", "training.data.noticed"),
    ("commands.finetune", "training.data.prepare"),
    ("model.kernels", "model.kernels.fused"),
    ("launch.start", "launch.agent"),
    ("launch.start", "launch.worker"),
    ("launch.worker", "evaluation.replicas"),
    ("launch.worker", "evaluation.run"),
    ("launch.worker", "training.run"),
    ("evaluation.data", "evaluation.task_options"),
    ("neoxrun", "config.sampling"),
    ("neoxrun", "api.completion"),
    ("neoxrun", "api.llm"),
    ("commands.generate", "tokenizer.chat"),
    ("tokenizer.files", "tokenizer.spiece"),
}
# What a command's --help imports, next to `flags`, which is all that a person waits for there: none of it imports a
# package of others.
HELP = {
    "cli",
    "commands",
    "commands.foreign",
    "commands.foreign_names",
    "config",
    "config.limits",
    "config.names",
    "config.precisions",
    "config.sampling",
    "config.sampling_names",
    "config.settings",
    "config.shipped",
    "config.tensors",
    "config.training",
    "conversion",
    "conversion.options",
    "errors",
    "input",
    "input.compression",
    "input.formats",
    "launch",
    "launch.termination",
    "launch.world",
    "neoxrun",
    "parallel",
    "parallel.partition",
    "planning",
    "planning.memory",
    "planning.request",
    "planning.split",
    "scoring",
    "scoring.levels",
    "terminal",
    "terminal.ending",
    "terminal.json_lines",
    "terminal.log",
    "terminal.streams",
    "terminal.words",
    "version",
}
MOST_LINES = 300
MOST_LOOSE = 7  # modules that are in no package, the package's own two apart

# The only modules that import a package (torch apart), and the package's name on the index where it is another.
IMPORTERS = {
    "datasets": "evaluation.data",
    "deepspeed": "training.deepspeed_engine",
    "google": "tokenizer.spiece",
    "huggingface_hub": "evaluation.hub download.hub download.hub_cache",
    "jinja2": "tokenizer.chat",
    "lm_eval": "evaluation.adapter evaluation.checks evaluation.data evaluation.document evaluation.faster "
    "evaluation.named_errors evaluation.run evaluation.registered evaluation.task_options evaluation.__main__",
    "matplotlib": "benchmark.plot evaluation.trajectory_plot training.loss_plot",
    "megatron": "training.data.tokens training.tensor_parallel",
    "numpy": "checkpoint.files evaluation.faster evaluation.run planning.finetune_speed "
    "training.data.cache "
    "training.data.corpus training.data.encoding training.data.indexed training.data.packing training.data.repeated "
    "training.data.rows training.data.tokens training.rows "
    "training.trainer",
    "prompt_toolkit": "generation.prompter",
    "pyarrow": "evaluation.documents input.columns input.compression scoring.output",
    "pynvml": "planning.devices",
    "requests": "download.http",
    "safetensors": "checkpoint.adapter checkpoint.files",
    "sentencepiece": "tokenizer.spiece",
    "shtab": "commands.completion",
    "tensorboard": "training.trackers",
    "tokenizers": "tokenizer.files tokenizer.rebuild tokenizer.siblings tokenizer.spiece",
    "tqdm": "terminal.progress",
    "transformers": "benchmark.reference",
    "triton": "model.kernels.fused model.kernels.paged",
    "urllib3": "download.trouble",
    "wandb": "evaluation.run commands.evaluate_output training.trackers",
    "yaml": "config.yaml_source",
}
INDEX_NAMES = {
    "google": "protobuf",
    "huggingface_hub": "huggingface-hub",
    "lm_eval": "lm-eval",
    "megatron": "megatron-core",
    "prompt_toolkit": "prompt-toolkit",
    "pynvml": "nvidia-ml-py",
    "yaml": "pyyaml",
}

SPEAKS = {
    "launch.agent",
    "cli",
    "launch.start",
    "launch.worker",
}  # to people, on stderr, next to the log
# Those that write data to stdout.
USES_STDOUT = {
    "commands.completion",
    "cli",
    "commands.diff",
    "commands.download",
    "commands.evaluate",
    "commands.evaluate_revisions",
    "commands.generate",
    "commands.inspect",
    "commands.plan",
    "commands.score",
    "commands.score_revisions",
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


@cache
def imported(tree: ast.AST) -> frozenset[str]:
    """Everything that a piece of a module imports: modules of ours by short name, others by package."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole.removeprefix("neoxrun.") in trees() else str(node.module))
    return frozenset(
        name.removeprefix("neoxrun.") if name.startswith("neoxrun.") else name.split(".")[0] for name in names
    )


def late(tree: ast.Module) -> set[str]:
    """What a module imports within its functions."""
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {name for function in functions for name in imported(function)}


@cache
def edges(*, with_late: bool = True) -> dict[str, set[str]]:
    """Who imports whom among our modules, when it is imported itself or, ``with_late``, ever."""
    found = {}
    for name, tree in trees().items():
        others = {other for other in imported(tree) if other in trees()}
        found[name] = others if with_late else others - late(tree)
    return found


def reachable(start: set[str]) -> set[str]:
    """Every module of ours that is imported with those of ``start``."""
    seen: set[str] = set()
    waiting = set(start)
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= edges(with_late=False)[name] - seen
    return seen


def command_side() -> set[str]:
    """What the command's process imports."""
    return reachable({name for name in trees() if COMMAND_SIDE.fullmatch(name)})


def room(name: str) -> str:
    """The package of a module, or the module itself where it is in none."""
    return name.split(".")[0]


def test_every_package_has_a_floor() -> None:
    assert {room(name) for name in trees()} == FLOOR.keys()


def test_the_page_shows_the_floors() -> None:
    rows = first_cells(section(PAGES["docs/architecture.md"], "Packages"))
    assert [written([row]) for row in rows] == [set(names.split()) for names in FLOORS]


def test_imports_between_packages_go_down() -> None:
    upward = [
        f"{name} imports {other}"
        for name, others in edges().items()
        for other in others
        if room(name) != room(other) and FLOOR[room(other)] >= FLOOR[room(name)]
    ]
    assert not upward, f"against the order in FLOORS: {'; '.join(sorted(upward))}"


def test_what_words_a_plan_decides_nothing() -> None:
    searching = {f"planning.{name}" for name in ("search", "choose", "planner")}
    assert searching <= trees().keys()
    assert not reachable({"planning.explain", "planning.refused"}) & searching


def test_no_import_cycles() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a cycle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for other in sorted(edges()[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(trees()):
        visit(name, ())


def test_the_command_imports_no_torch() -> None:
    wrong = {name for name in command_side() if "torch" in imported(trees()[name]) - late(trees()[name])}
    assert not wrong, f"the command imports these, and they import torch: {sorted(wrong)}"


def test_late_imports_are_few() -> None:
    assert {(name, other) for name, tree in trees().items() for other in late(tree) & trees().keys()} == LATE
    dynamic = {
        name
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")
    }
    assert dynamic == {"cli"}, (
        "the command line imports the options and the work of one command; nothing else is imported by name"
    )


def test_few_modules_are_loose() -> None:
    assert len([name for name in trees() if "." not in name and (PACKAGE / f"{name}.py").is_file()]) <= MOST_LOOSE


def test_modules_are_short() -> None:
    long = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > MOST_LINES and "# Long because: " not in "\n".join(lines[:40]):
            long[path.relative_to(PACKAGE).as_posix()] = len(lines)
    assert not long, "look for a seam, or say in the head of the module why there is none"


@cache
def foreign() -> set[str]:
    """The packages of others that our modules import."""
    return {name for tree in trees().values() for name in imported(tree)} - trees().keys() - sys.stdlib_module_names


def test_every_package_of_others_has_its_importers() -> None:
    assert foreign() - {"torch"} == IMPORTERS.keys()


@pytest.mark.parametrize("package", sorted(IMPORTERS))
def test_a_package_has_few_importers(package: str) -> None:
    importers = {name for name, tree in trees().items() if package in imported(tree)}
    assert importers == set(IMPORTERS[package].split())


def test_what_is_imported_is_what_is_depended_on() -> None:
    needed = foreign() - {"triton"}  # comes with torch for CUDA; on other machines it is not used
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [extra for name, extra in project["optional-dependencies"].items() if name != "dev"]
    wanted = [*project["dependencies"], *chain.from_iterable(extras)]
    depended = {re.split(r"[^\w-]", requirement)[0] for requirement in wanted}
    assert {INDEX_NAMES.get(name, name) for name in needed} == depended


def test_a_plan_is_made_without_torch() -> None:
    """Really so: every module of the command's side, and a whole `neoxrun plan`, in a fresh interpreter."""
    modules = [f"neoxrun.{name}" for name in sorted(command_side() - {"neoxrun"})]
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
    assert not loaded & {"torch", "transformers", "numpy", "safetensors"}


def test_help_imports_little() -> None:
    """Of all commands, in a fresh interpreter."""
    program = """
import sys
before = set(sys.modules)
from neoxrun.cli import COMMANDS, main
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit as ended:
        assert ended.code == 0
print(*sorted(set(sys.modules) - before), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    own = {name.removeprefix("neoxrun.") for name in loaded if name.partition(".")[0] == "neoxrun"}
    assert {name for name in own if room(name) != "flags"} == HELP
    assert {name.partition(".")[0] for name in loaded} - {"neoxrun"} <= sys.stdlib_module_names


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
