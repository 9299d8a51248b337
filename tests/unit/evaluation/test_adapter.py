"""The parts of `neoxrun evaluate` by themselves: the adapter on small networks, cache, fingerprint, comparison."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import sqlite3
import sys
import types
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.tiny_models import CPU, demo_tokenizer, reciter, successor

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance

from neoxrun.config import reader as config
from neoxrun.engine.runner import Runner
from neoxrun.engine.session import Session
from neoxrun.errors import DataError, UsageError
from neoxrun.evaluation import adapter, compare, fingerprint, report
from neoxrun.evaluation import run as evaluation
from neoxrun.evaluation.adapter import NeoxLM
from neoxrun.evaluation.cache import AnswerCache
from neoxrun.evaluation.copies import Copies
from neoxrun.evaluation.options import EvaluateOptions, sampling_of
from neoxrun.evaluation.report import table
from neoxrun.parallel.mesh import single

TOKENIZER = demo_tokenizer()
ROWS = TOKENIZER.vocab_size


def model(runner: Runner, context: int = 24, **how: Any) -> NeoxLM:
    session = Session(config.load(["demo"]), single(CPU), runner, TOKENIZER, None, context, 4096)
    return NeoxLM(session, Copies(session), **how)


def requests(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, one, 0, metadata=("task", at, 1)) for at, one in enumerate(arguments)]


def reciting(text: str, context: int = 24) -> NeoxLM:
    """Whatever stands before, the likeliest text from the second token on is ``text``."""
    ids = TOKENIZER.encode(text)
    return model(reciter(ids + [TOKENIZER.eod] * (context - len(ids)), ROWS), context)


# --- the adapter -------------------------------------------------------------------------------------------------


def test_greedy_answers_are_recognised() -> None:
    lm = reciting("import os")
    ids = TOKENIZER.encode("import os")
    asked = [(("", ""), [5], ids), (("", ""), [5], [*ids[:-1], ids[-1] ^ 1])]
    (right, greedy), (wrong, other) = lm._loglikelihood_tokens(asked)
    assert (greedy, other) == (True, False)
    assert wrong < right < 0


@given(lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 8)), min_size=1, max_size=6))
def test_answers_do_not_depend_on_neighbours(lengths: list[tuple[int, int]]) -> None:
    """Also where sequences are cut to the context, and where contexts are shared only after that."""
    lm = model(successor(lambda token: (7 * token + 3) % ROWS, ROWS, 12), context=12)
    asked = [(("", ""), [1 + n % 9 for n in range(many)], [5 + n for n in range(few)]) for many, few in lengths]
    together = lm._loglikelihood_tokens(asked)
    for request, answer in zip(asked, together, strict=True):
        ((logprob, greedy),) = lm._loglikelihood_tokens([request])
        assert logprob == pytest.approx(answer[0], abs=1e-4)
        assert greedy == answer[1]
        cut = (request[1] + request[2])[-13:]
        start = len(cut) - len(request[2])
        ((short, _),) = lm._loglikelihood_tokens([(("", ""), cut[:start], cut[start:])])
        assert short == pytest.approx(logprob, abs=1e-4)


def test_rolling_windows_cover_every_token_once() -> None:
    lm = model(successor(lambda token: token, ROWS, 12), context=12)
    text = "def read_file(path):\n    return open(path).read()\n" * 2
    ids = [TOKENIZER.eod, *TOKENIZER.encode(text)]
    assert len(ids) > 30
    (whole,) = lm.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    # This network looks at the last token only, so that windows change nothing.
    alone = lm._loglikelihood_tokens([(("", ""), [here], [after]) for here, after in pairwise(ids)])
    assert whole == pytest.approx(sum(logprob for logprob, _ in alone), rel=1e-5)
    assert lm.loglikelihood_rolling(requests("loglikelihood_rolling", ("",))) == [0]


@pytest.mark.parametrize(
    ("continuation", "says"), [([], "has no tokens"), ([7] * 13, "13 tokens, more than the 12 of the context")]
)
def test_what_lm_eval_cannot_score_is_refused(continuation: list[int], says: str) -> None:
    lm = model(successor(lambda token: token, ROWS, 12), context=12)
    with pytest.raises(DataError, match=says):
        lm._loglikelihood_tokens([(("", "some text"), [5], continuation)])


def test_a_context_of_spaces_only_is_refused() -> None:
    """lm-eval moves spaces at the end of a context to the continuation."""
    with pytest.raises(DataError, match="a context has no tokens"):
        reciting(" os").loglikelihood(requests("loglikelihood", ("  ", "os")))


TEXTS = st.text("ab \n", max_size=5)


@given(st.lists(st.tuples(TEXTS, TEXTS.map(lambda text: text + "x")), max_size=20), st.integers(1, 5))
def test_texts_are_encoded_ahead_and_as_by_themselves(pairs: list[tuple[str, str]], ahead: int) -> None:
    lm = reciting(" os")
    calls = []

    def encode_all(texts: list[str]) -> list[list[int]]:
        calls.append(texts)
        return [TOKENIZER.encode(text) for text in texts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter, "_AHEAD", ahead)
        patch.setattr(lm._session.tokenizer, "encode_all", encode_all)
        patch.setattr(lm, "_loglikelihood_tokens", lambda requests, **_: requests)
        found = lm.loglikelihood(requests("loglikelihood", *pairs))
    for (context, continuation), (_, before, after) in zip(pairs, found, strict=True):
        if context:
            kept = context.rstrip()
            assert before == TOKENIZER.encode(kept)
            assert after == TOKENIZER.encode(context + continuation)[len(before) :]
        else:
            assert [before, after] == [[TOKENIZER.eod], TOKENIZER.encode(continuation)]
    assert all(len(texts) <= ahead + 1 for texts in calls)
    assert len(calls) <= -(-2 * len(pairs) // ahead)


def test_all_texts_at_once_are_encoded_as_one_by_one() -> None:
    texts = ["import os", "", "é ", "<|endoftext|>"]
    assert TOKENIZER.encode_all(texts) == [TOKENIZER.encode(text) for text in texts]
    with pytest.raises(DataError, match=r"'\\ud800' is not valid Unicode"):
        TOKENIZER.encode_all(["a", "\ud800"])


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    lm = model(successor(lambda token: token, ROWS - 5, 12), context=12)
    with pytest.raises(DataError, match=f"id {ROWS - 1}, but the model has {ROWS - 5} ids"):
        lm._loglikelihood_tokens([(("", ""), [5], [ROWS - 1])])


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"until": ["\n"], "max_gen_toks": 20}, "import os, sys"),
        ({"until": ["sys", "os"]}, "import "),
        ({"until": "s", "max_gen_toks": 20}, "import o"),
        ({"until": [], "max_gen_toks": 3}, None),
        ({"max_gen_toks": 20}, "import os, sys\nx = 1"),
    ],
)
def test_text_ends_before_stop_texts_and_at_the_end_of_the_document(kwargs: dict, text: str | None) -> None:
    whole = "import os, sys\nx = 1"
    lm = reciting(whole, context=64)
    if "max_gen_toks" not in kwargs:
        kwargs = kwargs | {"max_gen_toks": 40}
    # An empty prompt is one token, the end of the document before.
    (answer,) = lm.generate_until(requests("generate_until", ("", kwargs)))
    assert answer == (TOKENIZER.decode(TOKENIZER.encode(whole)[:3]) if text is None else text)


def test_samples_of_one_prompt_differ_and_stay_the_same(tmp_path: Path) -> None:
    flat = successor(lambda token: token, ROWS, 24)
    kwargs = {"do_sample": True, "temperature": 8.0, "max_gen_toks": 8, "until": []}
    asked = requests("generate_until", ("import", kwargs), ("class", kwargs), ("import", kwargs))
    first = model(flat, seed=1).generate_until(asked)
    assert first[0] != first[2]
    assert model(flat, seed=1).generate_until(asked[2:]) == first[:1]
    assert model(flat, seed=1).generate_until([asked[1], asked[0], asked[2]]) == [first[1], first[0], first[2]]
    assert model(flat, seed=2).generate_until(asked) != first


def test_cached_answers_are_not_computed_again(tmp_path: Path) -> None:
    asked = requests("loglikelihood", ("import", " os"), ("import", " sys"), ("import", " os"))
    path = tmp_path / "answers"
    with AnswerCache(path, "this model") as cache:
        lm = reciting(" os")
        lm._cache = cache
        answers = lm.loglikelihood(asked)
        assert (lm.counts.asked, lm.counts.cached) == (2, 0)
    with AnswerCache(path, "this model") as cache:
        lm = reciting(" os")
        lm._cache = cache
        lm._copies.score = lambda _: pytest.fail("asked the model again")
        assert lm.loglikelihood(asked) == answers
        assert (lm.counts.asked, lm.counts.cached) == (2, 2)
    with AnswerCache(path, "another model") as cache:
        assert cache.get(cache.key("scoring", (1,), (2,))) is None


# --- generation options ------------------------------------------------------------------------------------------


def test_generation_options() -> None:
    assert sampling_of({"until": "x", "do_sample": False, "temperature": 1, "num_beams": 1}, 2048) == {
        "temperature": 0.0,
        "maximum_tokens": 256,
        "stop": ("x",),
    }
    sampled = sampling_of({"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 5, "until": ["a", "b"]}, 2048)
    assert sampled == {"top_p": 0.9, "temperature": 0.7, "maximum_tokens": 5, "stop": ("a", "b")}


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"num_beams": 4}, "num_beams=4"),
        ({"do_sample": True}, "temperature"),
        ({"do_sample": "no", "temperature": 2}, "do_sample is true or false, not 'no'"),
        ({"top_p": 3}, "top_p must be"),
        ({"max_gen_toks": 2048}, "no room for a prompt"),
        ({"until": 5}, "neither a text nor a list of texts"),
    ],
)
def test_generation_options_that_are_refused(kwargs: dict, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        sampling_of(kwargs, 2048, where="a_task")
    assert caught.value.where == "a_task"


# --- comparison --------------------------------------------------------------------------------------------------


def results(acc: float, stderr: float | str = 0.01, scored: int = 100, **ours: Any) -> dict[str, Any]:
    metrics = {"alias": "piqa", "acc,none": acc, "acc_stderr,none": stderr, "sample_len": 100}
    return {
        "results": {"piqa": metrics},
        "n-shot": {"piqa": 0},
        "n-samples": {"piqa": {"effective": scored, "original": 100}},
        "neoxrun": {"data": {}} | ours,
    }


@pytest.mark.parametrize(
    ("document", "errors", "verdict"),
    [
        (results(0.77), -0.42, "agrees"),
        (results(0.75), -2.42, "differs"),
        (results(0.80), 2.58, "differs"),
        (results(0.77, scored=40), -0.42, "agrees (limited: 40 of 100)"),
        (results(0.77, "N/A"), None, "cannot be said: no standard error"),
        (results(0.77, weights="random"), -0.42, "means nothing: random weights"),
        (results(0.77) | {"n-shot": {"piqa": 5}}, -0.42, "not comparable: 5-shot beside 0-shot"),
    ],
)
def test_verdicts(document: dict, errors: float | None, verdict: str) -> None:
    one = compare.published(config.load(["20B"]).model)[0]
    (found,) = [each for each in compare.compare(document, [one]) if each.metric == "acc,none"]
    assert found.theirs == 0.7742
    assert found.errors == (None if errors is None else pytest.approx(errors))
    assert found.verdict == verdict


def test_perplexities_are_compared_by_their_logarithms() -> None:
    """A model at 4 million beside 3.67: the standard error of 4 million is 2 million."""
    document = results(0.5)
    document["results"]["piqa"] = {"perplexity,none": 4e6, "perplexity_stderr,none": 2e6}
    (found,) = compare.compare(document, [compare.Figures("x", {"piqa": {"perplexity": 3.67}})])
    assert found.errors > 20
    assert found.verdict == "differs"


def test_published_figures_are_those_of_the_sources() -> None:
    sources = compare.published(config.load(["20B"]).model)
    values = [(one.results["lambada_openai"], one.results["piqa"]) for one in sources]
    assert values == [
        ({"acc": 0.7209, "perplexity": 3.672}, {"acc": 0.7742, "acc_norm": 0.7807}),
        ({"acc": 0.7211, "perplexity": 3.676}, {"acc": 0.7748, "acc_norm": 0.7786}),
        ({"acc": 0.7223, "perplexity": 3.656}, {"acc": 0.7758, "acc_norm": 0.7856}),
    ]
    with pytest.raises(UsageError, match="no published figures"):
        compare.published(config.load(["pythia-160m"]).model)


def test_an_earlier_results_file_can_be_compared_with(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results(0.77)))
    (figures,) = compare.read(path)
    assert figures.results == {"piqa": {"acc,none": 0.77}}
    assert figures.num_fewshot == {"piqa": 0}


def two_filters(tmp_path: Path, theirs: dict, **content: Any) -> list[tuple[str, float, float, str]]:
    """Our results of a task with two filters beside a file's figures of it."""
    metrics = {"exact_match,strict": 0.0, "exact_match_stderr,strict": 0.1}
    metrics |= {"exact_match,loose": 0.5, "exact_match_stderr,loose": 0.1}
    document = results(0.5) | {"results": {"piqa": metrics}}
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps({"results": {"piqa": theirs or metrics}, **content}))
    found = compare.compare(document, compare.read(path))
    return [(compare.label(one.metric), one.ours, one.theirs, one.verdict) for one in found]


def test_figures_of_one_filter_are_compared_with_no_other(tmp_path: Path) -> None:
    assert two_filters(tmp_path, {}) == [
        ("exact_match (strict)", 0.0, 0.0, "agrees"),
        ("exact_match (loose)", 0.5, 0.5, "agrees"),
    ]
    assert [row[:3] for row in two_filters(tmp_path, {"exact_match": 0.5})] == [
        ("exact_match (strict)", 0.0, 0.5),
        ("exact_match (loose)", 0.5, 0.5),
    ]


def test_theirs_may_not_be_the_whole_truth_either(tmp_path: Path) -> None:
    limited = {"n-samples": {"piqa": {"effective": 4, "original": 100}}}
    (one,) = two_filters(tmp_path, {"exact_match,loose": 0.5}, **limited)
    assert one[3] == "agrees (theirs limited: 4 of 100)"
    (one,) = two_filters(tmp_path, {"exact_match,loose": 0.5}, neoxrun={"weights": "random"})
    assert one[3] == "means nothing: theirs are of random weights"


def test_figures_that_cannot_be_compared_are_said(tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    path.write_text(
        '{"source": "a\\u001b[2Jb", "results": {"piqa": {"acc": NaN, "f1\\u001b": 0.5}, "other": {"acc": 1}}}'
    )
    theirs = compare.read(path)
    (found,) = compare.compare(results(0.77), theirs)
    assert found.verdict == "cannot be said: no number"
    assert found.source == "a\\x1b[2Jb"
    assert compare.not_measured(results(0.77), theirs) == ["piqa f1\\x1b"]


@pytest.mark.parametrize(
    "content",
    [
        '{"results": {"piqa": {"acc": 1' + 400 * "0" + "}}}",
        '{"results": {"piqa": {"acc": 1}}, "group_subtasks": {"piqa": ["piqa"]}}',
        '{"results": {"piqa": {"acc": 1}}, "group_subtasks": {"piqa": 5}}',
        '{"results": {"piqa": {"acc": 1}}, "num_fewshot": true}',
        100_000 * "[",
    ],
    ids=["a huge number", "a group in itself", "a group of a number", "a word for a number", "no end of lists"],
)
def test_a_file_of_figures_that_is_odd(content: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        compare.read(path)
    assert caught.value.where == str(path)
    assert "A file of figures is" in caught.value.hint


def test_documents_that_may_be_others_are_said() -> None:
    file = {"path": "valid.jsonl", "sha256": "", "published": None}
    document = results(0.77, limited=None)
    document["neoxrun"]["data"] = {"baber/piqa": {"splits": {"validation": {"documents": 5, "files": [file]}}}}
    assert report.notes(document) == ["baber/piqa validation is valid.jsonl: it may not be what was published."]
    file["published"] = True
    assert report.notes(document) == []
    document["results"]["piqa"] = {"alias": "piqa"}
    assert report.notes(document) == ["no figures: piqa ask for no metric."]


def test_a_group_is_limited_as_its_tasks_are() -> None:
    document = results(0.77, scored=40)
    document["results"]["all"] = document["results"]["piqa"]
    document |= {"group_subtasks": {"all": ["piqa"]}, "n-shot": {"piqa": 0, "all": 0}}
    (found,) = compare.compare(document, [compare.Figures("x", {"all": {"acc": 0.77}})])
    assert found.verdict == "agrees (limited: 40 of 100)"


def test_table_shows_groups_first_and_counts_in_every_row() -> None:
    document = results(0.77, scored=40)
    document["results"] = {"piqa": document["results"]["piqa"], "all": {"alias": "all", "acc,none": 0.5}}
    document["group_subtasks"] = {"all": ["piqa"]}
    lines = table(document).splitlines()
    assert [line.split()[0] for line in lines] == ["task", "all", "piqa"]
    assert all(line.endswith("40 of 100") for line in lines[1:])


def ended(options: dict[str, Any], stdout: IO[str] | None = None) -> str:
    """What is on stdout when a run's results have been shown and kept, or could not be."""
    document = results(0.77, limited=None) | {"model_name_sanitized": "demo"}
    usual = dict.fromkeys(field.name for field in dataclasses.fields(EvaluateOptions)) | {"figures": ()}
    stdout = stdout or io.StringIO()
    sample = {"arguments": [], "resps": [], "filtered_resps": [], "target": 0}
    try:
        evaluation._report(document, {"mine/piqa": [sample]}, EvaluateOptions(**usual | options), stdout)
    except DataError as error:
        stdout.write(error.render())
    return stdout.getvalue()


def test_results_that_cannot_be_kept_are_shown(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = ended({"output": tmp_path / "file"})
    assert said.index("0.7700") < said.index("the results cannot be written")


def test_results_that_nobody_reads_are_kept(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError), os.fdopen(writer, "w") as stdout:
        ended({"output": tmp_path}, stdout)
    assert list(tmp_path.glob("demo/results_*.json"))


def test_results_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    ended({"output": tmp_path, "log_samples": True})
    names = sorted(path.name.partition("_20")[0] for path in (tmp_path / "demo").iterdir())
    assert names == ["results", "samples_mine%2Fpiqa"]
    document = {"model_name_sanitized": "other", "value": object()}
    with pytest.raises(TypeError):
        report.save(tmp_path, document, {}, json.JSONEncoder().default)
    broken = [{"arguments": [], "resps": [], "filtered_resps": [], "target": 0, "doc": object()}]
    with pytest.raises(TypeError):
        report.save(tmp_path, {"model_name_sanitized": "other"}, {"piqa": broken}, json.JSONEncoder().default)
    assert [path.name.partition("_")[0] for path in (tmp_path / "other").iterdir()] == ["results"]


def test_a_failure_of_wandb_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**how: Any) -> None:
        raise RuntimeError("api_key not configured")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    said = ended({"wandb": "project"})
    assert said.index("0.7700") < said.index("api_key not configured") < said.index("wandb login")


# --- fingerprint and cache ---------------------------------------------------------------------------------------


def test_fingerprint_tells_models_apart(tmp_path: Path) -> None:
    """A changed weight, tokenizer, network or number format is another model; the number of ranks is not."""
    demo = config.shipped_dir() / "demo"
    shutil.copytree(demo, tmp_path / "demo")
    settings = config.load(["demo"], checkpoint=str(tmp_path / "demo"), tokenizer=str(tmp_path / "demo/tokenizer.json"))

    def of(settings=settings, **how: Any) -> str:
        usual = {"tp": 2, "pp": 1, "device_kind": "cpu", "dtype": "fp32", "random_weights": False}
        return str(fingerprint.checkpoint(settings, **usual | how)["fingerprint"])

    first = of()
    assert first == of()
    model = settings.model
    others = [
        of(dtype="bf16"),
        of(tp=1),  # the demo model was saved by two ranks, and merging them rounds
        *(of(random_weights=True, **how) for how in ({}, {"tp": 1}, {"pp": 2}, {"device_kind": "cuda"})),
        of(dataclasses.replace(settings, model=dataclasses.replace(model, norm_epsilon=1e-6))),
    ]
    split = dataclasses.replace(settings, model=dataclasses.replace(model, pipe_parallel_size=2))
    assert of(split) == first
    assert of(tp=1) == of(tp=4)
    assert of(pp=2) == first
    (layer,) = (tmp_path / "demo").glob("*/layer_03-model_01*")
    weights = torch.load(layer)
    next(iter(weights.values())).view(-1)[-1] += 1
    torch.save(weights, layer)
    others.append(of())
    vocabulary = tmp_path / "demo" / "tokenizer.json"
    vocabulary.write_bytes(vocabulary.read_bytes() + b" ")
    others.append(of())
    assert len({first, *others}) == 1 + len(others)


def saved(path: Path, tensors: dict[str, torch.Tensor], how: str) -> None:
    if how == "safetensors":
        safetensors.torch.save_file(tensors, path)
        return
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(how != "zip without checksums")
    torch.save(tensors, path, _use_new_zipfile_serialization=how != "before zip")
    torch.serialization.set_crc32_options(before)


@pytest.mark.parametrize("how", ["safetensors", "zip", "zip without checksums", "before zip"])
def test_any_one_tensor_tells_files_apart(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 tensors of 1 MB, one changed at a time: none is passed over."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tensors = {f"layer.{number}": torch.zeros(2**18) for number in range(20)}
    found = set()
    for number in (None, 3, 11, 17):
        changed = tensors if number is None else tensors | {f"layer.{number}": torch.ones(2**18)}
        saved(tmp_path / "weights", changed, how)
        found.add(fingerprint._digest(tmp_path / "weights"))
    assert len(found) == 4


def test_checksums_are_remembered_while_a_file_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a" * 1000)
    first = fingerprint._digest(path)
    assert not (tmp_path / "cache").exists()  # it may still be written to, within a tick of the clock
    monkeypatch.setattr(fingerprint, "_SETTLED_SECONDS", -1.0)
    assert fingerprint._digest(path) == first
    (note,) = (tmp_path / "cache" / "neoxrun" / "sha256").iterdir()
    state, digest = note.read_text().splitlines()
    assert digest == first == hashlib.sha256(b"a" * 1000).hexdigest()
    note.write_text(f"{state}\n{'0' * 64}\n")
    assert fingerprint._digest(path) == "0" * 64  # it was not read again
    note.write_text("\xff nonsense")
    assert fingerprint._digest(path) == first

    stat = path.stat()
    path.write_bytes(b"b" * 1000)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint._digest(path) == hashlib.sha256(b"b" * 1000).hexdigest()
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # nothing can be kept there
    assert fingerprint._digest(path) == hashlib.sha256(b"b" * 1000).hexdigest()


def test_cache_keeps_what_was_put(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with AnswerCache(path, "a") as cache:
        key = cache.key("scoring", (1, 2), (3,))
        assert key != cache.key("scoring", (1,), (2, 3))
        assert cache.get(key) is None
        cache.put([(key, (-1.1234567890123456, True))])
    with AnswerCache(path, "a") as cache:
        assert cache.get(key) == [-1.1234567890123456, True]


def test_another_run_sees_answers_at_once_and_can_add_its_own(tmp_path: Path) -> None:
    """Also those that come right after others: a run that is killed has lost nothing and locks nobody out."""
    path = tmp_path / "answers"
    with AnswerCache(path, "a") as cache:
        for number in range(3):
            cache.put([(cache.key("scoring", (number,)), number)])
        other = sqlite3.connect(path, timeout=0)
        with other:
            assert other.execute("SELECT count(*) FROM answers").fetchone() == (3,)
            other.execute("INSERT INTO answers VALUES (?, ?)", (cache.key("scoring", (3,)), "3"))
        other.close()
        assert cache.get(cache.key("scoring", (3,))) == 3
    before = path.read_bytes()
    AnswerCache(path, "a").close()
    assert path.read_bytes() == before  # opening writes nothing


def test_answers_of_another_way_to_score_are_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with AnswerCache(tmp_path / "answers", "a") as cache:
        cache.put([(cache.key("scoring", (1,)), 1)])
        monkeypatch.setattr("neoxrun.evaluation.cache.SCORING", 0)
        assert cache.get(cache.key("scoring", (1,))) is None


def test_a_damaged_cache_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with AnswerCache(path, "a") as cache:
        keys = [cache.key("scoring", (number,)) for number in range(2000)]
        cache.put((key, [-1.5, True]) for key in keys)
    data = path.read_bytes()
    path.write_bytes(data[:8192] + b"\x55" * (len(data) - 8192))
    with AnswerCache(path, "a") as cache, pytest.raises(DataError, match=r"cannot be used.*malformed") as caught:
        list(map(cache.get, keys))
    assert "--cache" in caught.value.hint
    with AnswerCache(path, "a") as cache, pytest.raises(DataError, match="cannot be used"):
        cache.put((key, 1) for key in keys)


def test_other_databases_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE answers (key BLOB, answer TEXT)")
    base.commit()
    base.close()
    before = path.read_bytes()
    with pytest.raises(DataError, match="not a file of answers"):
        AnswerCache(path, "a")
    assert path.read_bytes() == before
