"""The plan, as a table: models x devices x flags, and what must hold for every plan."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from neoxrun.cli import main
from neoxrun.commands.plan import render
from neoxrun.config.sampling import SamplingParams
from neoxrun.config.settings import GenerationConfig, ModelConfig, Precision, Settings, TokenizerConfig
from neoxrun.errors import UsageError
from neoxrun.planning.devices import parse_devices
from neoxrun.planning.memory import model_parameters, stage_parameters
from neoxrun.planning.placement import Device, Requested
from neoxrun.planning.plan import Plan, make_plan, vocab_size_for_planning


def settings_for(
    layers: int, hidden: int, heads: int, tp: int = 1, pp: int = 1, precision: Precision = "fp16", **options
) -> Settings:
    defaults = {
        "intermediate_size": 4 * hidden,
        "seq_length": 2048,
        "max_position_embeddings": 2048,
        "pos_emb": "rotary",
        "rotary_pct": 0.25,
        "gpt_j_residual": True,
        "tie_embeddings": False,
    }
    model = ModelConfig(layers, hidden, heads, model_parallel_size=tp, pipe_parallel_size=pp, **(defaults | options))
    return Settings(
        model=model,
        tokenizer=TokenizerConfig("HFTokenizer", None, None),
        checkpoint=None,
        iteration=None,
        precision=precision,
        generation=GenerationConfig(SamplingParams()),
        seed=1234,
        sources=(),
    )


# Parameter counts as published (GPT-NeoX-20B's paper, Pythia's README).
PUBLISHED = {
    "20B": (settings_for(44, 6144, 64, tp=2, pp=4), 20_554_567_680),
    "pythia-14m": (settings_for(6, 128, 4), 14_067_712),
    "pythia-31m": (settings_for(6, 256, 8), 30_494_720),
    "pythia-70m": (settings_for(6, 512, 8), 70_426_624),
    "pythia-160m": (settings_for(12, 768, 12), 162_322_944),
    "pythia-410m": (settings_for(24, 1024, 16), 405_334_016),
    "pythia-1b": (settings_for(16, 2048, 8), 1_011_781_632),
    "pythia-1.4b": (settings_for(24, 2048, 16), 1_414_647_808),
    "pythia-2.8b": (settings_for(32, 2560, 32), 2_775_208_960),
    "pythia-6.9b": (settings_for(32, 4096, 32, tp=2), 6_857_302_016),
    "pythia-12b": (settings_for(36, 5120, 40, tp=4), 11_846_072_320),
}
NEOX_20B = PUBLISHED["20B"][0]


def planned(name: str, devices: str | list[Device], kind: str = "cuda", cores: int = 0, **requested: object) -> Plan:
    settings = PUBLISHED[name][0]
    here = parse_devices(devices, kind) if isinstance(devices, str) else devices
    here = [replace(device, cores=cores) for device in here]
    vocab_size, assumed = vocab_size_for_planning(settings)
    return make_plan(settings, here, Requested(**requested), vocab_size=vocab_size, vocab_assumed=assumed)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    settings, published = PUBLISHED[name]
    assert model_parameters(settings.model, vocab_size_for_planning(settings)[0]) == published


OPTIONS = [
    {},
    {"norm": "rmsnorm"},
    {"tie_embeddings": True},
    {"pos_emb": "learned", "max_position_embeddings": 40},
    {"gpt_j_tied": True},
    {"gpt_j_residual": False, "gpt_j_tied": True},
    {"use_bias_in_attn_linear": False},
    {"use_bias_in_mlp": False, "intermediate_size": 96},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "default")
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (1, 3), (4, 2)])
def test_stage_parameters_are_those_of_the_network(options, tp, pp):
    torch = pytest.importorskip("torch")
    from neoxrun.model.gpt_neox import Stage
    from neoxrun.parallel.mesh import Mesh

    model = settings_for(3, 32, 4, **options).model
    vocab_size = 50  # not divisible by 4
    meta = torch.device("meta")
    for stage, tp_rank in itertools.product(range(pp), range(tp)):
        mesh = Mesh(tp, pp, 1, tp_rank, stage, 0, meta)
        network = Stage(model, mesh, vocab_size, meta, torch.float32)
        count = sum(parameter.numel() for parameter in network.parameters())
        assert stage_parameters(model, vocab_size, tp, pp, stage) == count, f"stage {stage}, rank {tp_rank}"


# (model, devices, flags) -> (tp, pp, replicas)
ON_GPUS = [
    ("20B", "2x48GB", {}, (2, 1, 1)),
    ("20B", "1x80GB", {}, (1, 1, 1)),
    ("20B", "1x48GB", {}, (1, 1, 1)),
    ("20B", "2x80GB", {}, (1, 1, 2)),
    ("20B", "4x40GB", {}, (2, 1, 2)),
    ("20B", "8x24GB", {}, (4, 1, 2)),
    ("20B", "8x24GiB", {}, (4, 1, 2)),
    ("20B", "5x24GB", {}, (4, 1, 1)),
    ("20B", "3x24GB", {}, (1, 3, 1)),
    ("20B", "16x16GB", {}, (8, 1, 2)),
    ("20B", "2x24GiB", {}, (2, 1, 1)),
    ("20B", "2x24GB", {"nnodes": 2}, (2, 2, 1)),
    ("20B", "4x24GB", {"nnodes": 2}, (4, 1, 2)),
    ("20B", "1x80GB", {"nnodes": 3}, (1, 1, 3)),
    ("20B", "2x80GB", {"tp": 2}, (2, 1, 1)),
    ("20B", "4x48GB", {"tp": 2, "pp": 2}, (2, 2, 1)),
    ("20B", "8x80GB", {"replicas": 1}, (1, 1, 1)),
    ("20B", "8x80GB", {"tp": 2, "replicas": 3}, (2, 1, 3)),
    ("20B", "8x48GB", {"world_size": 4}, (2, 1, 2)),
    ("20B", "2x48GB", {"batch_size": 1}, (1, 1, 2)),
    ("20B", "2x80GB", {"batch_size": 40}, (2, 1, 1)),
    ("20B", "4x80GB", {"dtype": "fp32"}, (2, 1, 2)),
    ("pythia-12b", "2x24GB", {}, (2, 1, 1)),
    ("pythia-12b", "2x48GB", {}, (1, 1, 2)),
    ("pythia-1b", "8x24GB", {"tp": 8}, (8, 1, 1)),
    ("pythia-14m", "2x980MB", {}, (1, 1, 2)),  # splitting costs more than it saves
    *((name, "1x80GB", {}, (1, 1, 1)) for name in PUBLISHED),
    *((name, "4x80GB", {}, (1, 1, 4)) for name in PUBLISHED),
]


@pytest.mark.parametrize(("name", "devices", "flags", "expected"), ON_GPUS)
def test_split_on_gpus(name, devices, flags, expected):
    plan = planned(name, devices, **flags)
    assert (plan.tp, plan.pp, plan.replicas) == expected, plan.reason
    assert plan.max_context == 2048
    assert all(rank.total_bytes <= rank.free_bytes for rank in plan.devices)


def test_memory_of_20b_on_two_gpus():
    plan = planned("20B", "2x48GB")
    assert [rank.weights_bytes / 1e9 for rank in plan.devices] == [pytest.approx(20.56, abs=0.01)] * 2
    assert plan.kv_bytes_per_token == 2 * 44 * 6144 * 2
    cache = plan.max_batch * plan.max_context * plan.kv_bytes_per_token // 2
    assert plan.devices[0].kv_cache_bytes == cache
    layer = 12 * 6144 * 6144 // 2 * 2
    assert layer < plan.host_peak_bytes < layer + 2e9


# (model, host memory, cores, flags) -> (tp, pp, replicas, dtype)
ON_CPU = [
    ("pythia-160m", "16GB", 2, {}, (1, 1, 1, "fp32")),
    ("pythia-6.9b", "64GB", 2, {}, (2, 1, 1, "fp32")),
    ("pythia-6.9b", "64GB", 1, {}, (1, 1, 1, "fp32")),
    ("pythia-6.9b", "64GB", 0, {}, (2, 1, 1, "fp32")),
    ("pythia-6.9b", "24GB", 2, {}, (2, 1, 1, "bf16")),
    ("pythia-6.9b", "24GB", 2, {"dtype": "fp16"}, (2, 1, 1, "fp16")),
    ("20B", "256GB", 16, {}, (2, 1, 1, "fp32")),
    ("20B", "256GB", 1, {}, (1, 1, 1, "fp32")),
    ("20B", "256GB", 2, {"tp": 4}, (4, 1, 1, "fp32")),
    ("20B", "256GB", 2, {"pp": 3, "replicas": 2}, (1, 3, 2, "fp32")),
    ("pythia-6.9b", "64GB", 2, {"nnodes": 2}, (2, 1, 2, "fp32")),
    ("pythia-160m", "16GB", 2, {"world_size": 3}, (1, 1, 3, "fp32")),
]


@pytest.mark.parametrize(("name", "memory", "cores", "flags", "expected"), ON_CPU)
def test_split_on_the_cpu(name, memory, cores, flags, expected):
    plan = planned(name, memory, "cpu", cores, **flags)
    assert (plan.tp, plan.pp, plan.replicas, plan.dtype) == expected, plan.reason
    assert plan.device_kind == "cpu"
    assert plan.gpus == ()


# What cannot be -> words of the message, words of the hint.
IMPOSSIBLE = [
    (
        "20B",
        "1x24GB",
        {},
        ["41.1 GB of fp16 weights", "22.8 GB of 24.0 GB", "too little"],
        ["3x24GB", "1x48GB"],
    ),
    ("20B", "2x24GB", {"dtype": "fp32"}, ["82.2 GB of fp32 weights", "tp 2 x pp 1"], ["2x49GB"]),
    ("20B", "2x40GB", {"dtype": "fp32"}, ["82.2 GB of fp32 weights"], ["--dtype bf16"]),
    ("20B", "2x40GB", {"tp": 1, "pp": 1}, ["does not fit on 1 GPU"], ["--tp 2 --pp 1 --replicas 1"]),
    ("20B", "8x24GB", {"tp": 3}, ["64 attention heads", "--tp 3"], ["1, 2, 4, 8, 16, 32, 64"]),
    ("20B", "8x24GB", {"pp": 45}, ["--pp 45", "44"], ["at most 44"]),
    ("20B", "2x48GB", {"tp": 4}, ["tp 4 needs 4 GPUs", "there are 2 GPUs"], ["--tp 2 --pp 1 --replicas 1"]),
    ("20B", "2x80GB", {"tp": 2, "pp": 2, "replicas": 2}, ["needs 8 GPUs"], ["--tp 2 --pp 1 --replicas 1"]),
    ("20B", "2x24GB", {"tp": 4, "nnodes": 2}, ["on one host", "2 GPUs on each of 2 hosts"], ["--tp 2"]),
    ("20B", "2x80GB", {"pp": 3, "nnodes": 2}, ["pp 3 cannot be laid evenly"], ["--pp"]),
    ("20B", "4x80GB", {"tp": 2, "world_size": 3}, ["tp 2", "started 3 ranks"], ["--tp 1"]),
    ("20B", "2x80GB", {"context": 4096}, ["4096", "2048"], ["at most 2048"]),
    ("20B", "2x80GB", {"batch_size": 0}, ["--batch-size 0"], ["at least 1"]),
]


@pytest.mark.parametrize(("name", "devices", "flags", "message", "hint"), IMPOSSIBLE)
def test_what_is_not_possible_says_what_is(name, devices, flags, message, hint):
    with pytest.raises(UsageError) as caught:
        planned(name, devices, **flags)
    assert caught.value.exit_code == 2
    for part in message:
        assert part in caught.value.message
    for part in hint:
        assert part in (caught.value.hint or "")


def test_the_nearest_that_is_suggested_works():
    with pytest.raises(UsageError) as caught:
        planned("20B", "6x48GB", tp=8, pp=2)
    sizes = dict(re.findall(r"--(\w+) (\d+)", caught.value.hint or ""))
    plan = planned("20B", "6x48GB", **{name: int(size) for name, size in sizes.items()})
    assert (plan.tp, plan.pp) == (4, 1)


def test_the_number_of_gpus_that_is_suggested_works():
    with pytest.raises(UsageError) as caught:
        planned("20B", "1x16GB")
    suggested = re.search(r"\d+x16GB", caught.value.hint or "")
    assert suggested
    plan = planned("20B", suggested[0])
    assert plan.max_context == 2048


def test_host_too_small_says_how_much_is_missing():
    with pytest.raises(UsageError, match=r"41\.1 GB of bf16 weights.*too little"):
        planned("20B", "32GB", "cpu", cores=8)


def test_no_gpu_is_an_error():
    with pytest.raises(UsageError, match="no CUDA GPU"):
        planned("20B", [])


def test_notes_say_what_differs_from_the_configuration():
    assert "pipe_parallel_size: 4 -> 1, 2 GPUs seen" in planned("20B", "2x48GB").notes
    assert "model_parallel_size: 2 -> 1, 1 GPU seen" in planned("20B", "1x80GB").notes
    assert "pipe_parallel_size: 4 -> 1, 2 cores seen" in planned("20B", "256GB", "cpu", 2).notes
    assert not any("parallel_size" in note for note in planned("20B", "8x24GB", tp=4, pp=2).notes)
    assert "1 GPU of 5 not used" in planned("20B", "5x24GB").notes
    assert "batch size: 64 -> 20, what fits at 2048 tokens each" in planned("20B", "2x48GB", batch_size=64).notes
    assert any("50432 assumed" in note for note in planned("20B", "2x48GB").notes)
    assert any("4 ranks share 2 cores" in note for note in planned("20B", "256GB", "cpu", 2, tp=4).notes)


def test_a_shorter_context_is_better_than_none():
    plan = planned("20B", "2x24GB")
    assert 256 <= plan.max_context < 2048
    assert plan.max_batch == 1
    assert any(note.startswith("context: 2048 ->") for note in plan.notes)
    with pytest.raises(UsageError):
        planned("20B", "2x24GB", context=2048)


def test_a_gpu_that_is_in_use_is_left_out():
    free = (80, 1, 80, 79)
    gpus = [Device("cuda", index, "H100", 80 * 10**9, gb * 10**9) for index, gb in enumerate(free)]
    plan = planned("20B", gpus)
    assert plan.gpus == (0, 2, 3)
    assert (plan.tp, plan.pp, plan.replicas) == (1, 1, 3)
    assert "GPU 1 left out: only 1.0 GB free" in plan.notes


def test_ranks_lie_as_gpt_neox_lays_them():
    """Tensor parallel fastest, then replicas, then stages; a host's GPUs in order."""
    plan = planned("20B", "4x80GB", tp=2, pp=2, nnodes=2)
    assert plan.replicas == 2
    assert [(r.rank, r.node, r.device, r.stage, r.tensor_rank) for r in plan.devices] == [
        (0, 0, 0, 0, 0),
        (1, 0, 1, 0, 1),
        (4, 1, 0, 1, 0),
        (5, 1, 1, 1, 1),
    ]


def test_json_has_what_programs_rely_on():
    values = json.loads(json.dumps(planned("20B", "2x48GB").to_json()))
    keys = [
        "tp",
        "pp",
        "replicas",
        "dtype",
        "reason",
        "devices",
        "host_peak_bytes",
        "max_context",
        "max_batch",
    ]
    assert set(keys) <= set(values)
    rank_keys = ["weights_bytes", "kv_cache_bytes", "workspace_bytes", "total_bytes", "free_bytes"]
    assert all(set(rank_keys) <= set(rank) for rank in values["devices"])


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "20B.yml"
    path.write_text(
        "{num-layers: 44, hidden-size: 6144, num-attention-heads: 64, seq-length: 2048, rotary-pct: 0.25,\n"
        " max-position-embeddings: 2048, pos-emb: rotary, gpt-j-residual: true, no-weight-tying: true,\n"
        " tokenizer-type: HFTokenizer, model-parallel-size: 2, pipe-parallel-size: 4, fp16: {fp16: true}}\n"
    )
    return str(path)


def test_the_command(config, capsys):
    assert main(["plan", config, "--devices", "2x48GB", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["tp"], plan["pp"], plan["replicas"], plan["parameters"]) == (2, 1, 1, 20_554_567_680)
    assert main(["plan", config, "--devices", "64GB", "--device", "cpu", "--tp", "1"]) == 0
    assert "20B: 20,554,567,680 parameters in bf16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices", "1x24GB"], "does not fit"),
        (["--devices", "2x48GB", "--gpus", "0"], "--gpus"),
        (["--devices", "many"], "not a count and a memory size"),
    ],
)
def test_the_command_refuses(config, capsys, arguments, message):
    assert main(["plan", config, *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err


@pytest.mark.parametrize(("devices", "kind"), [("8x24GB", "cuda"), ("256GB", "cpu")])
def test_table_is_aligned_and_ends_with_the_reason(devices, kind):
    plan = planned("20B", devices, kind)
    text = render(plan, "20B")
    lines = text.splitlines()
    table = lines[3 : 4 + len(plan.devices)]
    assert len({len(line) for line in table}) == 1, "every row ends in the same column"
    assert text.replace("\n", " ").endswith(plan.reason)


MODELS = st.builds(
    lambda layers, heads, head_dim, tp, pp, options: settings_for(
        layers, heads * head_dim, heads, tp=tp, pp=pp, **options
    ),
    layers=st.integers(1, 48),
    heads=st.sampled_from([1, 3, 4, 7, 8, 12, 16, 40, 64]),
    head_dim=st.sampled_from([16, 64, 96]),
    tp=st.sampled_from([1, 2, 4]),
    pp=st.sampled_from([0, 1, 4]),
    options=st.sampled_from(OPTIONS[:-1]),
)
REQUESTS = st.builds(
    Requested,
    tp=st.none() | st.sampled_from([1, 2, 3, 4, 8]),
    pp=st.none() | st.integers(1, 6),
    replicas=st.none() | st.integers(1, 4),
    batch_size=st.none() | st.integers(1, 300),
    nnodes=st.integers(1, 3),
)
MEMORY = st.integers(10**9, 60 * 10**9)


def gpus_of(free: list[int]) -> list[Device]:
    return [Device("cuda", index, "GPU", memory, memory) for index, memory in enumerate(free)]


@given(MODELS, REQUESTS, st.lists(MEMORY, min_size=1, max_size=9), st.booleans())
def test_every_plan_is_possible(settings, requested, free, on_cpu):
    devices = [Device("cpu", 0, "CPU", sum(free), sum(free), cores=len(free))] if on_cpu else gpus_of(free)
    model = settings.model
    try:
        plan = make_plan(settings, devices, requested, vocab_size=50304)
    except UsageError:
        assume(False)
    for name in ("tp", "pp", "replicas"):
        assert getattr(requested, name) in (None, getattr(plan, name))
    per_host, odd = divmod(plan.world_size, requested.nnodes)
    assert odd == 0
    assert per_host % plan.tp == 0, "a tensor-parallel group lies on one host"
    assert model.num_attention_heads % plan.tp == 0
    assert model.num_layers >= plan.pp
    assert 1 <= plan.max_context <= model.max_context
    assert 1 <= plan.max_batch <= (requested.batch_size or 256)
    assert len(plan.devices) == plan.tp * plan.pp
    if not on_cpu:
        assert len(set(plan.gpus)) == per_host <= len(devices)
    for rank in plan.devices:
        assert rank.total_bytes == rank.weights_bytes + rank.kv_cache_bytes + rank.workspace_bytes
        assert rank.total_bytes <= rank.free_bytes
    layers = [rank.num_layers for rank in plan.devices if rank.tensor_rank == 0]
    assert sum(layers) == model.num_layers
    assert min(layers) >= 1
    weights = sum(rank.weights_bytes for rank in plan.devices)
    assert weights >= plan.parameters * {"fp32": 4, "fp16": 2, "bf16": 2}[plan.dtype]


@given(MODELS, REQUESTS, st.integers(1, 9), MEMORY, MEMORY)
def test_more_memory_never_means_more_gpus_for_a_copy(settings, requested, count, memory, more):
    try:
        small = make_plan(settings, gpus_of([memory] * count), requested, vocab_size=50304)
    except UsageError:
        assume(False)
    large = make_plan(settings, gpus_of([memory + more] * count), requested, vocab_size=50304)
    assert large.tp * large.pp <= small.tp * small.pp
    assert large.max_context >= small.max_context
