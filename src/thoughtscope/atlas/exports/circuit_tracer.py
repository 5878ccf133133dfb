"""circuit-tracer's feature files: `features/SCAN/NUMBER.json`, as its viewer asks for them beside a graph.

NUMBER is layer and index as one number (Cantor's pairing), as graph files carry it. A name that somebody gave, or the
automatic one, stands in `label`, which other viewers pass over.
"""

from __future__ import annotations

from pathlib import Path

from thoughtscope.atlas.exports.formats import FEATURE_FORMATS, Exported, FeatureFormat, write_json
from thoughtscope.core.errors import ThoughtscopeError
from thoughtscope.core.ids import feature_number, plain_name
from thoughtscope.core.progress import Progress


def write(exported: Exported, folder: Path, progress: Progress) -> list[Path]:
    """A file for each feature that ever fired. Layers are those of the parts, of which each may have one only."""
    bank, dictionary = exported.atlas.bank, exported.atlas.dictionary
    layers = [part.layer for part in dictionary.parts]
    if len(set(layers)) < len(layers):
        raise ThoughtscopeError(
            f"{dictionary.name} has several parts in one layer ({layers}), so layer and index do not name its "
            "features. Export it as sae-dashboard or neuronpedia, which have a folder for each part."
        )
    home = folder / "features" / (plain_name(bank.scan, 100) or "features")
    written: list[Path] = []
    for done, number in enumerate(exported.parts):
        part = dictionary.parts[number]
        automatic = bank.auto_labels(number)
        for index in bank.layers[number].count.nonzero().flatten().tolist():
            label = exported.label(number, index, automatic[index])
            detail = {
                **bank.detail(number, index),
                "layer": part.layer,
                "label": label[0] if label else "",
                "label_by": label[1] if label else None,
            }
            written.append(write_json(home / f"{feature_number(part.layer, index)}.json", detail))
        progress("features", done + 1, len(exported.parts))
    return written


FEATURE_FORMATS.register("circuit-tracer")(
    FeatureFormat(what="a JSON file for each feature, as circuit-tracer's viewer reads them", write=write)
)
