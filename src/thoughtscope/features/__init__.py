"""What is known of a dictionary's features from real text: examples, histograms, outputs, labels."""

from thoughtscope.features.bank import FeatureBank as FeatureBank
from thoughtscope.features.bank import bank_of as bank_of
from thoughtscope.features.collect import collect_examples as collect_examples
from thoughtscope.features.labels import LabelStore as LabelStore
from thoughtscope.features.labels import auto_label as auto_label
