"""What is known of a dictionary's features from real text: examples, histograms, outputs, labels."""

from thoughtscope.atlas.bank import FeatureBank as FeatureBank
from thoughtscope.atlas.bank import bank_of as bank_of
from thoughtscope.atlas.collect import collect_examples as collect_examples
from thoughtscope.atlas.labels import auto_label as auto_label
