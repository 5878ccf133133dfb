"""Dictionaries at scale: activations streamed from a model or a store, recipes, steps, exact resume."""

from thoughtscope.training import recipes as recipes
from thoughtscope.training.ranks import Ranks as Ranks
from thoughtscope.training.ranks import ranks_here as ranks_here
from thoughtscope.training.recipe import Recipe as Recipe
from thoughtscope.training.run import train as train
from thoughtscope.training.run import train_dictionary as train_dictionary
from thoughtscope.training.together import train_together as train_together
