"""Train the demo model (configs/demo.yml) from scratch and export it as GPT-NeoX layer files.

The data are the sources of the Python standard library (licence: PSF-2.0) of the interpreter that runs this
script. The network's shape comes from configs/demo.yml. There are two stages, so that the first can run on a
machine with a GPU that has torch, transformers and tokenizers but not neoxrun:

    python scripts/train_demo.py --stage train --out build/demo     # sources -> a Hugging Face folder
    python scripts/train_demo.py --stage export --out build/demo    # that folder -> configs/demo

The same interpreter and options give the same tokenizer and the same batches; the weights agree up to the
order in which the device adds its floating-point numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "demo.yml"
DEMO = ROOT / "configs" / "demo"
PROMPTS = ROOT / "prompt.txt"

VOCABULARY = 2048
END_OF_TEXT, PADDING = "<|endoftext|>", "<|padding|>"
# Tests and grammars repeat themselves, code pages and topic texts are tables, some files differ by build.
LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "encodings",
    "site-packages",
    "dist-packages",
}
LEFT_OUT_PREFIXES = ("config-", "_sysconfigdata")
SHARDS = 2  # tensor-parallel ranks that the files are written for, so that the demo shows them on any split
HELD_OUT_EVERY = 100  # one document in this many is kept for the validation loss


@dataclass(frozen=True)
class Corpus:
    """The documents to learn from and those held out, with what a reader needs to know about them."""

    train: list[str]
    held_out: list[str]
    python: str

    @property
    def characters(self) -> int:
        """Length of all documents together."""
        return sum(map(len, self.train)) + sum(map(len, self.held_out))


def read_corpus() -> Corpus:
    """Read this interpreter's standard library, sorted by file name, without the files that are not UTF-8."""
    folder = Path(sysconfig.get_path("stdlib"))
    documents = []
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py")):
        parts = name.split("/")
        if LEFT_OUT.intersection(parts) or parts[0].startswith(LEFT_OUT_PREFIXES):
            continue
        try:
            text = (folder / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if text.strip():
            documents.append(text)
    if len(documents) < HELD_OUT_EVERY:
        raise SystemExit(f"error: only {len(documents)} Python files in {folder}: is the standard library complete?")
    held_out = documents[::HELD_OUT_EVERY]
    train = [text for index, text in enumerate(documents) if index % HELD_OUT_EVERY]
    return Corpus(train, held_out, platform.python_version())


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE: ids 0 and 1 are the special tokens, then the 256 bytes, then the merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, documents: list[str], device: str) -> torch.Tensor:
    """One stream of ids [tokens], the separator before each document; int16 is enough for this vocabulary."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(documents):
        ids.append(tokenizer.token_to_id(END_OF_TEXT))
        ids.extend(encoding.ids)
    return torch.tensor(ids, dtype=torch.int16, device=device)


def build_model(settings: dict[str, Any], tokenizer: Tokenizer, dropout: float | None) -> GPTNeoXForCausalLM:
    """The untrained network of ``settings`` (GPT-NeoX's keys), its vocabulary padded as GPT-NeoX pads it."""
    multiple = settings["make_vocab_size_divisible_by"] * settings["model_parallel_size"]
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=math.ceil(tokenizer.get_vocab_size() / multiple) * multiple,
            hidden_size=settings["hidden_size"],
            num_hidden_layers=settings["num_layers"],
            num_attention_heads=settings["num_attention_heads"],
            intermediate_size=4 * settings["hidden_size"],
            max_position_embeddings=settings["max_position_embeddings"],
            rotary_pct=settings["rotary_pct"],
            use_parallel_residual=settings["gpt_j_residual"],
            tie_word_embeddings=not settings["no_weight_tying"],
            hidden_act="gelu_fast",  # the tanh form, which bias_gelu_fusion names
            hidden_dropout=settings["hidden_dropout"] if dropout is None else dropout,
            attention_dropout=settings["attention_dropout"] if dropout is None else dropout,
            bos_token_id=tokenizer.token_to_id(END_OF_TEXT),
            eos_token_id=tokenizer.token_to_id(END_OF_TEXT),
            pad_token_id=tokenizer.token_to_id(PADDING),
        )
    )


def loss_of(model: GPTNeoXForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats of each next token of ``windows`` [batch, length + 1]."""
    with torch.autocast("cuda", torch.bfloat16, enabled=windows.is_cuda):
        logits = model(input_ids=windows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


@torch.no_grad()
def validate(model: GPTNeoXForCausalLM, stream: torch.Tensor, length: int, batch: int) -> float:
    """Mean loss over all whole windows of ``stream``, side by side."""
    model.eval()
    count = (len(stream) - 1) // length
    windows = torch.stack([stream[i * length : (i + 1) * length + 1] for i in range(count)]).long()
    total = sum(loss_of(model, part).item() * len(part) for part in windows.split(batch))
    model.train()
    return total / count


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first twentieth, then a cosine down to a fiftieth of ``peak``."""
    warm_up = max(1, steps // 20)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def make_optimizer(model: GPTNeoXForCausalLM, args: argparse.Namespace) -> torch.optim.AdamW:
    """AdamW that decays matrices only, not biases and norms."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": args.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=args.device.startswith("cuda"))


def fit(
    model: GPTNeoXForCausalLM,
    train: torch.Tensor,
    held_out: torch.Tensor,
    length: int,
    args: argparse.Namespace,
) -> tuple[int, float]:
    """Train ``model`` and leave it with the weights of its lowest validation loss; returns (step, loss)."""
    optimizer = make_optimizer(model, args)
    chance = torch.Generator().manual_seed(args.seed)  # on the CPU: the same on every device
    window = torch.arange(length + 1, device=args.device)
    every = max(1, args.steps // 20)
    best_step, best_loss, best = 0, math.inf, {}
    begin = time.monotonic()
    model.train()
    for step in range(1, args.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step - 1, args.steps, args.learning_rate)
        starts = torch.randint(len(train) - length, (args.batch, 1), generator=chance).to(args.device)
        loss = loss_of(model, train[starts + window].long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % every == 0 or step == args.steps:
            held = validate(model, held_out, length, args.batch)
            seen = step * args.batch * length
            print(
                f"step {step:6d}  loss {loss.item():.4f}  validation {held:.4f}  "
                f"passes {seen / len(train):.1f}  {seen / (time.monotonic() - begin):,.0f} tokens/s",
                flush=True,
            )
            if held < best_loss:
                best_step, best_loss = step, held
                best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(best)
    return best_step, best_loss


@torch.no_grad()
def write_samples(model: GPTNeoXForCausalLM, tokenizer: Tokenizer, tokens: int, device: str, seed: int) -> str:
    """Greedy and sampled continuations of prompt.txt and of an empty document."""
    model.eval()
    torch.manual_seed(seed)
    parts = []
    for prompt in [*PROMPTS.read_text(encoding="utf-8").splitlines(), ""]:
        ids = [tokenizer.token_to_id(END_OF_TEXT), *tokenizer.encode(prompt).ids]
        given = torch.tensor([ids], device=device)
        for title, how in (
            ("greedy", {"do_sample": False}),
            ("temperature 0.5, top-p 0.9", {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 0}),
            ("temperature 0.7", {"do_sample": True, "temperature": 0.7, "top_k": 0}),
        ):
            answer = model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=tokens, **how)
            parts.append(f"===== {title}: {prompt!r}\n{tokenizer.decode(answer[0].tolist())}\n")
    return "\n".join(parts)


def stage_train(args: argparse.Namespace) -> None:
    """Standard library -> tokenizer -> trained model -> the Hugging Face folder ``args.out``."""
    settings = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    length = settings["seq_length"]
    corpus = read_corpus()
    documents = len(corpus.train) + len(corpus.held_out)
    print(f"Python {corpus.python}: {documents} documents, {corpus.characters / 1e6:.1f} million characters")

    tokenizer = train_tokenizer(corpus.train)
    train = encode(tokenizer, corpus.train, args.device)
    held_out = encode(tokenizer, corpus.held_out, args.device)
    print(f"{len(train):,} tokens to learn from, {len(held_out):,} held out")

    torch.manual_seed(args.seed)
    model = build_model(settings, tokenizer, args.dropout).to(args.device)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {args.steps} steps of {args.batch} x {length} tokens on {args.device}")
    step, loss = fit(model, train, held_out, length, args)
    model.half().float()  # from here on the weights are what is shipped
    shipped_loss = validate(model, held_out, length, args.batch)
    print(f"best validation loss {loss:.4f} at step {step}; {shipped_loss:.4f} with fp16 weights")

    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"), pretty=False)
    facts = {
        "python": corpus.python,
        "documents": documents,
        "characters": corpus.characters,
        "tokens": len(train),
        "parameters": parameters,
        "steps": args.steps,
        "best_step": step,
        "batch": args.batch,
        "learning_rate": args.learning_rate,
        "weight_decay": args.weight_decay,
        "dropout": model.config.hidden_dropout,
        "seed": args.seed,
        "validation_loss": round(shipped_loss, 4),
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else "CPU",
    }
    (args.out / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if args.samples:
        samples = write_samples(model, tokenizer, args.samples, args.device, args.seed)
        (args.out / "samples.txt").write_text(samples, encoding="utf-8")
        print(samples)
    model.half().cpu().save_pretrained(args.out)
    print(f"saved in {args.out}")


README = """\
# The demo model

{parameters:,} parameters, fp16, in GPT-NeoX layer files for tensor parallel {shards}: {megabytes:.1f} MB with the
tokenizer. It writes text that looks like Python; it knows nothing.

Made by `scripts/train_demo.py` from the Python {python} standard library: {documents} source files,
{characters:,} characters, one file in a hundred held out, {tokens:,} tokens to learn from. Left out are
tests, idlelib, lib2to3, encodings, pydoc_data and files that are not UTF-8. The sources are copyright
Python Software Foundation, licence PSF-2.0 (https://docs.python.org/3/license.html).

Training: {steps} steps of {batch} x {length} tokens, AdamW (learning rate {learning_rate}, weight decay
{weight_decay}, dropout {dropout}), seed {seed}, device {device}. The weights are those of step
{best_step}, where the loss on the held-out files was lowest: {validation_loss} nats a token.
"""


def stage_export(args: argparse.Namespace) -> None:
    """The Hugging Face folder ``args.out`` -> configs/demo: layer files, ``latest``, tokenizer and README."""
    from safetensors.torch import load_file

    from neoxrun.checkpoint.writers import from_huggingface, save_layer_files
    from neoxrun.config.reader import load_settings

    facts = json.loads((args.out / "training.json").read_text(encoding="utf-8"))
    settings = load_settings([str(CONFIG)])
    tensors = from_huggingface(load_file(args.out / "model.safetensors"))
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir(parents=True)
    tag = f"global_step{facts['best_step']}"
    save_layer_files(tensors, DEMO, tp=SHARDS, config=settings.model, tag=tag)
    shutil.copyfile(args.out / "tokenizer.json", DEMO / "tokenizer.json")
    size = sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) / 1e6
    text = README.format(**facts, shards=SHARDS, megabytes=size, length=settings.model.seq_length)
    (DEMO / "README.md").write_text(text, encoding="utf-8")
    print(f"saved {tag} in {DEMO}: {size:.2f} MB")
    if size > 8:
        raise SystemExit("error: the demo model is larger than 8 MB: make the network in configs/demo.yml smaller")


def parse_args() -> argparse.Namespace:
    """The command line."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(
        description="Train the demo model on the Python standard library and export it to configs/demo.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--stage", choices=["train", "export", "both"], default="both", help="What to do of the two stages.")
    add("--out", type=Path, default=ROOT / "build" / "demo", help="Folder that train writes and export reads.")
    add("--device", default=device, help="Device that trains, cpu or cuda.")
    add("--steps", type=int, default=2500, help="Number of optimizer steps.")
    add("--batch", type=int, default=64, help="Number of sequences in each step.")
    add("--learning-rate", type=float, default=2e-3, help="Highest learning rate of the schedule.")
    add("--weight-decay", type=float, default=0.1, help="Weight decay of AdamW on matrices.")
    add(
        "--dropout",
        type=float,
        default=None,
        help="Dropout probability in place of those in configs/demo.yml.",
    )
    add("--seed", type=int, default=1234, help="Seed of the weights, the batches and the samples.")
    add("--samples", type=int, default=120, help="Tokens in each sample text of samples.txt; 0 writes none.")
    return parser.parse_args()


def main() -> None:
    """Run the stages that were asked for."""
    args = parse_args()
    if args.stage in ("train", "both"):
        stage_train(args)
    if args.stage in ("export", "both"):
        stage_export(args)


if __name__ == "__main__":
    main()
