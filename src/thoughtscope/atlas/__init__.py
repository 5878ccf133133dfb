"""What is known of a dictionary's features from real text: examples, histograms, outputs, labels, concepts."""

from thoughtscope.atlas.ablation import Ablations as Ablations
from thoughtscope.atlas.ablation import ablations as ablations
from thoughtscope.atlas.ablation import loss_effects as loss_effects
from thoughtscope.atlas.bank import FeatureBank as FeatureBank
from thoughtscope.atlas.bank import bank_of as bank_of
from thoughtscope.atlas.collect import bank_of_recording as bank_of_recording
from thoughtscope.atlas.collect import collect_examples as collect_examples
from thoughtscope.atlas.concepts import Concept as Concept
from thoughtscope.atlas.concepts import Reading as Reading
from thoughtscope.atlas.concepts import concepts_of as concepts_of
from thoughtscope.atlas.concepts import load_concepts as load_concepts
from thoughtscope.atlas.concepts import name_nodes as name_nodes
from thoughtscope.atlas.concepts import read_concepts as read_concepts
from thoughtscope.atlas.concepts import save_concepts as save_concepts
from thoughtscope.atlas.labels import auto_label as auto_label
from thoughtscope.atlas.recording import Recording as Recording
from thoughtscope.atlas.recording import load_recording as load_recording
from thoughtscope.atlas.recording import record as record
from thoughtscope.atlas.search import Found as Found
from thoughtscope.atlas.search import find_text as find_text
from thoughtscope.atlas.teaching import ConceptTable as ConceptTable
from thoughtscope.atlas.teaching import Occurrence as Occurrence
from thoughtscope.atlas.teaching import learn_concept as learn_concept
