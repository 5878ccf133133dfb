"""Interventions: change features, supernodes or directions in the running model and see what the answer does."""

from thoughtscope.interventions.control import random_control as random_control
from thoughtscope.interventions.edits import FeatureEdit as FeatureEdit
from thoughtscope.interventions.outcome import VERDICTS as VERDICTS
from thoughtscope.interventions.outcome import Control as Control
from thoughtscope.interventions.outcome import Distribution as Distribution
from thoughtscope.interventions.outcome import FeatureChange as FeatureChange
from thoughtscope.interventions.outcome import Outcome as Outcome
from thoughtscope.interventions.plans import Plan as Plan
from thoughtscope.interventions.plans import plan as plan
from thoughtscope.interventions.plans import predict as predict
from thoughtscope.interventions.prediction import Prediction as Prediction
from thoughtscope.interventions.prediction import TargetChange as TargetChange
from thoughtscope.interventions.running import intervene as intervene
from thoughtscope.interventions.running import intervene_controlled as intervene_controlled
from thoughtscope.interventions.running import intervene_many as intervene_many
from thoughtscope.interventions.streaming import stream_under as stream_under
from thoughtscope.models.edits import Edit as DirectionEdit

__all__ = [
    "VERDICTS",
    "Control",
    "DirectionEdit",
    "Distribution",
    "FeatureChange",
    "FeatureEdit",
    "Outcome",
    "Plan",
    "Prediction",
    "TargetChange",
    "intervene",
    "intervene_controlled",
    "intervene_many",
    "plan",
    "predict",
    "random_control",
    "stream_under",
]
