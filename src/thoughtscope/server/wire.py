"""What travels over HTTP. Unknown fields, non-finite numbers and broken text are refused before anything is done."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from thoughtscope.core.labels import MAX_LABEL, is_plain_line
from thoughtscope.microscope.keeping import MAX_MEMBERS, MAX_PINS, MAX_SUPERNODES
from thoughtscope.microscope.tracing import EDGE_MASS, NODE_MASS

MAX_PROMPT_CHARACTERS = 20_000


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
    if not is_plain_line(text):
        raise ValueError("A label is one line without control or text-direction characters.")
    return text.strip()


Text = Annotated[str, AfterValidator(_well_formed)]
Prompt = Annotated[Text, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]
Label = Annotated[Text, Field(max_length=MAX_LABEL), AfterValidator(_one_line)]
NodeName = Annotated[str, Field(min_length=1, max_length=100)]
Coordinate = Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)]
Share = Annotated[FiniteFloat, Field(gt=0, le=1)]


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LoginRequest(Wire):
    token: Annotated[Text, Field(max_length=512)]


class TraceRequest(Wire):
    prompt: Prompt
    node_mass: Share = NODE_MASS
    edge_mass: Share = EDGE_MASS
    max_nodes: Annotated[int, Field(ge=1, le=100_000)] | None = None
    bos: bool | None = None
    """Whether the prompt begins with the beginning-of-text token; null leaves that to the tokenizer."""
    costly: bool = False
    """Whether to make the graph though it is large; without, the stream of a large one ends in the error `costly`."""


class LabelRequest(Wire):
    label: Label


class PinsRequest(Wire):
    pins: Annotated[list[NodeName], Field(max_length=MAX_PINS)]


class ScoreRequest(Wire):
    """The part of a graph whose scores are asked for, by the ids of its file."""

    nodes: Annotated[list[NodeName], Field(max_length=MAX_PINS + MAX_SUPERNODES * MAX_MEMBERS)]


class SupernodesRequest(Wire):
    """Each supernode as the graph file writes it: its label, then the ids of its nodes."""

    supernodes: Annotated[
        list[Annotated[list[Label], Field(min_length=2, max_length=MAX_MEMBERS)]],
        Field(max_length=MAX_SUPERNODES),
    ]


class LayoutRequest(Wire):
    """Where cards stand: x and y by the id of a node or a group."""

    layout: Annotated[dict[Label, tuple[Coordinate, Coordinate]], Field(max_length=2000)]


class GraphRequest(Wire):
    """What of a kept graph can be changed."""

    title: Label


class EditRequest(Wire):
    nodes: Annotated[list[NodeName], Field(min_length=1, max_length=500)]
    op: Literal["scale", "set", "add", "ablate"]
    value: Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)] | None = None


class InterveneRequest(Wire):
    slug: Annotated[str, Field(min_length=1, max_length=100)]
    edits: Annotated[list[EditRequest], Field(max_length=100)]
    attention: Literal["frozen", "free"] = "frozen"
    max_new_tokens: Annotated[int, Field(ge=0, le=200)] = 0
    keep: bool = True
    """Whether the outcome stays with the graph; false for a look in passing, such as one step of a sweep."""
