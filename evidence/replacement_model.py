"""How well the specimen's dictionaries stand in for its MLPs: cross-layer and per-layer, side by side."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from _claim import Measured, main
from _specimen import KINDS, held_out_prompts, load

DOCUMENTS = 1500


def measure(seed: int) -> Measured:
    """Documents of a seed that no training used, and the held-out prompts by themselves."""
    from specimens.corpus import sample_documents
    from thoughtscope.dictionaries import evaluate_dictionary

    details: dict[str, Any] = {}
    for kind in KINDS:
        model, dictionary = load(kind)
        documents = list(sample_documents(1_000_003 + seed, DOCUMENTS))
        details[kind] = {
            "features_per_layer": dictionary.n_features,
            "documents": asdict(evaluate_dictionary(model, dictionary, documents)),
            "held_out_prompts": asdict(evaluate_dictionary(model, dictionary, held_out_prompts(seed, 60))),
        }
    clt, plt = (details[kind]["documents"] for kind in KINDS)
    return Measured(
        value=round(clt["agreement"], 4),
        n=clt["n_tokens"],
        control=round(plt["agreement"], 4),
        details=details,
    )


if __name__ == "__main__":
    main(
        measure,
        claim="With all MLP outputs replaced by the cross-layer transcoder's reconstruction, the specimen's top token "
        "stays the same (share of tokens; control: the per-layer transcoders).",
        paper="0.50 for the largest cross-layer transcoder of an 18-layer model, on prompts that it gets right with "
        "p < 0.8 (Ameisen et al. 2025)",
    )
