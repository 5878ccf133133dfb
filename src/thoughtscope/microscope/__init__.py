"""The microscope: a model, the dictionary that fits it and what is known of its features, opened together."""

from thoughtscope.microscope.opening import Microscope as Microscope
from thoughtscope.microscope.opening import open_microscope as open_microscope
