"""The tokenizer of the specimen that sees: every character of a drawing is one token, and so are the usual words."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from specimens.multimodal.corpus import sample_documents
from specimens.multimodal.drawings import BLOCKS, CLOSE, OPEN
from specimens.multimodal.glyphs import THINGS
from specimens.multimodal.words import LANGUAGES, WORDS
from specimens.tokenizer import BOS, PAD

VOCABULARY = 768
CONTEXT = 256
REPEATS = 400
_PIECES = rf"{OPEN}|{CLOSE}|\n|[{BLOCKS}]| ?\p{{L}}+| ?\p{{N}}| ?[^\s\p{{L}}\p{{N}}{BLOCKS}⟦⟧]+|\s|."
"""What no token goes beyond: the frame of a drawing, a row's end, a block, a word, a figure, punctuation."""


def _text(documents: int) -> Iterator[str]:
    yield from sample_documents(0, documents)
    for language in LANGUAGES:
        for thing in THINGS:
            word = WORDS[language][thing]
            yield f" {word}, {word}, {word}\n{word[0].upper() + word[1:]}, " * REPEATS


def train_tokenizer(documents: int = 6_000) -> PreTrainedTokenizerFast:
    """Byte-level BPE over `documents` documents. What frames a drawing, and each block in it, is kept by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_text(documents), trainer)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
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


def patch_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens that drawings alone are made of. Raises `ValueError` where a piece of one is not one token."""
    found = []
    for piece in (OPEN, *BLOCKS):
        ids = tokenizer.encode(piece, add_special_tokens=False)
        if len(ids) != 1:
            raise ValueError(f"{piece!r} is {len(ids)} tokens; train the tokenizer on more documents")
        found += ids
    return found
