"""Parts that normalise what they read, write offsets, or let features compete: every verb honours that or refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.dictionary_oracle import held, touching
from tests.foreign_files import layer_norm
from tests.tiny_models import tiny_model
from thoughtscope.core.errors import DictionaryMismatch, InvalidPlan
from thoughtscope.core.site import Site
from thoughtscope.dictionaries import (
    Activation,
    Dictionary,
    Part,
    encode,
    evaluate_dictionary,
    load_dictionary,
    replace_mlps,
    resident,
    save_dictionary,
)
from thoughtscope.graphs import FeatureTarget, attribute
from thoughtscope.interventions import FeatureEdit, Plan, intervene
from thoughtscope.models import Model, capture, tokens_from_ids

IDS = [7, 84, 104, 101, 32, 99]
SITE, F = Site("resid_post", 1), 24


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("llama", layers=3)


def coder(model: Model, *, read: Site = SITE, write: Site = SITE, **more: object) -> Dictionary:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, size: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * size

    settings = {"activation": Activation(kind="relu"), "normalise": "layer_norm"} | more
    part = Part(
        name="1",
        W_enc={read: draw(F, model.width(read), size=0.3)},
        b_enc=draw(F, size=0.2),
        W_dec={write: draw(F, model.width(write), size=0.2)},
        b_dec={write: draw(model.width(write), size=0.1)},
        **settings,
    )
    return Dictionary(name="some/one", scan="some", model_name=model.name, parts=(part,))


def by_hand(dictionary: Dictionary, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features, what they write, and the size that this is brought back to."""
    (part,) = dictionary.parts
    x = x.double()
    if part.normalise == "layer_norm":
        seen, mean, size = layer_norm(x)
    else:
        mean, size = torch.zeros(1), x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
        seen = x / size
    (W_enc,), (W_dec,), (b_dec,) = (list(each.values()) for each in (part.W_enc, part.W_dec, part.b_dec))
    acts = (seen @ W_enc.double().T + part.b_enc.double()).relu()
    return acts, (acts @ W_dec.double() + b_dec.double()) * size + mean, size


@pytest.mark.parametrize("normalise", ["layer_norm", "rms_norm"])
def test_encoded_and_spliced_in(model: Model, normalise: str) -> None:
    dictionary = coder(model, normalise=normalise)
    x, _ = held(model, IDS, [str(SITE)])
    acts, written, _ = by_hand(dictionary, x[str(SITE)])
    for each in (dictionary, resident(dictionary, decoders=True)):
        features = encode(each, capture(model, tokens_from_ids(model, IDS), dictionary.sites))
        dense = torch.zeros_like(acts)
        dense[features.position, features.index] = features.value.double()
        torch.testing.assert_close(dense[1:], acts[1:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            features.reconstruction[SITE][1:].double(), written[1:], atol=1e-5, rtol=1e-5
        )
    few = torch.tensor([3, 17])
    (part,) = dictionary.parts
    torch.testing.assert_close(
        part.activations_of(few, {SITE: x[str(SITE)]}).double(), acts[:, few], atol=1e-5, rtol=1e-5
    )
    error = (x[str(SITE)] - written)[1:].double().square().sum()
    spread = (x[str(SITE)] - x[str(SITE)][1:].mean(0))[1:].double().square().sum()
    scores = evaluate_dictionary(model, dictionary, [IDS])
    assert scores.fvu == pytest.approx(float(error / spread), rel=1e-4)


def test_an_edit_is_as_large_as_the_vector(model: Model) -> None:
    """What is added is the change times the decoder, brought to the size of what the site holds."""
    dictionary = coder(model)
    x, _ = held(model, IDS, [str(SITE)])
    acts, _, size = by_hand(dictionary, x[str(SITE)])
    last = len(IDS) - 1
    index = int(acts[last].argmax())
    edit = FeatureEdit(part="1", index=index, op="set", value=0.0, positions=(last,))
    outcome = intervene(model, dictionary, tokens_from_ids(model, IDS), Plan(edits=(edit,), attention="free"))
    change = -acts[last, index] * dictionary.parts[0].W_dec[SITE][index] * size[last]

    def put(value: Tensor) -> Tensor:
        value = value.clone()
        value[0, last] += change.to(value.dtype)
        return value

    with torch.no_grad(), touching(model.module, {str(SITE): put}):
        logits = model.module(input_ids=torch.tensor([IDS])).logits[0, -1]
    after = logits.double().softmax(-1)[list(outcome.after.ids)]
    assert outcome.after.probabilities == pytest.approx(after.tolist(), rel=1e-4)
    assert outcome.kl > 1e-6


def test_what_is_not_linear_is_not_traced(model: Model) -> None:
    """Neither as nodes nor as a target; a set of transcoders in a published layout is refused too."""
    read, write = Site("mlp_in", 1), Site("mlp_out", 1)
    for dictionary, word in (
        (coder(model, read=read, write=write), "normalises"),
        (coder(model, read=read, write=write, normalise=None, offset={write: torch.ones(F)}), "constant"),
    ):
        with pytest.raises(DictionaryMismatch, match=word):
            replace_mlps(dictionary, model)
    plain = coder(model, read=read, write=write, normalise=None)
    wanted = FeatureTarget(dictionary=coder(model), part="1", index=0, position=2)
    with pytest.raises(DictionaryMismatch, match="no linear function"):
        attribute(model, plain, tokens_from_ids(model, IDS), targets=[wanted])


def test_offsets_are_written_where_features_are_active(model: Model) -> None:
    generator = torch.Generator().manual_seed(1)
    offset = torch.randn(F, generator=generator)
    dictionary = coder(model, normalise=None, offset={SITE: offset})
    (part,) = dictionary.parts
    x, _ = held(model, IDS, [str(SITE)])
    acts = (x[str(SITE)].double() @ part.W_enc[SITE].double().T + part.b_enc.double()).relu()
    wanted = (acts + offset * (acts > 0)) @ part.W_dec[SITE].double() + part.b_dec[SITE].double()
    features = encode(dictionary, capture(model, tokens_from_ids(model, IDS), dictionary.sites))
    torch.testing.assert_close(features.reconstruction[SITE][1:].double(), wanted[1:], atol=1e-5, rtol=1e-5)
    edit = FeatureEdit(part="1", index=int(features.index[0]), op="ablate")
    with pytest.raises(InvalidPlan, match="constant beside"):
        intervene(model, dictionary, tokens_from_ids(model, IDS), Plan(edits=(edit,)))


def test_kinds_that_compete() -> None:
    """Each against its definition, feature by feature; a few features are those of all."""
    torch.manual_seed(0)
    pre = torch.randn(50, F)
    largest = Activation(kind="abs_topk", k=5).apply(pre)
    groups = Activation(kind="groupmax", k=6).apply(pre)
    for row in range(50):
        kept = set(pre[row].abs().argsort(descending=True)[:5].tolist())
        assert [float(v) for v in largest[row]] == [float(pre[row, f]) if f in kept else 0 for f in range(F)]
        winners = [4 * g + int(pre[row, 4 * g : 4 * g + 4].argmax()) for g in range(6)]
        assert [float(v) for v in groups[row]] == [
            max(float(pre[row, f]), 0) if f in winners else 0 for f in range(F)
        ]
    assert bool((largest < 0).any())


def test_they_are_saved_and_checked(model: Model, tmp_path) -> None:
    offset = {SITE: torch.randn(F)}
    dictionary = coder(model, activation=Activation(kind="groupmax", k=6), offset=offset)
    save_dictionary(dictionary, tmp_path / "a")
    (again,) = load_dictionary(tmp_path / "a").parts
    assert (again.normalise, again.activation) == ("layer_norm", dictionary.parts[0].activation)
    assert torch.equal(again.offset[SITE], offset[SITE])
    (part,) = dictionary.parts
    for wrong, word in (
        ({"offset": {Site("resid_post", 2): torch.randn(F)}}, "offset"),
        ({"activation": Activation(kind="groupmax", k=7)}, "equal groups"),
    ):
        with pytest.raises(DictionaryMismatch, match=word):
            replace(dictionary, parts=(replace(part, **wrong),))
