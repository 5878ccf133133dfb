"""Studies: a question about a model, asked of many prompts, each with its prediction, its test and its control."""

from thoughtscope.studies.running import Case as Case
from thoughtscope.studies.running import Findings as Findings
from thoughtscope.studies.running import run_study as run_study
from thoughtscope.studies.study import STUDIES as STUDIES
from thoughtscope.studies.study import Study as Study
from thoughtscope.studies.two_hop import TWO_HOP as TWO_HOP
