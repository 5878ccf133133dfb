"""Labels of features by a language model that is asked for them, and how well labels tell where features are active."""

from thoughtscope.atlas.explaining.baselines import shuffled as shuffled
from thoughtscope.atlas.explaining.baselines import table_score as table_score
from thoughtscope.atlas.explaining.baselines import unigram_label as unigram_label
from thoughtscope.atlas.explaining.baselines import unigram_table as unigram_table
from thoughtscope.atlas.explaining.contexts import Context as Context
from thoughtscope.atlas.explaining.contexts import Contexts as Contexts
from thoughtscope.atlas.explaining.contexts import Excerpts as Excerpts
from thoughtscope.atlas.explaining.contexts import contexts_of as contexts_of
from thoughtscope.atlas.explaining.explain import EXPLAINERS as EXPLAINERS
from thoughtscope.atlas.explaining.explain import Explanation as Explanation
from thoughtscope.atlas.explaining.explain import explain as explain
from thoughtscope.atlas.explaining.inside import embedding_scores as embedding_scores
from thoughtscope.atlas.explaining.inside import surprisal_scores as surprisal_scores
from thoughtscope.atlas.explaining.neighbours import firing_together as firing_together
from thoughtscope.atlas.explaining.neighbours import nearest_decoders as nearest_decoders
from thoughtscope.atlas.explaining.scorers import Detection as Detection
from thoughtscope.atlas.explaining.scorers import Fuzzing as Fuzzing
from thoughtscope.atlas.explaining.scorers import Simulation as Simulation
from thoughtscope.atlas.explaining.scorers import score as score
from thoughtscope.atlas.explaining.scores import Case as Case
from thoughtscope.atlas.explaining.scores import Score as Score
from thoughtscope.atlas.explaining.scores import averaged as averaged
