"""The network and the engine on a GPU: skipped where there is none.

fp16 and bf16 are compared with the same weights in fp32: a logit of size 1 has steps of 2^-10 and 2^-7 there, and the
bounds allow a few of them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from neoxrun.checkpoint.writers import from_huggingface, save_layer_files
from neoxrun.config.precisions import precisions_for
from neoxrun.config.reader import load_settings
from neoxrun.config.sampling import SamplingParams
from neoxrun.config.settings import Precision, Settings
from neoxrun.engine.scoring import ScoreRequest, scoring_passes
from neoxrun.engine.session import Session, open_session
from neoxrun.errors import RankError
from neoxrun.parallel.mesh import single_rank_mesh
from support.paths import DEMO, FIXTURES
from support.ranks import prefilled, teacher_forced

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM

    Twin = tuple[Settings, GPTNeoXForCausalLM]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is visible")

GPU = torch.device("cuda", 0)
LENGTHS = (5, 17, 9, 30)
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}


def prefill_logits(session: Session, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.stack(prefilled(session.replica.runner, ids.tolist())).cpu()


def decode_logits(session: Session, ids: torch.Tensor) -> torch.Tensor:
    """The same logits, the last ones from one token at a time and the cache."""
    with torch.inference_mode():
        return torch.stack(teacher_forced(session.replica.runner, ids.tolist())).cpu()


def open_on_gpu(settings: Settings, dtype: Precision = "fp32", *, random_weights: bool = False) -> Session:
    precisions = precisions_for(dtype, "cuda")
    return open_session(settings, single_rank_mesh(GPU), precisions, random_weights=random_weights, show_progress=False)


@pytest.mark.parametrize("name", ["tp1", "tp1_full_rotary_erf", "tp1_sequential_residual", "tp2_native"])
def test_reference_logits(name: str) -> None:
    """Of tp2_native those of its two ranks, whose norms are folded on the one GPU."""
    folder = FIXTURES / name
    answers = load_file(folder / "logits.safetensors")
    session = open_on_gpu(load_settings([str(folder / "config.yml")]))
    for logits in (
        prefill_logits(session, answers["input_ids"]),
        decode_logits(session, answers["input_ids"]),
    ):
        difference = (logits - answers["logits"]).abs().max().item()
        print(f"{name}: {difference:.1e}")
        assert difference < 1e-4


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    """A random Hugging Face model and its GPT-NeoX layer files at tensor parallel 2."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    folder = tmp_path_factory.mktemp("twin")
    torch.manual_seed(3)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=2048, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024,
            max_position_embeddings=256, rotary_pct=0.25, hidden_act="gelu_fast", use_parallel_residual=True,
            initializer_range=0.05, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
        )
    ).eval()  # fmt: skip
    (folder / "config.yml").write_text(
        json.dumps(
            {
                "num_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "seq_length": 256,
                "max_position_embeddings": 256, "pos_emb": "rotary", "rotary_pct": 0.25, "no_weight_tying": True,
                "gpt_j_residual": True, "bias_gelu_fusion": True, "tokenizer_type": "HFTokenizer",
                "vocab_file": str(DEMO / "tokenizer.json"), "load": "."
            }
        )
    )  # fmt: skip
    settings = load_settings([str(folder / "config.yml")])
    save_layer_files(from_huggingface(model.state_dict()), folder, tp=2, config=settings.model, tag="global_step1")
    return settings, model


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_parity_with_transformers(twin: Twin, dtype: str) -> None:
    settings, model = twin
    model = model.to("cpu", torch.float32)
    ids = torch.randint(2, 2000, (4, 40), generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected = model(ids).logits
    session = open_on_gpu(settings, dtype)
    for logits in (prefill_logits(session, ids), decode_logits(session, ids)):
        difference = (logits - expected).abs().max().item()
        print(f"{dtype}: {difference:.1e} of {expected.abs().max().item():.2f}")
        assert difference < TOLERANCE[dtype]


def test_greedy_tokens_of_unequal_prompts(twin: Twin) -> None:
    settings, model = twin
    model = model.to(GPU, torch.float32)
    generator = torch.Generator().manual_seed(5)
    prompts = [torch.randint(2, 2000, (length,), generator=generator).tolist() for length in LENGTHS]
    session = open_on_gpu(settings)
    engine = session.replica.start_engine(slots=3, length=64, ends=())
    params = SamplingParams(maximum_tokens=20)
    for number, prompt in enumerate(prompts):
        engine.add(number, prompt, params)
    answers: dict[int, list[int]] = {number: [] for number in range(len(prompts))}
    while events := engine.step():
        for event in events:
            answers[event.request_id].append(event.sampled.token)
    for number, prompt in enumerate(prompts):
        out = model.generate(
            torch.tensor([prompt], device=GPU),
            do_sample=False,
            max_new_tokens=20,
            min_new_tokens=20,
            pad_token_id=0,
        )
        assert answers[number] == out[0, len(prompt) :].tolist()


def test_command_gives_the_same_text_as_on_the_cpu(tmp_path: Path) -> None:
    texts = []
    for device in ("cpu", "cuda"):
        arguments = ["generate", "demo", "--prompt", "def read_file(path):", "--dtype", "fp32", "--tp", "1"]
        arguments += ["--device", device, "-o", "-"]
        done = subprocess.run(
            [sys.executable, "-m", "neoxrun", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        texts.append(json.loads(done.stdout)["text"])
    assert texts[0] == texts[1]


def test_out_of_memory_is_one_error() -> None:
    changes = ["hidden_size=32768", "num_layers=64", "num_attention_heads=256"]
    settings = load_settings(["demo"], changes)
    with pytest.raises(RankError, match="out of memory on rank 0"):
        open_on_gpu(settings, random_weights=True)


def test_scoring_fits_the_memory_that_a_full_cache_leaves() -> None:
    """In the middle of a generation whose cache takes all that it may."""
    wide = ["hidden_size=4096", "num_layers=16", "num_attention_heads=32"]
    session = open_on_gpu(
        load_settings(["demo"], [*wide, "seq_length=2048", "max_position_embeddings=2048"]), "fp16", random_weights=True
    )
    alike, (first, second) = tuple(range(1000)), (tuple(range(7, 2007)), tuple(range(9, 49)))
    requests = [ScoreRequest((start, *first), second) for start in range(6)]
    requests += [ScoreRequest(alike, (start, *second)) for start in range(200)]
    engine = session.start_engine(requests=256, length=2048)
    free, whole = torch.cuda.mem_get_info()
    assert free < 0.15 * whole, "the cache takes all the memory that it may"
    engine.add(0, list(range(1500)), SamplingParams(maximum_tokens=9))
    engine.step()
    budget = session.scoring_budget()
    passes = list(scoring_passes(requests, budget))
    assert max(sum(len(row.tokens) for row in rows) for _, rows in passes) > budget // 2
    for numbers, rows in passes:
        assert len(session.replica.score(rows)) == len(numbers)
    assert len(engine.step()) == 1
    engine.close()
    session.replica.free_cache()
    assert session.scoring_budget() > budget


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA GPU is visible")
@pytest.mark.parametrize("split", [("--tp", "2"), ("--pp", "2"), ("--tp", "1", "--replicas", "2")])
def test_two_gpus_give_the_same_text(split: tuple[str, ...], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("import os\ndef read_file(path):\nclass Queue:\n")
    texts = []
    for chosen in (("--tp", "1", "--replicas", "1"), split):
        command = [sys.executable, "-m", "neoxrun", "generate", "demo", "-i", str(prompts), "-o", "-", *chosen]
        command += ["--device", "cuda", "--dtype", "fp32", "--temperature", "0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        texts.append({record["id"]: record["text"] for record in map(json.loads, done.stdout.splitlines())})
    assert texts[0] == texts[1]
