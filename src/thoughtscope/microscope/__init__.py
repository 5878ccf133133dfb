"""The microscope: a model, the dictionary that fits it and what is known of its features, opened together.

The verbs here are what the command line, a notebook and the server all call. Nothing heavy is imported before it is
used.
"""

from thoughtscope.microscope.answering import answer as answer
from thoughtscope.microscope.answering import answered as answered
from thoughtscope.microscope.answering import turned as turned
from thoughtscope.microscope.atlas import atlas_page as atlas_page
from thoughtscope.microscope.effects import Effect as Effect
from thoughtscope.microscope.effects import Effects as Effects
from thoughtscope.microscope.effects import effects as effects
from thoughtscope.microscope.features import Known as Known
from thoughtscope.microscope.features import Largest as Largest
from thoughtscope.microscope.features import feature as feature
from thoughtscope.microscope.features import feature_of_viewer as feature_of_viewer
from thoughtscope.microscope.features import known as known
from thoughtscope.microscope.features import label as label
from thoughtscope.microscope.features import largest as largest
from thoughtscope.microscope.folder import UnusedFile as UnusedFile
from thoughtscope.microscope.folder import WorkFolder as WorkFolder
from thoughtscope.microscope.folder import slug_of as slug_of
from thoughtscope.microscope.folder import user_labels as user_labels
from thoughtscope.microscope.following import activations as activations
from thoughtscope.microscope.intervening import Change as Change
from thoughtscope.microscope.intervening import intervene as intervene
from thoughtscope.microscope.keeping import arrange as arrange
from thoughtscope.microscope.keeping import intervene_kept as intervene_kept
from thoughtscope.microscope.keeping import keep as keep
from thoughtscope.microscope.keeping import keep_file as keep_file
from thoughtscope.microscope.keeping import keep_query as keep_query
from thoughtscope.microscope.keeping import kept_file as kept_file
from thoughtscope.microscope.keeping import kept_graph as kept_graph
from thoughtscope.microscope.keeping import lay_out as lay_out
from thoughtscope.microscope.keeping import page_graph as page_graph
from thoughtscope.microscope.keeping import page_snapshot as page_snapshot
from thoughtscope.microscope.keeping import pin as pin
from thoughtscope.microscope.keeping import report as report
from thoughtscope.microscope.keeping import score_part as score_part
from thoughtscope.microscope.opening import Microscope as Microscope
from thoughtscope.microscope.opening import open_microscope as open_microscope
from thoughtscope.microscope.reading import Readings as Readings
from thoughtscope.microscope.reading import Strength as Strength
from thoughtscope.microscope.reading import like as like
from thoughtscope.microscope.reading import readings as readings
from thoughtscope.microscope.searching import Match as Match
from thoughtscope.microscope.searching import search as search
from thoughtscope.microscope.tracing import Prompt as Prompt
from thoughtscope.microscope.tracing import heard as heard
from thoughtscope.microscope.tracing import tokens_of as tokens_of
from thoughtscope.microscope.tracing import trace as trace
