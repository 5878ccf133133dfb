# The main path, in its order.
from thoughtscope.models import load_model as load_model
from thoughtscope.dictionaries import load_dictionary as load_dictionary
from thoughtscope.models import tokenize as tokenize
from thoughtscope.models import capture as capture
from thoughtscope.dictionaries import encode as encode
from thoughtscope.graphs import attribute as attribute
from thoughtscope.graphs import prune as prune
from thoughtscope.graphs import group as group
from thoughtscope.interventions import plan as plan
from thoughtscope.interventions import intervene as intervene
from thoughtscope.reports import build_report as build_report

# All of it opened together.
from thoughtscope.microscope import open_microscope as open_microscope
from thoughtscope.microscope import Microscope as Microscope

# What the functions take and return.
from thoughtscope.core.site import Site as Site
from thoughtscope.core.ids import FeatureId as FeatureId
from thoughtscope.core.ids import NodeId as NodeId
from thoughtscope.models import Model as Model
from thoughtscope.models import Tokens as Tokens
from thoughtscope.models import Activations as Activations
from thoughtscope.models import Edit as Edit
from thoughtscope.dictionaries import Dictionary as Dictionary
from thoughtscope.dictionaries import Features as Features
from thoughtscope.graphs import Graph as Graph
from thoughtscope.interventions import FeatureEdit as FeatureEdit
from thoughtscope.interventions import Plan as Plan
from thoughtscope.interventions import Outcome as Outcome
from thoughtscope.reports import Report as Report

__all__: list[str]
__version__: str
