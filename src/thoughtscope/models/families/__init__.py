"""Model families: `bind(module)` states the facts of a loaded module, chosen by `config.architectures` alone."""

from __future__ import annotations

from torch import nn

from thoughtscope.core.errors import UnsupportedModel, describe_choices
from thoughtscope.models.families import gemma, gpt2, gpt_neox, llama
from thoughtscope.models.families.facts import BlockFacts as BlockFacts
from thoughtscope.models.families.facts import Family as Family
from thoughtscope.models.families.facts import NormFacts as NormFacts
from thoughtscope.models.families.registry import FAMILIES as FAMILIES

__all__ = ["FAMILIES", "BlockFacts", "Family", "NormFacts", "bind"]

_BINDERS = (gpt2, gpt_neox, llama, gemma)  # importing them fills FAMILIES


def bind(module: nn.Module) -> Family:
    """The facts of a loaded causal language model.

    Raises `UnsupportedModel` for an architecture that is not in the table, naming those that are.
    """
    declared = list(getattr(module.config, "architectures", None) or [type(module).__name__])
    known = [name for name in declared if name in FAMILIES]
    if not known:
        raise UnsupportedModel(
            describe_choices(", ".join(declared), FAMILIES, what="supported model architecture", limit=30)
        )
    if type(module).__name__ not in FAMILIES:
        raise UnsupportedModel(
            f'The configuration says "{known[0]}", but the loaded module is a {type(module).__name__}. '
            f"Load it with transformers' AutoModelForCausalLM."
        )
    return FAMILIES[type(module).__name__](module)
