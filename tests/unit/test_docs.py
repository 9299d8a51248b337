"""What README and docs say is what there is: commands, options, keys, fields, files and exit codes."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from neoxrun import LLM, cli, errors
from neoxrun.commands.plan_json import to_json
from neoxrun.config import neox_keys
from neoxrun.config.reader import load_settings
from neoxrun.config.sampling import SAMPLING_NAMES
from neoxrun.config.shipped import shipped_names
from neoxrun.download import models_file
from neoxrun.download.manifest import Manifest, ManifestEntry, write_manifest
from neoxrun.generation.records import RECORD_CODES, Record
from neoxrun.planning.described import parse_devices
from support.pages import (
    GUIDE,
    PAGES,
    README,
    blocks,
    command_lines,
    first_cells,
    options_of,
    parser_of,
    python_examples,
    section,
    written,
)
from support.paths import ROOT
from support.plans import planned


@pytest.mark.parametrize(("line", "arguments"), list(command_lines()))
def test_command_lines_parse(line: str, arguments: list[str]) -> None:
    args = cli.build_parser().parse_args(arguments)
    for source in getattr(args, "config", []):
        path = Path(source)
        bare = source == path.name and not path.suffix  # with a slash, it may be a model's folder
        if path.parent == Path("configs") or bare:
            assert path.stem in shipped_names()
    for name in re.findall(r"(?:configs|tests|docs)/[\w./-]+", line):
        assert (ROOT / name).exists()


def test_every_shipped_configuration_is_read() -> None:
    named = set(re.findall(r"pythia-\d+\.?\d*[mb]\b", README)) | {"20B", "demo"}
    assert named <= set(shipped_names())
    for name in shipped_names():
        assert load_settings([name]).checkpoint is not None


def test_commands_that_do_not_exist_are_named_as_planned_only() -> None:
    for name, page in PAGES.items():
        prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
        planned = section(page, "Limits today") if "## Limits today" in page else ""
        for command in re.findall(r"`neoxrun (\w+)[^`]*`", prose.replace(planned, "") if planned else prose):
            assert command in {*cli.COMMANDS, "help"}, f"{name}: neoxrun {command}"
    wished = re.findall(r"`neoxrun (\w+)`", section(README, "Limits today"))
    assert wished
    assert not set(wished) & set(cli.COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_named_files_and_links_exist(page: str) -> None:
    text = PAGES[page]
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith(("http://", "https://"))]
    for link in links:
        path, _, heading = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        assert not heading or heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
    folders = r"(?:neoxrun|configs|scripts|tests|docs|benchmarks)/[\w./-]*"
    for name in re.findall(rf"`({folders})`", text):
        assert (ROOT / name).exists(), name


def test_readme_lists_every_page() -> None:
    listed = re.findall(r"\]\(([^)]+)\)", section(README, "Documentation"))
    assert set(PAGES) - {"README.md"} <= set(listed)


def test_files_table_has_every_folder() -> None:
    named = {name.split("/")[0] for name in written(first_cells(section(README, "Files")))}
    folders = {"neoxrun", "configs", "scripts", "tests", "benchmarks"}
    assert named == folders
    inside = {name.split("/")[1] for name in written(first_cells(section(README, "Files"))) if name.count("/") == 2}
    packages = {path.parent.name for path in (ROOT / "neoxrun").glob("*/__init__.py")}
    assert inside == packages


def test_exit_codes_are_the_same_everywhere() -> None:
    for command in (cli.build_parser([]), parser_of("plan")):
        shown = re.findall(r"^ +(\d+) +(.+)$", (command.epilog or "").partition("exit codes:")[2], re.MULTILINE)
        assert {int(code): meaning for code, meaning in shown} == errors.EXIT_CODES
    for page in (README, PAGES["docs/errors.md"]):
        rows = re.findall(r"^\| (\d+) \| (.+) \|$", section(page, "Exit codes"), re.MULTILINE)
        assert {int(code): meaning for code, meaning in rows} == errors.EXIT_CODES
    raised = {kind.exit_code for kind in [errors.NeoxrunError, *errors.NeoxrunError.__subclasses__()]}
    assert raised | {0} == errors.EXIT_CODES.keys()


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_whole_sentences_with_defaults(command: str) -> None:
    for action in options_of(command):
        name = "/".join(action.option_strings) or action.dest
        text = action.help or ""
        assert text.endswith("."), f"{command} {name}: {text}"
        assert text[0].isupper(), f"{command} {name}: {text}"
        takes_value = action.nargs != 0
        assert not takes_value or re.search(r"[Dd]efault", text), f"{command} {name} says no default: {text}"


@pytest.mark.parametrize("command", ["bench", "convert", "download", "finetune", "generate", "plan", "score"])
def test_guide_has_every_option(command: str) -> None:
    documented = written(first_cells(section(PAGES[f"docs/{command}.md"], "Options")))
    options = [action for action in options_of(command) if action.option_strings]
    missing = [action.option_strings for action in options if not documented & set(action.option_strings)]
    assert not missing
    assert documented <= {name for action in options for name in action.option_strings}


def shown_plans() -> Iterator[tuple[str, str, str]]:
    """Every `neoxrun plan` of a page that is shown with what it prints: page, arguments, output."""
    for name, page in PAGES.items():
        for block in blocks(page, "console"):
            for command, shown in re.findall(r"^\$ neoxrun (plan .+)\n((?:(?!\$ ).*\n)+)", block, re.MULTILINE):
                yield name, command, shown


def test_plans_are_shown() -> None:
    assert {name for name, *_ in shown_plans()} == {
        "README.md",
        "docs/finetune.md",
        "docs/plan.md",
        "docs/troubleshooting.md",
    }


@pytest.mark.parametrize(("page", "command", "shown"), list(shown_plans()))
def test_shown_plans_are_what_the_command_prints(
    page: str,
    command: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As in a folder without a tokenizer: nothing has been downloaded yet."""
    monkeypatch.chdir(tmp_path)
    cli.main(command.split())
    printed = capsys.readouterr()
    assert printed.out + printed.err == shown, page


def plan_tables(title: str) -> list[list[str]]:
    """The rows of the tables under a heading of docs/plan.md, cell by cell, without their heads."""
    rows = re.findall(r"^\| (`.+) \|$", section(PAGES["docs/plan.md"], title), re.MULTILINE)
    return [row.split(" | ") for row in rows]


def test_sizes_for_the_20b_are_what_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [row for row in plan_tables("GPT-NeoX-20B on your GPUs") if row[0] != "`--devices`"]
    assert len(rows) > 9
    for devices, *shown in rows:
        assert cli.main(["plan", "20B", "--devices", devices.strip("`"), "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        sizes = f"{plan['tp']} x {plan['pp']} x {plan['replicas']}"
        assert shown == [sizes, str(plan["max_context"]), str(plan["max_batch"])], devices
    on_cpu = re.search(r"needs ([\d.]+ GB) of free memory in bf16, or ([\d.]+ GB) in fp32", PAGES["docs/plan.md"])
    assert on_cpu
    for dtype, needed in zip(("bf16", "fp32"), on_cpu.groups(), strict=True):
        command = ["plan", "20B", "--device", "cpu", "--devices", "20GB", "--dtype", dtype]
        assert cli.main(command) == 2
        assert f"What would fit: {needed} of free host memory" in capsys.readouterr().err


def test_plan_page_has_every_key_of_the_json() -> None:
    plan = to_json(planned("20B", "2x48GB"))
    documented = written([row[0] for row in plan_tables("JSON")])
    assert documented == plan.keys() | plan["devices"][0].keys()
    (formats,) = [row[1] for row in plan_tables("JSON") if row[0] == "`precisions`"]
    assert re.findall(r'"(\w+)"', formats) == list(plan["precisions"])


def test_examples_of_devices_are_understood() -> None:
    examples = [row[0] for row in plan_tables("Devices that are not here") if row[0] != "`--devices`"]
    assert len(examples) > 3
    for example in examples:
        sizes, *rest = re.findall(r"`([^`]+)`", example)
        assert parse_devices(sizes, "cpu" if rest else "cuda")


def test_readme_names_options_that_there_are() -> None:
    documented = written(first_cells(section(GUIDE, "Options")))
    short = written(first_cells(section(README, "Prompts, options and records")))
    assert short <= documented


def test_guide_has_every_key_of_a_prompt() -> None:
    documented = written(first_cells(section(GUIDE, "Prompts")))
    assert documented == {"prompt", "context", "text", "messages", "id", "n", "num_samples", *SAMPLING_NAMES}


def test_guide_has_every_field_of_a_record() -> None:
    documented = written(first_cells(section(GUIDE, "Records")))
    assert documented == {field.name for field in fields(Record)} - {"extra"}, "which are the prompt's keys"


def test_guide_has_every_code_of_a_record() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section(GUIDE, "Codes"), re.MULTILINE)
    assert dict(rows) == RECORD_CODES


def test_guide_has_every_key_of_a_manifest(tmp_path: Path) -> None:
    documented = written(first_cells(section(PAGES["docs/download.md"], "The manifest")))
    full = Manifest(
        {"a": ManifestEntry(1, "0" * 64, "https://host/a")}, "m", "o/m", "https://hub", "0" * 40, ("https://host/",)
    )
    assert documented == json.loads(write_manifest(full, tmp_path).read_text(encoding="utf-8")).keys()


def test_example_of_own_sources_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = blocks(PAGES["docs/download.md"], "yaml")
    path = tmp_path / "neoxrun" / "models.yml"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    known = models_file.load_catalog()
    assert len(known.model("our-model").files) == 1 + 2 * 15
    assert known.model("our-pythia").hub == "our-team/our-pythia"


@pytest.mark.parametrize(("name", "program", "shown"), list(python_examples()))
def test_python_examples_run_and_print_what_they_say(name: str, program: str, shown: list[str]) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, name, "exec"), {})
    lines = printed.getvalue().splitlines()
    assert shown
    # The text may differ where another processor rounds differently; what kind of lines they are may not.
    assert [line.split("'")[0] for line in lines] == [line.split("'")[0] for line in shown]


def test_both_pages_with_python_have_examples() -> None:
    assert {name.split(",")[0] for name, _, _ in python_examples()} == {"README.md", "docs/python.md"}


def test_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, ROOT / "scripts" / "write_docs.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_configuration_has_every_key() -> None:
    named = written(first_cells(PAGES["docs/configuration.md"])) | written(
        [section(PAGES["docs/configuration.md"], "Ignored")]
    )
    assert named == neox_keys.KNOWN


def test_python_page_has_every_argument_of_llm() -> None:
    documented = written(first_cells(section(PAGES["docs/python.md"], "Which model, and where it runs")))
    assert documented == inspect.signature(LLM).parameters.keys() - {"foreign"}


def test_python_page_has_every_argument_of_generate() -> None:
    documented = written(first_cells(section(PAGES["docs/python.md"], "Generate")))
    assert documented == inspect.signature(LLM.generate).parameters.keys() - {"self", "sampling"}


def test_no_merge_is_half_done() -> None:
    folders = [ROOT / name for name in ("docs", "neoxrun", "tests", "benchmarks", "scripts", "configs")]
    paths = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".md", ".py", ".yml", ".txt")]
    paths += ROOT.glob("*.*")
    marked = re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE)
    found = [path for path in paths if path.is_file() and marked.search(path.read_text(encoding="utf-8"))]
    assert len(paths) > 200
    assert not found
