"""Train the specimen's byte-level BPE tokenizer: ``python -m specimens.tokenizer --out DIR``.

Digits are always single tokens. Table words (cities, states, capitals, opposites, rhyming
nouns and their qualities) are repeated in the training text until each is one token, in the
form in which the documents use it: after a space, or right after a quotation mark.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from specimens import facts
from specimens.corpus import Mixture
from specimens.tables import LANGUAGES, capitals, cities, nouns, pairs

BOS, PAD = "<|bos|>", "<|pad|>"
VOCABULARY = 5_000
CONTEXT = 256
REPEATS = 1_500


def table_words() -> list[str]:
    """Every word that should be one token, with its leading space where it is used with one."""
    spaced: list[str] = []
    for state, capital in capitals().items():
        spaced += [*state.split(), *capital.split()]
    for city in cities():
        spaced += city.name.split()
    for noun in nouns():
        spaced += [noun.noun, noun.quality, noun.adjective]
    for phrase in (*facts.SUBJECTS, *facts.VERBS, *facts.LOOKS, *facts.GRABBED):
        spaced += phrase.split()
    words = [f" {word}" for word in spaced]
    for pair in pairs():
        for lang in LANGUAGES:
            words += [pair.first[lang], pair.second[lang]]
    return list(dict.fromkeys(words))


def _training_text(folder: Path | None, documents: int) -> Iterator[str]:
    mixture, rng = Mixture(folder), Random("tokenizer")
    for _ in range(documents):
        yield mixture.draw(rng)[1]
    for word in table_words():
        unit = f":{word}:" if word.startswith(" ") else f'"{word}":'
        yield unit * REPEATS


def train_tokenizer(folder: Path | None = None, documents: int = 40_000) -> PreTrainedTokenizerFast:
    """Train on ``documents`` documents of the mixture and on the table words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_training_text(folder, documents), trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A",
                pair=f"{BOS} $A {BOS} $B",
                special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
            ),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        add_bos_token=True,
        padding_side="right",
    )


def split_words(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The table words that are not one token in their place: ideally none."""
    out = []
    for word in table_words():
        context = f":{word}" if word.startswith(" ") else f'"{word}'
        start = tokenizer.encode(context[0], add_special_tokens=False)
        ids = tokenizer.encode(context, add_special_tokens=False)
        if len(ids) != len(start) + 1:
            out.append(word)
    return out


def main() -> None:
    """Command line: train, report, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tokenizer files")
    parser.add_argument("--text", type=Path, help="text folder; without it, grammars are used")
    args = parser.parse_args()
    tokenizer = train_tokenizer(args.text)
    tokenizer.save_pretrained(args.out)
    broken = split_words(tokenizer)
    print(f"{len(tokenizer)} tokens; {len(table_words())} table words, {len(broken)} split: {broken}")


if __name__ == "__main__":
    main()
