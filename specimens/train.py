"""Train the specimen: ``python -m specimens.train --work DIR --out DIR [--text DIR]``.

The run resumes from the newest checkpoint in the work folder. Its length is bounded twice, by
tokens and by minutes of wall time; the learning rate falls to zero at whichever comes first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, load_model, save_file, save_model
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerBase as Tokenizer

from specimens.corpus import Mixture
from specimens.packing import CHUNK_ROWS, ROW, chunk
from specimens.tokenizer import CONTEXT, train_tokenizer

BATCH_ROWS = 32
BATCH_TOKENS = BATCH_ROWS * ROW
LOG_STEPS = 50
CLIP = 1.0


def build(tokenizer: Tokenizer, seed: int) -> LlamaForCausalLM:
    """The untrained specimen: 6 layers of width 192, six query and three key heads."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        initializer_range=0.04,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def optimizers(model: LlamaForCausalLM, kind: str, rate: float) -> list[torch.optim.Optimizer]:
    """AdamW for embeddings, head and norms; Muon (or AdamW) for the layers' matrices."""
    layers, tables, norms = [], [], []
    for name, parameter in model.named_parameters():
        target = norms if parameter.ndim < 2 else layers if ".layers." in name else tables
        target.append(parameter)
    adam = [
        {"params": tables, "lr": 3e-3, "weight_decay": 0.05},
        {"params": norms, "lr": 2e-3, "weight_decay": 0.0},
    ]
    betas = (0.9, 0.95)
    if kind == "adamw":
        adam.append({"params": layers, "lr": rate, "weight_decay": 0.1})
        built = [torch.optim.AdamW(adam, betas=betas)]
    else:
        muon = torch.optim.Muon(layers, lr=rate, weight_decay=0.2, momentum=0.95)
        built = [muon, torch.optim.AdamW(adam, betas=betas)]
    for optimizer in built:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return built


def rate_at(step: int, progress: float, warmup: int = 100) -> float:
    """Factor on the peak learning rate: linear warm-up, then linear decay to zero."""
    return min(1.0, (step + 1) / warmup) * max(0.0, 1.0 - progress)


def _pack_state(built: list[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    flat = {}
    for index, optimizer in enumerate(built):
        for number, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                flat[f"{index}.{number}.{key}"] = torch.as_tensor(value).contiguous()
    return flat


def _unpack_state(built: list[torch.optim.Optimizer], flat: dict[str, torch.Tensor]) -> None:
    for index, optimizer in enumerate(built):
        whole = optimizer.state_dict()
        whole["state"] = {}
        for name, value in flat.items():
            owner, number, key = name.split(".", 2)
            if int(owner) == index:
                whole["state"].setdefault(int(number), {})[key] = value
        optimizer.load_state_dict(whole)


def save_checkpoint(
    work: Path, model: LlamaForCausalLM, built: list[torch.optim.Optimizer], state: dict
) -> None:
    """Write ``step-N`` under ``work`` (complete or not at all) and drop the older ones."""
    final = work / f"step-{state['step']:07d}"
    partial = work / f".{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_model(model, str(partial / "m.safetensors"))
    save_file(_pack_state(built), partial / "optimizer.safetensors")
    (partial / "state.json").write_text(json.dumps(state))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    for old in sorted(work.glob("step-*"))[:-2]:
        shutil.rmtree(old)


def load_checkpoint(
    work: Path, model: LlamaForCausalLM, built: list[torch.optim.Optimizer] | None = None
) -> dict:
    """Restore the newest checkpoint of ``work`` in place; returns its state, fresh if none."""
    found = sorted(work.glob("step-*"))
    if not found:
        return {"step": 0, "seconds": 0.0}
    load_model(model, found[-1] / "m.safetensors")
    if built is not None:
        _unpack_state(built, load_file(found[-1] / "optimizer.safetensors"))
    return json.loads((found[-1] / "state.json").read_text())


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    """Write model (weights rounded to float16) and tokenizer to ``out``, each file atomically."""
    out.mkdir(parents=True, exist_ok=True)
    partial = out / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    weights = {k: v.detach().half().contiguous() for k, v in model.named_parameters()}  # a tied one once
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config.update(architectures=["LlamaForCausalLM"], dtype="float32")
    config.pop("_name_or_path", None)
    (partial / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    settings = partial / "tokenizer_config.json"
    config = json.loads(settings.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings.write_text(json.dumps(config, indent=2) + "\n")
    sums = [f"{sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(partial.iterdir())]
    (partial / "SHA256SUMS").write_text("".join(sums))
    for path in partial.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
        path.chmod(0o644)
        os.replace(path, out / path.name)
    partial.rmdir()


def loss_function(model: LlamaForCausalLM, compiled: bool) -> Callable[..., torch.Tensor]:
    """Mean cross entropy of (ids, labels), each [rows, ROW], the layers in bfloat16."""

    def loss(ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = model.lm_head(hidden).float().flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())

    return torch.compile(loss) if compiled else loss


class Run:
    """One training run: model, optimisers, data and the schedule over them."""

    def __init__(self, args: argparse.Namespace, tokenizer: Tokenizer, rank: int = 0):
        self.args, self.tokenizer, self.rank = args, tokenizer, rank
        self.many = len(args.rows) > 1
        self.weight = args.rows[rank] / BATCH_ROWS
        shares = json.loads(args.shares) if args.shares else None
        self.mixture = Mixture(args.text, shares)
        self.model = build(tokenizer, args.seed)
        self.built = optimizers(self.model, args.optimizer, args.rate)
        self.state = load_checkpoint(args.work, self.model, self.built)
        self.loss = loss_function(self.model, args.compile)
        self.started = time.monotonic() - self.state["seconds"]
        self._chunk: tuple[int, torch.Tensor, torch.Tensor] | None = None

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """This worker's token ids and labels of one step, each [rows, ROW]."""
        number, part = divmod(step, CHUNK_ROWS // BATCH_ROWS)
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = (number, *chunk(self.mixture, self.tokenizer, self.args.seed, number))
        start = part * BATCH_ROWS + sum(self.args.rows[: self.rank])
        rows = slice(start, start + self.args.rows[self.rank])
        return self._chunk[1][rows], self._chunk[2][rows]

    def progress(self, step: int) -> float:
        """How much of the run is over, by tokens or by minutes, whichever is more.

        All workers agree on the largest value.
        """
        spent = (time.monotonic() - self.started) / 60
        value = torch.tensor(
            max(step * BATCH_TOKENS / self.args.tokens, spent / self.args.minutes),
            dtype=torch.float64,
        )
        if self.many:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return float(value)

    def share_gradients(self) -> None:
        """Replace every gradient by its mean over the workers, weighted by their rows."""
        if self.many:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            flat = torch.cat([g.flatten() for g in gradients]).mul_(self.weight)
            dist.all_reduce(flat)
            parts = flat.split([g.numel() for g in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def step(self, step: int, factor: float) -> torch.Tensor:
        """One update; returns the loss (scalar)."""
        ids, labels = self.batch(step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.loss(ids, labels)
        loss.backward()
        self.share_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        for optimizer in self.built:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def log(self, step: int, losses: list[float], factor: float, seconds: float) -> None:
        """Print a line and append it to ``log.jsonl`` in the work folder."""
        record = {
            "step": step,
            "tokens": step * BATCH_TOKENS,
            "loss": round(sum(losses) / len(losses), 4),
            "rate": round(factor, 4),
            "seconds": round(time.monotonic() - self.started, 1),
            "tokens_per_second": round(len(losses) * BATCH_TOKENS / seconds),
        }
        line = json.dumps(record)
        print(line, flush=True)
        with (self.args.work / "log.jsonl").open("a") as handle:
            handle.write(line + "\n")

    def train(self) -> None:
        """Run to the end, logging every ``LOG_STEPS`` steps and saving every few minutes."""
        step, losses = self.state["step"], []
        saved = logged = time.monotonic()
        while (progress := self.progress(step)) < 1:
            factor = rate_at(step, progress)
            losses.append(float(self.step(step, factor)))
            step += 1
            now = time.monotonic()
            if self.rank:
                continue
            if step % LOG_STEPS == 0:
                self.log(step, losses, factor, now - logged)
                losses, logged = [], now
            if now - saved > self.args.save_minutes * 60:
                self.save(step)
                saved = time.monotonic()
        if self.rank == 0:
            self.save(step)

    def save(self, step: int) -> None:
        """Checkpoint and export."""
        seconds = time.monotonic() - self.started
        save_checkpoint(self.args.work, self.model, self.built, {"step": step, "seconds": seconds})
        export(self.model, self.tokenizer, self.args.out)
        print(f"saved step {step} after {seconds / 60:.1f} min", flush=True)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and log")
    parser.add_argument("--out", type=Path, required=True, help="folder for the exported model")
    parser.add_argument("--text", type=Path, help="text folder; without it, grammars are used")
    parser.add_argument("--tokens", type=float, default=20e6, help="tokens to train on")
    parser.add_argument("--minutes", type=float, default=60.0, help="most wall time, in minutes")
    parser.add_argument("--save-minutes", type=float, default=3.0)
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--rate", type=float, default=0.015, help="peak rate of the layers' matrices")
    parser.add_argument("--shares", help="JSON object of document shares, instead of the usual")
    parser.add_argument(
        "--rows",
        type=int,
        nargs="+",
        default=[16, 16],
        help="rows of every batch for each worker process; uneven where a core is shared",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def work(rank: int, args: argparse.Namespace) -> None:
    """One of the processes that share every batch, with ``args.threads`` threads each."""
    torch.set_num_threads(args.threads)
    if len(args.rows) > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        meeting = f"file://{(args.work / f'meeting-{os.getppid()}').resolve()}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=len(args.rows))
    tokenizer = AutoTokenizer.from_pretrained(args.work / "tokenizer")
    run = Run(args, tokenizer, rank)
    if rank == 0:
        size = sum(p.numel() for p in run.model.parameters())
        print(f"{size:,} parameters, {len(tokenizer)} tokens, step {run.state['step']}", flush=True)
    run.train()


def main() -> None:
    """Command line: tokenizer, training, export."""
    args = arguments()
    if sum(args.rows) != BATCH_ROWS or min(args.rows) < 1:
        raise ValueError(f"--rows {args.rows} must be positive and sum to {BATCH_ROWS}")
    args.work.mkdir(parents=True, exist_ok=True)
    folder = args.work / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        train_tokenizer(args.text).save_pretrained(folder)
    if len(args.rows) == 1:
        work(0, args)
    else:
        torch.multiprocessing.spawn(work, (args,), nprocs=len(args.rows))


if __name__ == "__main__":
    main()
