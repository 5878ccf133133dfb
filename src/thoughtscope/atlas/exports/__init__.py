"""Features in the layouts of other tools: SAEDashboard's, Neuronpedia's, circuit-tracer's, and a Parquet table."""

from thoughtscope.atlas.exports import circuit_tracer as _circuit_tracer  # noqa: F401
from thoughtscope.atlas.exports import neuronpedia as _neuronpedia  # noqa: F401
from thoughtscope.atlas.exports import parquet as _parquet  # noqa: F401
from thoughtscope.atlas.exports import sae_dashboard as _sae_dashboard  # noqa: F401
from thoughtscope.atlas.exports.formats import FEATURE_FORMATS as FEATURE_FORMATS
from thoughtscope.atlas.exports.formats import Exported as Exported
from thoughtscope.atlas.exports.formats import FeatureFormat as FeatureFormat
from thoughtscope.atlas.exports.formats import export_features as export_features
