"""`Local`: a model in this process, by its own chat template, several requests at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from thoughtscope.assistants.estimate import Destination
from thoughtscope.assistants.requests import Answer, Request, Spoken
from thoughtscope.core.errors import ThoughtscopeError, UnsupportedModel

if TYPE_CHECKING:
    from thoughtscope.models import Model


_Row = tuple[int, list[int], str]
"""A request's number, its tokens, and how its answer begins."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Local:
    """Requests of one kind and of about one length are answered together, `batch_tokens` of prompts at a time.

    Raises `UnsupportedModel` for a model without a chat template.
    """

    model: Model
    batch_tokens: int = 2048

    def __post_init__(self) -> None:
        if not self.model.has_chat_template:
            raise UnsupportedModel(
                f"{self.model.name} has no chat template, so it cannot be asked. Name a chat model, such as smollm2."
            )

    @property
    def name(self) -> str:
        return f"{self.model.name} in this process"

    @property
    def destination(self) -> Destination:
        return Destination(host="this process", is_here=True)

    def identity(self) -> Mapping[str, Any]:
        return {"model": self.model.name, "revision": self.model.revision, "dtype": str(self.model.dtype)}

    def tokens_of(self, request: Request) -> int | None:
        found = self._encoded(request)
        return None if isinstance(found, Answer) else len(found[0])

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """The shortest first. A request over the model's positions is one that failed."""
        alike: dict[tuple[float, int, int], list[_Row]] = {}
        for number, request in enumerate(requests):
            found = self._encoded(request)
            if isinstance(found, Answer):
                yield number, found
            else:
                kind = (request.temperature, request.logprobs, request.max_tokens)
                alike.setdefault(kind, []).append((number, *found))
        for rows in alike.values():
            for batch in _batches(sorted(rows, key=lambda row: len(row[1])), self.batch_tokens):
                answers = self._together(batch, [requests[number] for number, _, _ in batch])
                yield from zip((number for number, _, _ in batch), answers, strict=True)

    def _encoded(self, request: Request) -> tuple[list[int], str] | Answer:
        """A request's tokens and how its answer begins: as asked, if the template can be left open after that."""
        from thoughtscope.models import tokenize

        limit = max(1, self.model.max_positions - request.max_tokens)
        asked, opening = list(request.messages), request.opening
        if opening:
            try:
                chat = [*asked, {"role": "assistant", "content": opening}]
                return tokenize(self.model, chat=chat, max_tokens=limit).ids[0].tolist(), opening
            except ThoughtscopeError:
                pass  # then the answer begins as it will
        try:
            return tokenize(self.model, chat=asked, max_tokens=limit).ids[0].tolist(), ""
        except ThoughtscopeError as error:
            return Answer(error=str(error))

    @torch.no_grad()
    def _together(self, rows: Sequence[_Row], requests: Sequence[Request]) -> list[Answer]:
        from thoughtscope.core.site import Site
        from thoughtscope.models import Sampling, stream, tokens_from_ids

        first = requests[0]  # the others differ from it in their words and seeds alone
        drawn = None if first.temperature == 0 else Sampling(
            temperature=first.temperature, seed=tuple(request.seed for request in requests)
        )  # fmt: skip
        held: dict[str, Float[Tensor, "batch vocab"]] = {}
        reads = {Site("logits"): lambda x, _: held.update(last=x[:, -1].float().log_softmax(-1))}
        texts = [opening for _, _, opening in rows]
        spoken = [[Spoken(text=text, logprob=0.0, top=())] if text else [] for text in texts]
        counts, open_rows = [0] * len(rows), [True] * len(rows)
        steps = stream(
            self.model,
            tokens_from_ids(self.model, [ids for _, ids, _ in rows]),
            max_new_tokens=first.max_tokens,
            reads=reads if first.logprobs else None,
            sampling=drawn,
        )
        for step in steps:
            for row in (row for row, is_open in enumerate(open_rows) if is_open):
                texts[row] += step.texts[row]
                counts[row] += 1
                open_rows[row] = not step.ended[row]
                if first.logprobs and open_rows[row]:
                    spoken[row].append(self._spoken(held["last"][row], int(step.ids[row]), first.logprobs))
        return [
            Answer(
                text=texts[row],
                tokens_in=len(rows[row][1]),
                tokens_out=counts[row],
                logprobs=tuple(spoken[row]) if first.logprobs else None,
                cut=open_rows[row],
            )
            for row in range(len(rows))
        ]

    def _spoken(self, logprobs: Float[Tensor, " vocab"], token: int, n: int) -> Spoken:
        from thoughtscope.models import token_text

        values, ids = logprobs.topk(min(n, len(logprobs)))
        top = zip(ids.tolist(), values.tolist(), strict=True)
        return Spoken(
            text=token_text(self.model, token),
            logprob=float(logprobs[token]),
            top=tuple((token_text(self.model, each), value) for each, value in top),
        )


def _batches(rows: Sequence[_Row], most: int) -> Iterator[Sequence[_Row]]:
    """Rows, shortest first, in batches of at most `most` tokens with their padding; a longer one alone."""
    start = 0
    while start < len(rows):
        end = start + 1
        while end < len(rows) and (end + 1 - start) * len(rows[end][1]) <= most:
            end += 1
        yield rows[start:end]
        start = end
