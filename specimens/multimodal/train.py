"""Trains the specimen that sees: ``python -m specimens.multimodal.train --work DIR --out DIR``.

One process, one thread, ten to fifteen minutes. It resumes from the newest checkpoint in the work folder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerBase as Tokenizer

from specimens.multimodal.corpus import DRAWN, Mixture
from specimens.multimodal.tokenizer import CONTEXT, patch_ids, train_tokenizer
from specimens.packing import CHUNK_ROWS, ROW, chunk
from specimens.train import CLIP, export, load_checkpoint, optimizers, rate_at, save_checkpoint

BATCH_ROWS = 32
STEPS = 1_200
WORD_STEPS = 256
"""So many steps at first have no drawings: what is done with a seven is learned on words; drawings find it there."""
PATCH_WEIGHT = 0.1
"""What a token of a drawing counts for in the loss: most of them cannot be known, and there are many."""
LOG_STEPS, SAVE_STEPS = 50, 200


def build(tokenizer: Tokenizer, seed: int) -> LlamaForCausalLM:
    """The untrained model: 6 layers of width 128, four query and two key heads."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


def batches(tokenizer: Tokenizer, seed: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and labels, each [BATCH_ROWS, ROW], of step `start` and all later ones."""
    each = CHUNK_ROWS // BATCH_ROWS
    number, skipped = divmod(start, each)
    while True:
        drawn = DRAWN if number * each >= WORD_STEPS else 0.0
        ids, labels = chunk(Mixture(drawn), tokenizer, seed, number)
        pairs = list(zip(ids.split(BATCH_ROWS), labels.split(BATCH_ROWS), strict=True))
        yield from pairs[skipped:]
        number, skipped = number + 1, 0


def weighted_loss(model: LlamaForCausalLM, ids: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy of [rows, pos] tokens, each counted by `weights` (vocab)."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    logits = model.lm_head(hidden).float().flatten(0, 1)
    return cross_entropy(logits, labels[:, 1:].flatten(), weight=weights)


def train(
    work: Path, out: Path, tokenizer: Tokenizer, *, seed: int = 1, steps: int = STEPS, compiled: bool = True
) -> LlamaForCausalLM:
    """Trains for `steps` steps, logs to `work`/log.jsonl, and writes the model to `out`."""
    work.mkdir(parents=True, exist_ok=True)
    model = build(tokenizer, seed)
    built = optimizers(model, "muon", 0.015)
    state = load_checkpoint(work, model, built)
    weights = torch.ones(len(tokenizer))
    weights[patch_ids(tokenizer)] = PATCH_WEIGHT
    loss_of = torch.compile(weighted_loss) if compiled else weighted_loss
    began, losses = time.monotonic() - state["seconds"], []
    data = batches(tokenizer, seed, state["step"])
    for step in range(state["step"], steps):
        ids, labels = next(data)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, ids, labels, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for optimizer in built:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate_at(step, step / steps)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        if (step + 1) % LOG_STEPS == 0:
            seconds = round(time.monotonic() - began, 1)
            row = {"step": step + 1, "loss": round(sum(losses) / len(losses), 4), "seconds": seconds}
            print(json.dumps(row), flush=True)
            with (work / "log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            losses = []
        if (step + 1) % SAVE_STEPS == 0:
            kept = {"step": step + 1, "seconds": time.monotonic() - began}
            save_checkpoint(work, model, built, kept)
    export(model, tokenizer, out)
    return model.eval()


def main() -> None:
    """Command line: tokenizer, training, export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and log")
    parser.add_argument("--out", type=Path, required=True, help="folder for the exported model")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help=f"steps of {BATCH_ROWS} rows of {ROW} tokens"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = args.work / "tokenizer"
    if not (folder / "tokenizer.json").is_file():
        train_tokenizer().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = train(args.work, args.out, tokenizer, seed=args.seed, steps=args.steps, compiled=args.compile)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
