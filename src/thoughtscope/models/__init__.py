"""Models: text → tokens → activations, with the user's own Hugging Face module left as it is."""

from thoughtscope.models.capture import Activations as Activations
from thoughtscope.models.capture import capture as capture
from thoughtscope.models.edits import Edit as Edit
from thoughtscope.models.families import BlockFacts as BlockFacts
from thoughtscope.models.families import Family as Family
from thoughtscope.models.families import NormFacts as NormFacts
from thoughtscope.models.generation import generate as generate
from thoughtscope.models.hooks import Step as Step
from thoughtscope.models.hooks import forward as forward
from thoughtscope.models.hooks import hold as hold
from thoughtscope.models.hooks import hold_pattern as hold_pattern
from thoughtscope.models.hooks import hooked as hooked
from thoughtscope.models.loading import load_model as load_model
from thoughtscope.models.loading import model_from as model_from
from thoughtscope.models.model import Model as Model
from thoughtscope.models.random_models import random_model as random_model
from thoughtscope.models.sharded import shard_model as shard_model
from thoughtscope.models.tokens import MissingBos as MissingBos
from thoughtscope.models.tokens import Tokens as Tokens
from thoughtscope.models.tokens import pad_left as pad_left
from thoughtscope.models.tokens import token_text as token_text
from thoughtscope.models.tokens import tokenize as tokenize
from thoughtscope.models.tokens import tokens_from_ids as tokens_from_ids
from thoughtscope.models.tokens import wants_bos as wants_bos
