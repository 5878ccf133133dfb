"""Activations → features: dictionaries, their formats, their check on load, their training and their scores."""

from thoughtscope.dictionaries.activation import Activation as Activation
from thoughtscope.dictionaries.dictionary import Dictionary as Dictionary
from thoughtscope.dictionaries.dictionary import LayerWeights as LayerWeights
from thoughtscope.dictionaries.dictionary import Probe as Probe
from thoughtscope.dictionaries.dictionary import check_fits as check_fits
from thoughtscope.dictionaries.dictionary import parse_sites as parse_sites
from thoughtscope.dictionaries.dictionary import resident as resident
from thoughtscope.dictionaries.features import Features as Features
from thoughtscope.dictionaries.features import decode as decode
from thoughtscope.dictionaries.features import encode as encode
from thoughtscope.dictionaries.loading import load_dictionary as load_dictionary
from thoughtscope.dictionaries.loading import save_dictionary as save_dictionary
from thoughtscope.dictionaries.preflight import Preflight as Preflight
from thoughtscope.dictionaries.preflight import preflight as preflight
from thoughtscope.dictionaries.preflight import with_probe as with_probe
from thoughtscope.dictionaries.scores import DictionaryScores as DictionaryScores
from thoughtscope.dictionaries.scores import Replacement as Replacement
from thoughtscope.dictionaries.scores import declare as declare
from thoughtscope.dictionaries.scores import evaluate_dictionary as evaluate_dictionary
from thoughtscope.dictionaries.training import TrainConfig as TrainConfig
from thoughtscope.dictionaries.training import train_dictionary as train_dictionary
