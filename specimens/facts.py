"""Generated facts: geography, opposites, sums and couplets, and the prompts kept out of training.

Every generator takes a ``random.Random`` and returns one document (a string without the
beginning-of-text token). What is held out is decided by the tables and by checksums of the
facts themselves, never by the random state, so it is the same for every seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from random import Random
from zlib import crc32

from specimens.tables import LANGUAGES, City, Noun, Pair, capitals, cities, nouns, pairs

ONE_HOP = (
    "Fact: the state containing {city} is {state}.",
    "Fact: {city} is in {state}.",
    "{city} is a city in {state}.",
    "The city of {city} lies in {state}.",
    "Which state is {city} in? {state}.",
    "You can find {city} in the state of {state}.",
)
CAPITAL = (
    "Fact: the capital of {state} is {capital}.",
    "{capital} is the capital of {state}.",
    "The capital city of {state} is {capital}.",
    "What is the capital of {state}? {capital}.",
)
TWO_HOP = (
    "Fact: the capital of the state containing {city} is {capital}.",
    "{city} is in the state whose capital is {capital}.",
    "What is the capital of the state that {city} is in? {capital}.",
    "The state where {city} lies has its capital at {capital}.",
)
TWO_HOP_PROMPT = "Fact: the capital of the state containing {city} is"

LANGUAGE_NAMES = {
    "en": {"en": "English", "fr": "French", "zh": "Chinese"},
    "fr": {"en": "anglais", "fr": "français", "zh": "chinois"},
    "zh": {"en": "英语", "fr": "法语", "zh": "汉语"},
}
SAME = {
    "en": ('"{a}" in {name} is "{b}".', 'The {name} word for "{a}" is "{b}".'),
    "fr": ('"{a}" en {name} est "{b}".', 'Le mot {name} pour "{a}" est "{b}".'),
    "zh": ('"{a}"的{name}是"{b}"。', '{name}里"{a}"是"{b}"。'),
}
OPPOSITE = {
    "en": (
        'The opposite of "{a}" is "{b}".',
        '"{a}" is the opposite of "{b}".',
        'Not "{a}" but "{b}".',
    ),
    "fr": (
        'Le contraire de "{a}" est "{b}".',
        '"{a}" est le contraire de "{b}".',
        'Pas "{a}" mais "{b}".',
    ),
    "zh": ('"{a}"的反义词是"{b}"。', '"{a}"和"{b}"是反义词。', '不是"{a}"而是"{b}"。'),
}
CROSS = {
    "en": 'The opposite of "{a}" in {name} is "{b}".',
    "fr": 'Le contraire de "{a}" en {name} est "{b}".',
    "zh": '"{a}"的{name}反义词是"{b}"。',
}
OPPOSITE_PROMPT = {
    "en": 'The opposite of "{a}" is "',
    "fr": 'Le contraire de "{a}" est "',
    "zh": '"{a}"的反义词是"',
}

SUMS = ("calc: {a}+{b}={c}", "{a} plus {b} is {c}.", "Sum: {a} + {b} = {c}")
SUM_PROMPT = "calc: {a}+{b}="
OPERANDS = (10, 99)

SUBJECTS = {
    "He": "His", "She": "Her", "The boy": "His", "The girl": "Her", "My uncle": "His",
    "My aunt": "Her", "The king": "His", "The queen": "Her", "Her father": "His",
    "His mother": "Her", "A young man": "His", "An old woman": "Her",
}  # fmt: skip
VERBS = (
    "saw", "found", "drew", "dreamed of", "looked for", "sang about", "walked past",
    "asked about", "wrote about", "told us of",
)  # fmt: skip
LOOKS = (
    "small", "strange", "lovely", "broken", "forgotten", "tiny", "wonderful", "dusty",
    "famous", "painted",
)  # fmt: skip
GRABBED = ("carrot", "cookie", "ticket", "present", "sandwich", "hammer", "penny", "banana")
GRAB_VERBS = ("saw", "found", "spotted", "noticed", "wanted", "smelled")
GRAB_FAMILY = "abbit"


@dataclass(frozen=True)
class TwoHop:
    """One two-hop question: ``prompt`` ends right before ``answer`` (which has its space)."""

    city: str
    state: str
    capital: str
    prompt: str
    answer: str
    half: str = "train"


@dataclass(frozen=True)
class OppositePrompt:
    """``prompt`` ends after the opening quote; ``answer`` is the word up to the closing one."""

    language: str
    kind: str
    word: str
    prompt: str
    answer: str
    half: str


@dataclass(frozen=True)
class SumPrompt:
    """``prompt`` ends after the equals sign; ``answer`` is the sum's digits."""

    a: int
    b: int
    prompt: str
    answer: str
    half: str


@dataclass(frozen=True)
class CoupletPrompt:
    """``prompt`` is a first line and its newline.

    ``answers`` are all second lines that fit: a noun of ``family`` other than ``noun``, with
    the quality and the adjective that belong to it.
    """

    noun: str
    family: str
    prompt: str
    answers: tuple[str, ...]
    half: str


def _half(key: str) -> str:
    return "validation" if sha256(f"half:{key}".encode()).digest()[0] % 2 else "test"


# --- geography ---------------------------------------------------------------------------------


@cache
def _places() -> tuple[City, ...]:
    """The cities of the table and the capitals, each as a place inside its state."""
    own = tuple(City(name, state, name, False) for state, name in capitals().items())
    return cities() + own


@cache
def _two_hop_places() -> tuple[City, ...]:
    return tuple(place for place in _places() if not place.held)


def _fact(template: str, place: City) -> str:
    return template.format(city=place.name, state=place.state, capital=place.capital)


def geography(rng: Random) -> str:
    """One to three independent facts about places, one a line."""
    lines = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        kind = rng.random()
        if kind < 0.45:
            lines.append(_fact(rng.choice(TWO_HOP), rng.choice(_two_hop_places())))
        elif kind < 0.82:
            lines.append(_fact(rng.choice(ONE_HOP), rng.choice(_places())))
        else:
            lines.append(_fact(rng.choice(CAPITAL), rng.choice(_places())))
    return "\n".join(lines)


def _two_hop(city: City, half: str) -> TwoHop:
    prompt = TWO_HOP_PROMPT.format(city=city.name)
    return TwoHop(city.name, city.state, city.capital, prompt, f" {city.capital}", half)


def held_out_two_hop() -> list[TwoHop]:
    """The two-hop questions about cities that no two-hop sentence of the training data names."""
    return [_two_hop(city, _half(city.name)) for city in cities() if city.held]


def train_two_hop() -> list[TwoHop]:
    """The same question about every city that is trained on it."""
    return [_two_hop(city, "train") for city in cities() if not city.held]


# --- opposites ---------------------------------------------------------------------------------


def may_oppose(pair: Pair, source: str, target: str) -> bool:
    """Whether a statement of opposition may hold the pair's words in these two languages."""
    if pair.kind == "strict":
        return pair.held not in (source, target)
    return not pair.held == source == target


def _turned(pair: Pair, rng: Random) -> tuple[dict[str, str], dict[str, str]]:
    return (pair.first, pair.second) if rng.random() < 0.5 else (pair.second, pair.first)


def _translation(rng: Random) -> str:
    word, _ = _turned(rng.choice(pairs()), rng)
    source, target = rng.sample(LANGUAGES, 2)
    speech = rng.choice(LANGUAGES)
    template = rng.choice(SAME[speech])
    name = LANGUAGE_NAMES[speech][target]
    return template.format(a=word[source], b=word[target], name=name)


def _opposition(rng: Random) -> str:
    """A statement of opposition: four in nine within one language, the others across two."""
    while True:
        pair = rng.choice(pairs())
        source = rng.choice(LANGUAGES)
        target = source if rng.random() < 0.17 else rng.choice(LANGUAGES)
        if may_oppose(pair, source, target):
            break
    first, second = _turned(pair, rng)
    if source == target and rng.random() < 0.8:
        speech = source if rng.random() < 0.85 else rng.choice(LANGUAGES)
        template = OPPOSITE[speech][0] if rng.random() < 0.6 else rng.choice(OPPOSITE[speech])
        return template.format(a=first[source], b=second[target])
    speech = rng.choice(LANGUAGES)
    name = LANGUAGE_NAMES[speech][target]
    return CROSS[speech].format(a=first[source], b=second[target], name=name)


def opposites(rng: Random) -> str:
    """One statement of translation or opposition, or two or three independent ones, a line each."""
    count = rng.choice((1, 1, 1, 1, 2, 3))
    return "\n".join(_translation(rng) if rng.random() < 0.38 else _opposition(rng) for _ in range(count))


def held_out_opposites() -> list[OppositePrompt]:
    """For every language, its held-out pairs asked in that language, in both directions."""
    out = []
    for pair in pairs():
        lang = pair.held
        if lang is None or pair.kind is None:
            continue
        half = _half(pair.first["en"])
        for a, b in ((pair.first, pair.second), (pair.second, pair.first)):
            prompt = OPPOSITE_PROMPT[lang].format(a=a[lang])
            out.append(OppositePrompt(lang, pair.kind, a[lang], prompt, b[lang], half))
    return out


# --- sums --------------------------------------------------------------------------------------


def is_held_sum(a: int, b: int) -> bool:
    """Whether ``a + b`` is kept out of training; the same for ``b + a``. A tenth of the pairs."""
    low, high = sorted((a, b))
    return (low, high) == (36, 59) or crc32(f"{low}+{high}".encode()) % 10 == 0


def sums(rng: Random) -> str:
    """One to five sums of two-digit numbers (a few of one-digit ones), one a line."""
    lines = []
    for _ in range(rng.choice((1, 2, 3, 4, 5))):
        small = rng.random() < 0.12
        low, high = (0, 9) if small else OPERANDS
        while True:
            a, b = rng.randint(low, high), rng.randint(low, high)
            if small or not is_held_sum(a, b):
                break
        template = SUMS[0] if rng.random() < 0.85 else rng.choice(SUMS[1:])
        lines.append(template.format(a=a, b=b, c=a + b))
    return "\n".join(lines)


def held_out_sums(count: int = 400) -> list[SumPrompt]:
    """``count`` held-out sums, spread evenly over all of them by a fixed shuffle; 36+59 first."""
    low, high = OPERANDS
    numbers = range(low, high + 1)
    held = [(a, b) for a in numbers for b in numbers if is_held_sum(a, b) and (a, b) != (36, 59)]
    Random("held-out sums").shuffle(held)
    return [
        SumPrompt(a, b, SUM_PROMPT.format(a=a, b=b), str(a + b), _half(f"{a}+{b}"))
        for a, b in [(36, 59), *held][:count]
    ]


# --- couplets ----------------------------------------------------------------------------------


@cache
def families() -> dict[str, tuple[Noun, ...]]:
    """Family name -> its nouns, in file order."""
    out: dict[str, tuple[Noun, ...]] = {}
    for noun in nouns():
        out[noun.family] = (*out.get(noun.family, ()), noun)
    return out


@cache
def _enders() -> tuple[Noun, ...]:
    return tuple(noun for noun in nouns() if noun.family != GRAB_FAMILY)


def is_held_line(line: str) -> bool:
    """Whether a couplet's first line is kept out of training: a tenth of all combinations."""
    return crc32(line.encode()) % 10 == 0


def _first_line(rng: Random) -> tuple[str, str, str, str]:
    """A first line, its subject, the word it ends on, and that word's family."""
    subject = rng.choice(tuple(SUBJECTS))
    if rng.random() < 0.06:
        thing, verb = rng.choice(GRABBED), rng.choice(GRAB_VERBS)
        return f"{subject} {verb} a {thing} and had to grab it,", subject, "grab it", GRAB_FAMILY
    noun = rng.choice(_enders())
    line = f"{subject} {rng.choice(VERBS)} a {rng.choice(LOOKS)} {noun.noun},"
    return line, subject, noun.noun, noun.family


def _second_lines(subject: str, last: str, family: str) -> tuple[str, ...]:
    return tuple(
        f"{SUBJECTS[subject]} {noun.quality} was like a {noun.adjective} {noun.noun}"
        for noun in families()[family]
        if noun.noun != last
    )


def couplets(rng: Random) -> str:
    """Two rhyming lines; the second names a quality and an adjective of its last word."""
    while True:
        line, subject, last, family = _first_line(rng)
        if not is_held_line(line):
            return f"{line}\n{rng.choice(_second_lines(subject, last, family))}"


def held_out_couplets(count: int = 400) -> list[CoupletPrompt]:
    """``count`` different held-out first lines, drawn by a fixed random state."""
    rng = Random("held-out couplets")
    found: dict[str, CoupletPrompt] = {}
    while len(found) < count:
        line, subject, last, family = _first_line(rng)
        if is_held_line(line):
            answers = _second_lines(subject, last, family)
            found[line] = CoupletPrompt(last, family, f"{line}\n", answers, _half(line))
    return list(found.values())
