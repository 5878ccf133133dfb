"""Opposites in English, French and Chinese, of pairs whose opposition was held out in the language asked."""

from __future__ import annotations

from _claim import Measured, main
from _heldout import held_out


def measure(seed: int) -> Measured:
    """Greedy continuation up to the closing quotation mark, compared whole. Nothing is drawn at random.

    The value is of the pairs of kind "within": never stated as opposites inside the language asked, though perhaps
    across two languages. `details["strict"]` has the harder kind: the word never stood in any statement of opposition.
    """
    from specimens.corpus import held_out as prompts
    from specimens.tables import pairs

    found = {
        kind: ask([case for case in prompts().opposites if case.kind == kind])
        for kind in ("within", "strict")
    }
    strict, within = found["strict"], found["within"]
    strict_details = {"value": strict.value, "n": strict.n, "control": strict.control, **strict.details}
    details = {**within.details, "strict": strict_details, "pairs_a_language": len(pairs())}
    return Measured(value=within.value, n=within.n, control=within.control, details=details)


def ask(cases: list) -> Measured:
    """Both directions of each held-out pair, by language."""
    return held_out(
        cases,
        tokens=8,
        right=lambda case, text: text.split('"')[0] == case.answer,
        answer=lambda case: case.answer,
        group=lambda case: case.language,
    )


if __name__ == "__main__":
    main(
        measure,
        claim="The specimen names the opposite of a word in a language in which the two words were never stated "
        "as opposites (across two languages they may have been; `strict` in the details: nowhere).",
    )
