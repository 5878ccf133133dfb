"""core: names are injective and round trips exact; every refusal names the value, what is allowed and the fix."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thoughtscope.core import errors, ids, registry, site
from thoughtscope.core.errors import (
    ThoughtscopeError,
    UnknownFeature,
    UnknownModel,
    UnknownSite,
    describe_choices,
)
from thoughtscope.core.ids import FeatureId, NodeId, NodeKind
from thoughtscope.core.registry import Registry
from thoughtscope.core.site import (
    GLOBAL_KINDS,
    LAYER_KINDS,
    SITE_KINDS,
    Site,
    hook_of_site_kind,
    site_kind_of_hook,
)

numbers = st.integers(0, 10**9)
sites = st.builds(Site, st.sampled_from(sorted(LAYER_KINDS)), numbers) | st.builds(
    Site, st.sampled_from(sorted(GLOBAL_KINDS))
)
parts = st.text(min_size=1).filter(lambda text: "/" not in text)
feature_ids = st.builds(FeatureId, st.text(min_size=1), parts, numbers)
node_ids = st.one_of(
    st.builds(NodeId, st.just(NodeKind.TOKEN), numbers),
    st.builds(NodeId, st.just(NodeKind.FEATURE), numbers, numbers, numbers),
    st.builds(NodeId, st.just(NodeKind.ERROR), numbers, numbers),
    st.builds(NodeId, st.just(NodeKind.LOGIT), numbers, st.none(), numbers),
)


@given(sites)
def test_site_round_trip(one):
    assert Site.parse(str(one)) == one


@given(feature_ids)
def test_feature_id_round_trip(one):
    assert FeatureId.parse(str(one)) == one


@given(node_ids)
def test_node_id_round_trip(one):
    assert NodeId.parse(str(one)) == one


@given(st.one_of(sites, feature_ids, node_ids), st.one_of(sites, feature_ids, node_ids))
def test_different_things_of_a_type_have_different_names(one, other):
    if type(one) is type(other) and one != other:
        assert str(one) != str(other)


@given(st.text())
def test_parse_accepts_only_what_str_gives(text):
    """What parses prints as it was written, so that no two texts of our own spelling mean one thing."""
    for kind in (NodeId, FeatureId):
        try:
            parsed = kind.parse(text)
        except ThoughtscopeError:
            continue
        assert str(parsed) == text


@given(
    st.sampled_from([*LAYER_KINDS, *GLOBAL_KINDS]),
    st.sampled_from([".", "..", ".-1", ".01", ".1.2", ".1 ", ".x", ".١"]),
)
def test_site_tails_are_never_dropped(kind, tail):
    with pytest.raises(UnknownSite):
        Site.parse(kind + tail)


def test_an_error_node_never_shares_its_id_with_a_feature():
    error, feature = NodeId(NodeKind.ERROR, 5, 3), NodeId(NodeKind.FEATURE, 5, 3, 0)
    assert str(error) == "error:3:5" and str(feature) == "feature:3:5:0"


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_transformer_lens_names_are_read(kind):
    hook = hook_of_site_kind(kind)
    assert hook == SITE_KINDS[kind].hook and SITE_KINDS[kind].name == kind
    assert Site.parse(f"blocks.7.{hook}") == Site(kind, 7) and site_kind_of_hook(hook) == kind
    assert site_kind_of_hook(kind) == kind


def test_transformer_lens_embedding():
    assert Site.parse("hook_embed") == Site("embed")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resid_pots.3", 'Did you mean "resid_post"'),
        ("resid_post", "needs a layer"),
        ("logits.2", "has no layer"),
        ("blocks.2.hook_resid_psot", 'Did you mean "hook_resid_post"'),
        ("blocks.-1.hook_resid_post", "is not a site"),
        ("attn_out.5.site-1", "is not a site"),
        ("", "is not a site"),
    ],
)
def test_bad_sites_say_why(text, message):
    with pytest.raises(UnknownSite, match=message):
        Site.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("feature:1:2", "a feature node has layer, position, index"),
        ("token:1:2", "a token node has position"),
        ("token:", "numbers separated by colons"),
        ("token:-1", "numbers separated by colons"),
        ("token:01", "numbers separated by colons"),
        ("0_3_5", "is not a node kind"),
        ("featur:1:2:3", 'Did you mean "feature"'),
    ],
)
def test_bad_node_ids_say_why(text, message):
    with pytest.raises(UnknownFeature, match=message):
        NodeId.parse(text)


@pytest.mark.parametrize(
    "text", ["clt", "clt/1", "/1/2", "clt/1/x", "clt/1/-2", "clt/1/02", "clt//2", "clt/1/2/"]
)
def test_bad_feature_ids_say_how(text):
    with pytest.raises(UnknownFeature, match="dictionary/part/index"):
        FeatureId.parse(text)


@pytest.mark.parametrize("make", [
    lambda: NodeId(NodeKind.TOKEN, 1, layer=2),
    lambda: NodeId(NodeKind.FEATURE, 1, 2),
    lambda: NodeId(NodeKind.LOGIT, 1),
    lambda: NodeId(NodeKind.ERROR, -1, 0),
    lambda: FeatureId("clt", "1", -1),
    lambda: FeatureId("", "1", 0),
    lambda: FeatureId("clt", "", 0),
    lambda: FeatureId("clt", "a/b", 0),
])  # fmt: skip
def test_ids_that_cannot_exist_are_refused(make):
    with pytest.raises(UnknownFeature):
        make()


def test_node_ids_sort_and_hash():
    one, other = NodeId.parse("token:1"), NodeId.parse("token:2")
    assert one < other and len({one, other, NodeId.parse("token:1")}) == 2


# --- registry and errors -------------------------------------------------------------------------------------------


def test_registry_refuses_with_its_own_error():
    families = Registry[int]("model family", UnknownModel)
    families.register("gpt2", "gpt-2")(1)
    assert (
        families["gpt2"] == families["gpt-2"] == 1
        and list(families) == ["gpt2", "gpt-2"]
        and len(families) == 2
    )
    assert "gpt2" in families and "llama" not in families
    with pytest.raises(UnknownModel, match='"gtp2" is not a model family') as caught:
        families["gtp2"]
    assert 'Allowed: gpt2, gpt-2. Did you mean "gpt2"' in str(caught.value)
    with pytest.raises(AssertionError, match="registered twice"):
        families.register("gpt2")(2)


def test_describe_choices_stays_short():
    text = describe_choices("x", range(100), what="number")
    assert "(100 in all)" in text and len(text) < 120
    assert describe_choices("x", [], what="number") == '"x" is not a number. Allowed: none.'


def test_every_error_has_its_own_code_and_is_a_value_error():
    kinds = [kind for kind in vars(errors).values() if getattr(kind, "__module__", "") == errors.__name__]
    kinds = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseException)]
    assert all(issubclass(kind, ThoughtscopeError) and issubclass(kind, ValueError) for kind in kinds)
    assert len({kind.code for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("module", [site, ids, registry, errors])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0
