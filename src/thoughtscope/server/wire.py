"""What travels over HTTP. Unknown fields, non-finite numbers and broken text are refused before anything is done."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

MAX_PROMPT_CHARACTERS = 20_000
MAX_LABEL_CHARACTERS = 200


def _well_formed(text: str) -> str:
    """Refuses lone surrogates and NUL, which no tokenizer and no file can carry."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("The text holds half of a surrogate pair; send well-formed Unicode.") from None
    if "\0" in text:
        raise ValueError("The text holds a NUL character; remove it.")
    return text


def _one_line(text: str) -> str:
    """A label is one line of visible text: control characters and direction overrides could disguise it."""
    hidden = {
        *range(0x20),
        *range(0x7F, 0xA0),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        0x2028,
        0x2029,
    }
    if any(ord(character) in hidden for character in text):
        raise ValueError("A label is one line without control or text-direction characters.")
    return text.strip()


Text = Annotated[str, AfterValidator(_well_formed)]
Prompt = Annotated[Text, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
Label = Annotated[Text, Field(max_length=MAX_LABEL_CHARACTERS), AfterValidator(_one_line)]
NodeName = Annotated[str, Field(min_length=1, max_length=100)]
Share = Annotated[FiniteFloat, Field(gt=0, le=1)]


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TraceRequest(Wire):
    prompt: Prompt
    node_mass: Share = 0.8
    edge_mass: Share = 0.98
    max_nodes: Annotated[int, Field(ge=1, le=100_000)] | None = None


class LabelRequest(Wire):
    label: Label


class PinsRequest(Wire):
    pins: Annotated[list[NodeName], Field(max_length=200)]


class SupernodesRequest(Wire):
    """Each supernode as the graph file writes it: its label, then the ids of its nodes."""

    supernodes: Annotated[
        list[Annotated[list[Label], Field(min_length=2, max_length=500)]], Field(max_length=200)
    ]


class EditRequest(Wire):
    nodes: Annotated[list[NodeName], Field(min_length=1, max_length=500)]
    op: Literal["scale", "set", "add", "ablate"]
    value: Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)] | None = None


class InterveneRequest(Wire):
    slug: Annotated[str, Field(min_length=1, max_length=100)]
    edits: Annotated[list[EditRequest], Field(max_length=100)]
    attention: Literal["frozen", "free"] = "frozen"
    max_new_tokens: Annotated[int, Field(ge=0, le=200)] = 0
