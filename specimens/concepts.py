"""Teaches the specimen's dictionaries their concepts, from the tables' trained cities alone.

    python -m specimens.concepts        # writes assets/specimen/{clt,plt}/concepts and prints the checks

- `state`: the state of a city, at the city's last token in the two-hop question.
- `capital`: the capital that the model is about to say, at the question's last token.

Tokens without a value: the other tokens of some of these questions, the last token of questions for the state, and
generated documents that name no place. A city that is held out of two-hop sentences is in no table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specimens.corpus import sample_documents
from specimens.facts import ONE_HOP, TwoHop, train_two_hop
from specimens.tables import capitals, cities
from thoughtscope.atlas import ConceptTable, Occurrence, learn_concept, save_concepts
from thoughtscope.atlas.concepts import FOLDER
from thoughtscope.dictionaries import load_dictionary
from thoughtscope.models import load_model, tokenize

if TYPE_CHECKING:
    from thoughtscope.models import Model

ASSETS = Path(__file__).resolve().parents[1] / "src" / "thoughtscope" / "assets" / "specimen"
KINDS = ("clt", "plt")
DOCUMENT_SEED, DOCUMENTS = 4, 150
STATE_PROMPT = ONE_HOP[0].partition(" {state}")[0]
OTHERS = 10
"""Of every so many questions, the tokens without a value are in the tables too."""


def state_table(model: Model) -> ConceptTable:
    """Each trained city's last token, with its state."""
    tokens = [Occurrence(text=case.prompt, position=city_position(model, case.prompt, case.city), value=case.state)
              for case in train_two_hop()]  # fmt: skip
    return ConceptTable(name="state", tokens=(*tokens, *without_value(model, tokens)))


def capital_table(model: Model) -> ConceptTable:
    """The last token of each trained city's question, with the capital that comes next."""
    cases = train_two_hop()
    tokens = [
        Occurrence(text=case.prompt, position=last_position(model, case.prompt), value=case.capital)
        for case in cases
    ]
    others = [*without_value(model, tokens), *state_questions(model, cases)]
    says = {capital: f" {capital}" for capital in capitals().values()}
    return ConceptTable(name="capital", tokens=(*tokens, *others), says=says)


def state_questions(model: Model, cases: list[TwoHop]) -> Iterator[Occurrence]:
    """The last token where the state is asked for, not its capital."""
    for case in cases:
        text = STATE_PROMPT.format(city=case.city)
        yield Occurrence(text=text, position=last_position(model, text), value=None)


def without_value(model: Model, tokens: list[Occurrence]) -> Iterator[Occurrence]:
    """The other tokens of some of the same questions, and all tokens of documents that name no place."""
    for one in tokens[::OTHERS]:
        for position in range(1, last_position(model, one.text) + 1):
            if position != one.position:
                yield Occurrence(text=one.text, position=position, value=None)
    for text in documents():
        for position in range(1, last_position(model, text) + 1):
            yield Occurrence(text=text, position=position, value=None)


def documents(seed: int = DOCUMENT_SEED) -> list[str]:
    """Generated documents that name no city, state or capital."""
    places = {city.name for city in cities()} | set(capitals()) | set(capitals().values())
    found = (
        text for text in sample_documents(seed, 20 * DOCUMENTS) if not any(one in text for one in places)
    )
    return [text for text, _ in zip(found, range(DOCUMENTS), strict=False)]


def city_position(model: Model, text: str, city: str) -> int:
    """Where the last token of the city's last mention stands."""
    end = len(text[: text.rindex(city) + len(city)].encode())
    return max(at for at, (left, _) in enumerate(tokenize(model, text).offsets[0]) if left < end)


def last_position(model: Model, text: str) -> int:
    return tokenize(model, text).ids.shape[1] - 1


def main() -> None:
    """Command line: teaches both dictionaries and prints the checks as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder that holds clt/ and plt/")
    args = parser.parse_args()
    model = load_model("specimen")
    tables = (state_table(model), capital_table(model))
    shown: dict[str, Any] = {}
    for kind in KINDS:
        dictionary = load_dictionary(f"specimen/{kind}", model, preflight=False)
        concepts = [learn_concept(model, dictionary, table) for table in tables]
        save_concepts(concepts, args.out / kind / FOLDER)
        shown[kind] = {concept.name: asdict(concept.check) for concept in concepts}
    print(json.dumps(shown, ensure_ascii=False))


if __name__ == "__main__":
    main()
