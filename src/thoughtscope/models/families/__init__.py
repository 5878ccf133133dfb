"""Model families: the facts of a loaded module, bound by the file that knows its architecture."""

from __future__ import annotations

from typing import Any

from torch import nn

from thoughtscope.core.errors import UnsupportedModel, describe_choices
from thoughtscope.models.families import gemma, gpt2, gpt_neox, llama, olmo2
from thoughtscope.models.families.facts import BlockFacts as BlockFacts
from thoughtscope.models.families.facts import Family as Family
from thoughtscope.models.families.facts import HeadProjection as HeadProjection
from thoughtscope.models.families.facts import Neurons as Neurons
from thoughtscope.models.families.facts import NormFacts as NormFacts
from thoughtscope.models.families.facts import Rotary as Rotary
from thoughtscope.models.families.registry import FAMILIES as FAMILIES
from thoughtscope.models.families.registry import Architecture as Architecture

_BINDERS = (gpt2, gpt_neox, llama, gemma, olmo2)  # importing them fills FAMILIES


def bind(module: nn.Module) -> Family:
    """The facts of a loaded causal language model, chosen by `config.architectures` alone.

    Raises `UnsupportedModel` for an architecture that is not in the table, naming those that are, and for a module
    whose weights cannot be read: wrapped, on the meta device, quantised.
    """
    _refuse_wrapped(module)
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
    _refuse_unreadable(module)
    try:
        return FAMILIES[type(module).__name__].bind(module)
    except (AttributeError, TypeError, RuntimeError) as error:
        raise UnsupportedModel(
            f"This {type(module).__name__} is not built as its class builds it ({error}), so its sites cannot be "
            f"found. Was a part of it replaced or quantised? Load it again with transformers' AutoModelForCausalLM."
        ) from error


def _refuse_wrapped(module: Any) -> None:
    """DataParallel, torch.compile and their like call the model; the sites are inside."""
    for attribute in ("module", "_orig_mod"):
        inner = getattr(module, attribute, None)
        if isinstance(inner, nn.Module) and (
            not hasattr(module, "config") or type(module).__name__ not in FAMILIES
        ):
            raise UnsupportedModel(
                f"{type(module).__name__} wraps a {type(inner).__name__}, and hooks on a wrapper do not see inside "
                f"every copy. Pass what it wraps: model_from(module.{attribute}, ...)."
            )
    if not hasattr(module, "config"):
        raise UnsupportedModel(
            f"A {type(module).__name__} has no configuration, so its architecture is not known. "
            f"Load a model with load_model, or with transformers' AutoModelForCausalLM."
        )


def _refuse_unreadable(module: nn.Module) -> None:
    """Weights that are not there, or that are no plain floating-point matrices."""
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            raise UnsupportedModel(
                f'{name} is on the "meta" device, which holds shapes but no numbers. Load the model on "cpu" or "cuda".'
            )
        if not parameter.is_floating_point() or parameter.dtype.itemsize < 2:
            raise UnsupportedModel(
                f"{name} is stored as {str(parameter.dtype).removeprefix('torch.')}: a quantised weight. "
                f"Load the model without quantisation, in float32, bfloat16 or float16."
            )
    for name, part in module.named_modules():
        if ".quantized" in type(part).__module__:
            raise UnsupportedModel(
                f"{name} is a quantised {type(part).__name__}, whose weights are packed. "
                f"Give the model as it was before quantisation."
            )
