"""`FeatureBank`: for every feature the texts on which it fires, how strongly and how often, and what it writes.

The scanned text is stored once as token ids; an example is the number of a token in it. What a feature does around
that token is kept sparsely, so a bank of 6,000 features takes a few megabytes. Tensors are read when they are used.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from thoughtscope.atlas.labels import Shown, auto_label, label_of, plain_word
from thoughtscope.atlas.made_labels import MadeLabel, MadeLabels
from thoughtscope.atlas.picking import windows_of
from thoughtscope.atlas.soundness import check_bank
from thoughtscope.core.errors import CorruptArtefact, UnknownFeature
from thoughtscope.core.store import is_artefact, load_artefact, save_artefact

if TYPE_CHECKING:
    from thoughtscope.dictionaries import Dictionary

KIND = "features"
FOLDER = "features"
"""Where a bank lies inside its dictionary's folder."""


@dataclass(frozen=True, kw_only=True)
class LayerRecords:
    """The features of one layer. `offsets` slice the flat lists: feature f has examples `example_offsets[f:f+2]`."""

    count: Int[Tensor, " feature"]
    "Tokens on which the feature was active."
    histogram: Int[Tensor, "feature bin"]
    "Counts of activations in equal bins from 0 to the feature's maximum."
    quantiles: Float[Tensor, "feature quantile"]
    "Activation at 0, 25, 50, 75 and 100 % of the active tokens."
    top_logits: Int[Tensor, "feature rank"]
    bottom_logits: Int[Tensor, "feature rank"]
    output_strength: Float[Tensor, " feature"]
    "By how many standard deviations of the vocabulary the most raised token stands out."
    example_offsets: Int[Tensor, " feature+1"]
    example_token: Int[Tensor, " example"]
    "Number of the token, in the scanned text, at which the example peaks."
    example_group: UInt8[Tensor, " example"]
    active_offsets: Int[Tensor, " example+1"]
    active_token: Int[Tensor, " active"]
    active_value: Float[Tensor, " active"]
    effect_offsets: Int[Tensor, " example+1"] | None = None
    "Of the tokens shown of each example for which `loss_effects` was asked; none for the others."
    effect_value: Float[Tensor, " shown"] | None = None
    "By how many nats a token's loss rises without the feature."

    def tensors(self) -> dict[str, Tensor]:
        """Those that there are, by name."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureBank:
    """Examples and figures for every feature of one dictionary. `detail` speaks circuit-tracer's feature JSON."""

    dictionary_name: str
    scan: str
    model_name: str
    n_features: int
    groups: tuple[str, ...]
    window: tuple[int, int]
    "Tokens shown before and after an example's peak."
    pieces: Mapping[int, str]
    ids: Int[Tensor, " pos"]
    starts: Int[Tensor, " start"]
    "Where each document starts in `ids`; the last entry is the number of tokens."
    layers: tuple[LayerRecords, ...]
    made: MadeLabels | None = None
    """Labels that were made and tried; they are kept beside the bank, not in it."""

    @property
    def n_tokens(self) -> int:
        return len(self.ids)

    def detail(self, layer: int, index: int) -> dict[str, Any]:
        """What is known of a feature, in the fields of circuit-tracer's and Neuronpedia's feature files.

        Raises `UnknownFeature` naming the allowed range.
        """
        records = self._records(layer, index)
        examples: dict[int, list[dict[str, Any]]] = {}
        for number in range(int(records.example_offsets[index]), int(records.example_offsets[index + 1])):
            group = int(records.example_group[number])
            examples.setdefault(group, []).append(self._example(records, number))
        quantiles = records.quantiles[index].tolist()
        return {
            "transcoder_id": self.scan,
            "layer": layer,
            "index": index,
            "examples_quantiles": [
                {"quantile_name": name, "examples": examples[group]}
                for group, name in enumerate(self.groups)
                if group in examples
            ],
            "top_logits": [self.pieces[token] for token in records.top_logits[index].tolist()],
            "bottom_logits": [self.pieces[token] for token in records.bottom_logits[index].tolist()],
            "output_strength": round(float(records.output_strength[index]), 3),
            "act_min": quantiles[0],
            "act_max": quantiles[-1],
            "quantile_values": quantiles,
            "histogram": records.histogram[index].tolist(),
            "activation_frequency": int(records.count[index]) / max(1, self.n_tokens),
        }

    def auto_label(self, layer: int, index: int) -> str | None:
        """A label that was made and tried, or else a guess from the examples and the outputs; None for a feature that
        never fired. Raises `UnknownFeature`.
        """
        made = self.made_label(layer, index)
        return made.text if made is not None else auto_label(self.detail(layer, index)) or None

    def made_label(self, layer: int, index: int) -> MadeLabel | None:
        """The label that was made of a feature, with what it was worth when tried. Raises `UnknownFeature`."""
        self._records(layer, index)
        return None if self.made is None else self.made.get(layer, index)

    def called(self, made: MadeLabels | None) -> FeatureBank:
        """The same bank with these labels; without those of another dictionary."""
        return replace(self, made=made if made is not None and made.scan == self.scan else None)

    def auto_labels(self, layer: int) -> list[str]:
        """The labels of all features of a layer, as `auto_label` has them; empty for one that never fired."""
        records, words = (
            self.layers[layer],
            {token: plain_word(piece) for token, piece in self.pieces.items()},
        )
        strongest = records.example_group.numpy() == 0
        ends = np.cumsum(strongest)[records.example_offsets.numpy()[1:] - 1] * (records.count.numpy() > 0)
        at = records.example_token.numpy()[strongest]
        around = [[words.get(token, "") for token in row.tolist()] for row in self._around(at)]
        raised = records.top_logits.tolist()
        strength = records.output_strength.float().tolist()
        labels, start = [], 0
        for feature, end in enumerate(np.maximum.accumulate(ends).tolist()):
            before, peaks, after = (each[start:end] for each in around)
            tops = [words[token] for token in raised[feature]]
            labels.append(
                label_of(
                    Shown(
                        before=before,
                        peaks=peaks,
                        after=after,
                        raised=tops,
                        strength=round(strength[feature], 3),
                    )
                )
            )
            start = end
        made = {} if self.made is None else self.made.labels
        return [
            made[layer, index].text if (layer, index) in made else each for index, each in enumerate(labels)
        ]

    def largest(self, layer: int, index: int) -> float | None:
        """The largest activation in the scanned text; None for a feature that never fired. Raises `UnknownFeature`."""
        records = self._records(layer, index)
        return float(records.quantiles[index, -1]) if int(records.count[index]) else None

    def density(self, layer: int, index: int) -> float:
        """On what share of the scanned tokens a feature was active. Raises `UnknownFeature`."""
        return int(self._records(layer, index).count[index]) / max(1, self.n_tokens)

    def peaks(self, layer: int, index: int, n: int) -> tuple[str, ...]:
        """The tokens at which a feature's strongest examples peak, the commonest first. Raises `UnknownFeature`."""
        records = self._records(layer, index)
        examples = slice(int(records.example_offsets[index]), int(records.example_offsets[index + 1]))
        at = records.example_token[examples][records.example_group[examples] == 0]
        found = Counter(self.pieces[token] for token in self.ids[at.long()].tolist())
        return tuple(piece for piece, _ in found.most_common(n))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the bank as an artefact. People's labels are no part of it."""
        meta = {
            "dictionary_name": self.dictionary_name,
            "scan": self.scan,
            "model_name": self.model_name,
            "n_features": self.n_features,
            "groups": list(self.groups),
            "window": list(self.window),
            "pieces": {str(token): piece for token, piece in self.pieces.items()},
            "n_layers": len(self.layers),
        }
        tensors = {f"layer_{number}": records.tensors() for number, records in enumerate(self.layers)}
        return save_artefact(
            path, kind=KIND, tensors={"text": {"ids": self.ids, "starts": self.starts}, **tensors}, meta=meta
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> FeatureBank:
        """Opens a saved bank. Raises `CorruptArtefact` naming the file."""
        artefact = load_artefact(path, kind=KIND)
        meta = dict(artefact.meta)
        try:
            n_layers = meta.pop("n_layers")
            layers = tuple(
                LayerRecords(**dict(artefact.tensors(f"layer_{number}").items()))
                for number in range(n_layers)
            )
            text = artefact.tensors("text")
            fields: dict[str, Any] = {
                "groups": tuple(meta.pop("groups")),
                "window": tuple(meta.pop("window")),
                "pieces": {int(token): piece for token, piece in meta.pop("pieces").items()},
            }
            bank = cls(**meta, **fields, ids=text["ids"], starts=text["starts"], layers=layers)
            check_bank(bank)
            return bank
        except CorruptArtefact:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            raise CorruptArtefact(
                f"{path} is a feature bank with unreadable content: {error!r:.300}."
            ) from None

    def _records(self, layer: int, index: int) -> LayerRecords:
        n_features = len(self.layers[layer].count) if 0 <= layer < len(self.layers) else 0
        if not 0 <= index < n_features:
            within = f", with features 0 to {n_features - 1} in layer {layer}" if n_features else ""
            raise UnknownFeature(
                f"Dictionary {self.dictionary_name} has layers 0 to {len(self.layers) - 1}{within}; got layer {layer}, "
                f"feature {index}."
            )
        return self.layers[layer]

    def _around(self, at: Int[np.ndarray, " example"]) -> Int[np.ndarray, "3 example"]:
        """The tokens before, at and after some places, -1 beyond a document's ends and beyond what is shown."""
        ids, starts = self.ids.numpy(), self.starts.numpy()
        document = np.searchsorted(starts, at, side="right") - 1
        before = np.where((at > starts[document]) & (self.window[0] > 0), ids[at - 1], -1)
        last = at + 1 >= starts[document + 1]
        after = np.where(last | (self.window[1] < 1), -1, ids[np.minimum(at + 1, len(ids) - 1)])
        return np.stack([before, ids[at], after])

    def _example(self, records: LayerRecords, number: int) -> dict[str, Any]:
        peak = int(records.example_token[number])
        start, end = window_of(self.starts.numpy(), peak, self.window)
        values = [0.0] * (end - start)
        active = slice(int(records.active_offsets[number]), int(records.active_offsets[number + 1]))
        tokens, strengths = records.active_token[active].tolist(), records.active_value[active].tolist()
        for token, strength in zip(tokens, strengths, strict=True):
            values[token - start] = round(strength, 4)
        found = {
            "tokens_acts_list": values,
            "train_token_ind": peak - start,
            "is_repeated_datapoint": False,
            "tokens": [self.pieces[token] for token in self.ids[start:end].tolist()],
        }
        if records.effect_offsets is not None and records.effect_value is not None:
            shown = slice(int(records.effect_offsets[number]), int(records.effect_offsets[number + 1]))
            effects = records.effect_value[shown].tolist()
            return found | (
                {"loss_effects_list": [round(effect, 5) for effect in effects]} if effects else {}
            )
        return found


def window_of(starts: Int[np.ndarray, " start"], peak: int, window: tuple[int, int]) -> tuple[int, int]:
    """The tokens shown around a peak: a stretch of its own document."""
    first, end = windows_of(starts, np.array([peak]), window)
    return int(first[0]), int(end[0])


def bank_of(dictionary: Dictionary) -> FeatureBank | None:
    """The bank that lies with a loaded dictionary (its folder's `features/`), or None if there is none.

    Raises `CorruptArtefact` for a damaged one.
    """
    folder = dictionary.card.folder
    if folder is None or not is_artefact(folder / FOLDER, kind=KIND):
        return None
    return FeatureBank.load(folder / FOLDER)
