"""What GPT-NeoX's own loader asks of a folder, one by one, and that a converted folder has it.

The demands are read from EleutherAI/gpt-neox at ea7aefd8 (the tests name its files) and from the DeepSpeed in its
requirements, EleutherAI/DeeperSpeed at 91d1c55 (named with `deepspeed/`). GPT-NeoX needs CUDA and packages that are not
here; scripts/load_in_gpt_neox.py runs that code itself, where its clones are, and compares logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer

from neoxrun.checkpoint.files import read_pickle
from neoxrun.config import neox_keys
from neoxrun.conversion.convert import convert
from support.conversions import order
from support.paths import FIXTURES

UPSTREAM = FIXTURES / "upstream_tp2_pp2"  # saved by GPT-NeoX itself
STEP = "global_step150000"


@pytest.fixture(scope="module", params=[1, 2])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-NeoX's own files, made a Hugging Face folder, and that made GPT-NeoX files of one or two ranks."""
    made = tmp_path_factory.mktemp("converted")
    convert(order(UPSTREAM, made / "hf", "huggingface"))
    convert(order(made / "hf", made / "neox", "neox", tp=request.param, configuration=made / "hf"))
    return made / "neox"


def ranks_of(folder: Path) -> int:
    count: int = yaml.safe_load((folder / "config.yml").read_text())["model_parallel_size"]
    return count


def read(path: Path) -> dict[str, Any]:
    """As DeepSpeed's checkpoint engine: torch.load with torch's own defaults, which allow no code."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def test_latest_names_the_step(folder: Path) -> None:
    """deepspeed/runtime/engine.py, load_checkpoint: the tag is what `latest` holds."""
    tag = (folder / "latest").read_text().strip()
    assert tag == STEP
    assert (folder / tag).is_dir()


def test_there_is_a_state_file_for_each_rank(folder: Path) -> None:
    """deepspeed/runtime/engine.py, _get_all_ckpt_names; state_dict_factory.py, check_ckpt_list and load."""
    found = sorted((folder / STEP).glob("mp_rank_*_model_states.pt"))
    assert len(found) == ranks_of(folder)
    for path in found:
        assert read(path)["mp_world_size"] == len(found)


def test_a_state_file_has_the_keys_that_are_read(folder: Path) -> None:
    """deepspeed/runtime/engine.py, _load_checkpoint; pipe/engine.py, load_module_state_dict.

    Without a module of its own the layers are read from their files.
    """
    keys = {"dp_world_size", "lr_scheduler", "optimizer", "global_steps", "skipped_steps", "mp_world_size"}
    upstream = read_pickle(UPSTREAM / STEP / "mp_rank_00_model_states.pt")
    for path in (folder / STEP).glob("mp_rank_*"):
        state = read(path)
        assert state["module"] is upstream["module"] is None
        assert keys <= state.keys() & upstream.keys()


def test_the_iteration_and_the_arguments(folder: Path) -> None:
    """megatron/checkpointing.py, load_checkpoint and check_checkpoint_args: every argument in it must be the same."""
    state = read(next((folder / STEP).glob("mp_rank_00*")))
    assert state["iteration"] == 150000
    assert state["args"] == {}


def test_every_layer_is_found_by_its_number(folder: Path) -> None:
    """deepspeed/runtime/pipe/module.py, ckpt_layer_path_list and load_state_dir: one file a rank, in sorted order.

    megatron/model/gpt2_model.py, init_specs: layers 1 and L+2 are functions without weights.
    """
    for layer in (0, 2, 3, 4, 6, 7):
        found = sorted((folder / STEP).glob(f"layer_{layer:02d}-*model_states.pt"))
        assert len(found) == ranks_of(folder)
        assert [path.name[9:17] for path in found] == [f"model_{rank:02d}" for rank in range(len(found))]


def test_a_layer_has_exactly_the_tensors_of_gpt_neox_itself(folder: Path) -> None:
    """deepspeed/runtime/pipe/module.py, load_state_dir: `load_state_dict(checkpoint, strict=True)`."""
    for path in sorted((UPSTREAM / STEP).glob("layer_*-model_00-model_states.pt")):
        upstream, own = read(path), read(folder / STEP / path.name)
        assert own.keys() == upstream.keys()
        if ranks_of(folder) == 2:
            assert {name: (one.shape, one.dtype) for name, one in own.items()} == {
                name: (one.shape, one.dtype) for name, one in upstream.items()
            }


@pytest.mark.parametrize("name", ["config.yml", f"{STEP}/configs/config.yml"])
def test_the_configuration_is_enough(folder: Path, name: str) -> None:
    """Three demands that have nothing to do with the network.

    - megatron/neox_arguments/arguments.py, calculate_batch_parameters: a batch size;
    - megatron/training.py, get_learning_rate_scheduler: a number of iterations, for texts too;
    - megatron/checkpointing.py, load_checkpoint: `finetune`, or else random states, without which the program ends.

    And NeoXArgs takes no key that it does not know: none of neoxrun's own.
    """
    options = yaml.safe_load((folder / name).read_text())
    assert options["train_micro_batch_size_per_gpu"] == 1
    assert options["train_iters"] == 1
    assert options["finetune"] is True
    assert not options.keys() & neox_keys.OWN.keys()
    assert options["pipe_parallel_size"] == 1  # the layers' files are read with one stage or more


def test_the_vocabulary_is_padded_to_the_rows_of_the_files(folder: Path) -> None:
    """megatron/tokenizer/tokenizer.py, _vocab_size_with_padding: to a multiple of the divisor times the ranks."""
    options = yaml.safe_load((folder / "config.yml").read_text())
    multiple = options["make_vocab_size_divisible_by"] * options["model_parallel_size"]
    rows = sum(len(read(path)["word_embeddings.weight"]) for path in (folder / STEP).glob("layer_00-*"))
    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    assert -(-size // multiple) * multiple == rows
