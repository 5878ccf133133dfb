"""What nobody names must not change by itself: the defaults of public functions, and the limits that documents state.

A default is part of an interface: scripts rely on it, and files and figures were made with it.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest
import torch

from thoughtscope import dictionaries, graphs, interventions, models, training
from thoughtscope.core import ids
from thoughtscope.dictionaries import documents
from thoughtscope.graphs import curve, json_read, json_write, schema
from thoughtscope.interventions import edits, outcome
from thoughtscope.models import checkpoints, proofs
from thoughtscope.training import recipes

RUN = {"max_new_tokens": 0, "cache": True, "top": 10, "changes": 20, "answer": None}
BATCHES = {"context": 128, "batch_tokens": 4096}
DEFAULTS: list[tuple[Any, dict[str, Any]]] = [
    (graphs.FeatureTarget, {"position": -1}),
    (graphs.attribute, {"position": -1, "max_targets": 10, "target_mass": 0.95, "edge_floor": 0.0, "max_nodes": None,
                        "influence_bound": None, "targets": None}),
    (graphs.prune, {"node_mass": 0.8, "edge_mass": 0.98, "max_edges": None, "keep_errors": True}),
    (graphs.graph_to_json, {"node_threshold": 1.0, "extras": True, "scan": None, "slug": None}),
    (json_write.write_json, {"node_threshold": 1.0, "scan": None, "slug": None}),
    (graphs.group, {"by": "label", "groups": None}),
    (interventions.FeatureEdit, {"value": 0.0, "positions": None, "start": None}),
    (interventions.Plan, {"edits": (), "attention": "frozen", "constrained": None, "label": "", "prediction": None}),
    (interventions.intervene, RUN),
    (interventions.intervene_many, RUN | {"batch": 32}),
    (interventions.plan, {"ablate": False, "attention": "frozen", "constrained": None, "label": None}),
    (interventions.random_control, {"among": "all"}),
    (dictionaries.Dictionary, {"skip_first": True}),
    (dictionaries.transcoders, {"read": "mlp_in", "write": "mlp_out", "model_name": "", "skip_first": True}),
    (dictionaries.evaluate_dictionary, BATCHES | {"max_tokens": None}),
    (dictionaries.load_dictionary, {"preflight": True, "format": None, "model": None}),
    (dictionaries.save_dictionary, {"format": "native"}),
    (dictionaries.resident, {"dtype": torch.float32, "decoders": False, "device": None}),
    (dictionaries.encode, {"row": 0}),
    (documents.document_batches, BATCHES),
    (training.train_dictionary, {"folder": None, "name": None, "trackers": ()}),
    (training.train, {"folder": None, "name": "dictionary", "trackers": (), "device": "cpu"}),
    (recipes.sae, {"sites": "resid_post.0", "n_features": 4096, "k": 32}),
    (recipes.clt, {"n_features": 4096, "k": 16, "read": "mlp_in", "write": "mlp_out"}),
    (recipes.transcoder, {"n_features": 4096, "k": 16, "read": "mlp_in", "write": "mlp_out"}),
    (models.load_model, {"device": None, "dtype": None, "revision": None, "trust_remote_code": False}),
    (models.model_from, {"tokenizer": None, "revision": "local", "prove_sites": True}),
    (models.random_model, {"layers": 2, "seed": 0, "dtype": torch.float32, "prove_sites": True}),
    (models.tokenize, {"special_tokens": True, "bos": None, "chat": None, "max_tokens": None}),
    (models.generate, {"edits": (), "cache": True, "stop_at_end": True}),
    (models.capture, {"edits": (), "stop": True, "device": None}),
    (models.pad_left, {"filler": 0}),
    (models.Step, {"start": 0}),
    (models.BlockFacts, {"parallel": False, "window": None, "soft_cap": None}),
    (proofs.prove, {"rows": 2, "columns": 8, "seed": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "stated"), DEFAULTS, ids=lambda one: getattr(one, "__name__", ""))
def test_defaults(what: Any, stated: dict[str, Any]) -> None:
    parameters = inspect.signature(what).parameters
    assert {name: parameters[name].default for name in stated} == stated


def test_values_of_recipes_that_nobody_names() -> None:
    """Trainings of one recipe have to stay comparable."""
    recipe = recipes.clt(2)
    assert recipe.schedule.model_dump() == {
        "n_tokens": 3_000_000, "batch": 4096, "learning_rate": 1e-3, "warm_up": 0.02, "decay": 0.5, "betas": (0.9, 0.99),
        "epsilon": 1e-8, "sparsity_warm_up": 0.2, "k_start": 2.0, "dead_after": 50_000,
    }  # fmt: skip
    assert recipe.data.model_dump() == {
        "context": 128, "buffer_tokens": 393_216, "passes": 1, "rows": "bfloat16", "skip_first": True, "lanes": 8,
    }  # fmt: skip
    assert (recipe.precision, recipe.saved, recipe.seed, recipe.centre, recipe.scale) == (
        "bfloat16", "float32", 0, True, True,
    )  # fmt: skip
    assert recipe.dead is not None and recipe.dead.model_dump() == {
        "kind": "auxiliary",
        "coefficient": 1 / 32,
        "k": 64,
    }


def test_limits_are_those_that_the_documentation_states() -> None:
    """`read_json` promises 256 MiB, 200,000 nodes, 5,000,000 links; scripts hold integers up to 2**53."""
    told = graphs.read_json.__doc__ or ""
    assert f"{json_read.MAX_BYTES >> 20} MiB" in told and json_read.MAX_BYTES % 2**20 == 0
    assert f"{json_read.MAX_NODES:,} nodes" in told and f"{json_read.MAX_LINKS:,} links" in told
    assert json_read.MAX_LAYER == 1_000
    assert ids._LARGEST_NUMBER == schema._LARGEST == 2**53
    # Indices of features without one of their own: apart from each other, from real ones, and within int32.
    assert 2**28 == json_read.LORSA < 2**29 == json_read.OPAQUE < 2**31 - json_read.MAX_NODES
    assert edits.LARGEST == 1e9 and outcome.NEGLIGIBLE == 1e-3
    assert curve.STOPS[0] == 0.2 and curve.STOPS[-1] == 1 and len(curve.STOPS) == 81 == len(set(curve.STOPS))
    assert json_write.EXTRAS_VERSION == 1
    preflight = import_module(
        "thoughtscope.dictionaries.preflight"
    )  # the package has a function of that name
    assert (preflight.CONTEXT, preflight.HOPELESS, documents.POOL) == (96, 0.9, 1024)
    assert checkpoints.REACH_SECONDS == 1.5
    assert proofs._TOLERANCE[torch.float32] == 1e-4 and proofs._TOLERANCE[torch.float16] == 1e-2
    assert proofs._TOLERANCE[torch.float64] == 1e-6 and proofs._TOLERANCE[torch.bfloat16] == 6e-2
