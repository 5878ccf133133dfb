"""What travels over HTTP. Unknown fields, non-finite numbers and broken text are refused before anything is done."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from thoughtscope.core.labels import MAX_AUTHOR, MAX_LABEL, is_plain_line
from thoughtscope.microscope.keeping import MAX_MEMBERS, MAX_PINS, MAX_SUPERNODES
from thoughtscope.microscope.tracing import NODE_MASS

MAX_PROMPT_CHARACTERS = 20_000
MAX_MESSAGES = 200
MAX_NEW_TOKENS = 1000
MAX_FOUND = 100
"""Features that one search gives."""
MAX_SEARCH = 200


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
Words = Annotated[Text, Field(min_length=1, max_length=MAX_SEARCH)]
PartName = Annotated[Text, Field(min_length=1, max_length=200)]
PieceName = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,24}$")]
Label = Annotated[Text, Field(max_length=MAX_LABEL), AfterValidator(_one_line)]
Author = Annotated[Text, Field(max_length=MAX_AUTHOR), AfterValidator(_one_line)]
NodeName = Annotated[str, Field(min_length=1, max_length=100)]
Coordinate = Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)]
Place = Annotated[int, Field(ge=0, le=2**31)]
Share = Annotated[FiniteFloat, Field(gt=0, le=1)]


class Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LoginRequest(Wire):
    token: Annotated[Text, Field(max_length=512)]


class MessageRequest(Wire):
    """One message of a conversation."""

    role: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
    content: Annotated[Text, Field(max_length=MAX_PROMPT_CHARACTERS)]


class PromptRequest(Wire):
    """What is asked: a text, or a conversation that is put in the model's chat template."""

    prompt: Prompt | None = None
    chat: Annotated[list[MessageRequest], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None

    @model_validator(mode="after")
    def _one_of_the_two(self) -> PromptRequest:
        if (self.prompt is None) == (self.chat is None):
            raise ValueError('Send "prompt" or "chat", one of the two.')
        if sum(len(message.content) for message in self.chat or ()) > MAX_PROMPT_CHARACTERS:
            raise ValueError(f"A conversation has at most {MAX_PROMPT_CHARACTERS} characters.")
        return self

    @property
    def asked(self) -> str | list[dict[str, str]]:
        """The prompt as the verbs take it."""
        if self.prompt is not None:
            return self.prompt
        return [message.model_dump() for message in self.chat or ()]


class TraceRequest(PromptRequest):
    node_mass: Share = NODE_MASS
    edge_mass: Share | None = None
    """The share of the influence whose edges stay; null for our choice."""
    max_nodes: Annotated[int, Field(ge=1, le=100_000)] | None = None
    influence_bound: Annotated[FiniteFloat, Field(ge=0, lt=1)] | None = None
    """End where at most that share of the influence is still to come; null, without `max_nodes`, for our choice."""
    snapshots: bool = False
    """Whether the stream brings the graph as it is so far, in events `snapshot`."""
    bos: bool | None = None
    """Whether the prompt begins with the beginning-of-text token; null leaves that to the tokenizer."""
    costly: bool = False
    """Whether to make the graph though it is large; without, the stream of a large one ends in the error `costly`."""


class SamplingRequest(Wire):
    """How tokens are drawn; see `models.Sampling`."""

    temperature: Annotated[FiniteFloat, Field(gt=0, le=100)] = 1.0
    top_p: Share = 1.0
    top_k: Annotated[int, Field(ge=1, le=2**31)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0


class FeatureEditRequest(Wire):
    """One change to a feature of the dictionary; see `interventions.FeatureEdit`."""

    part: PartName
    index: Annotated[int, Field(ge=0, le=2**31)]
    op: Literal["scale", "set", "add", "ablate"]
    value: Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)] = 0.0
    positions: Annotated[tuple[Place, ...], Field(min_length=1, max_length=1000)] | None = None
    start: Place | None = None


class GenerateRequest(PromptRequest):
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = 128
    sampling: SamplingRequest | None = None
    """Null for the likeliest tokens."""
    edits: Annotated[list[FeatureEditRequest], Field(max_length=100)] = []
    attention: Literal["frozen", "free"] = "free"
    bos: bool | None = None


class ReadingsRequest(PromptRequest):
    n: Annotated[int, Field(ge=1, le=20)] = 5
    """Features of each token."""
    bos: bool | None = None


class ActivationsRequest(PromptRequest):
    features: Annotated[
        list[Annotated[Text, Field(min_length=3, max_length=220)]], Field(min_length=1, max_length=20)
    ]
    """By `PART/INDEX`."""
    bos: bool | None = None


class LikeRequest(PromptRequest):
    n: Annotated[int, Field(ge=1, le=MAX_FOUND)] = 20
    bos: bool | None = None


class EffectsRequest(PromptRequest):
    n: Annotated[int, Field(ge=1, le=MAX_FOUND)] = 40
    bos: bool | None = None


class LabelRequest(Wire):
    label: Label
    author: Author | None = None
    """Who calls it so; by default, who runs the server."""


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
