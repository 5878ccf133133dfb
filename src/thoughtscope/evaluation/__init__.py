"""Benchmarks of dictionaries beyond plain scores: against labels, against known features, as other tools score."""

from thoughtscope.evaluation.detection import Detection as Detection
from thoughtscope.evaluation.detection import Detector as Detector
from thoughtscope.evaluation.detection import choose_detectors as choose_detectors
from thoughtscope.evaluation.detection import detect as detect
from thoughtscope.evaluation.probing import Absorption as Absorption
from thoughtscope.evaluation.probing import Labelled as Labelled
from thoughtscope.evaluation.probing import Pooled as Pooled
from thoughtscope.evaluation.probing import Probing as Probing
from thoughtscope.evaluation.probing import absorption as absorption
from thoughtscope.evaluation.probing import fit_probe as fit_probe
from thoughtscope.evaluation.probing import pool as pool
from thoughtscope.evaluation.probing import read_labelled as read_labelled
from thoughtscope.evaluation.probing import sparse_probing as sparse_probing
from thoughtscope.evaluation.probing import targeted_perturbation as targeted_perturbation
from thoughtscope.evaluation.recovery import Recovery as Recovery
from thoughtscope.evaluation.recovery import score_recovery as score_recovery
from thoughtscope.evaluation.saebench import CoreResult as CoreResult
from thoughtscope.evaluation.saebench import saebench_core as saebench_core
from thoughtscope.evaluation.saebench import save_saebench_core as save_saebench_core
from thoughtscope.evaluation.synthetic import Hierarchy as Hierarchy
from thoughtscope.evaluation.synthetic import Spread as Spread
from thoughtscope.evaluation.synthetic import SyntheticModel as SyntheticModel
from thoughtscope.evaluation.synthetic import SyntheticSpec as SyntheticSpec
from thoughtscope.evaluation.synthetic import synth_sae_bench_16k as synth_sae_bench_16k
from thoughtscope.evaluation.synthetic import synthetic_model as synthetic_model
