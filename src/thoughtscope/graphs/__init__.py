"""Attribution graphs: attribute, prune, score, group, read and write the JSON that the published viewers take."""

from thoughtscope.graphs.attribute import attribute as attribute
from thoughtscope.graphs.graph import Certificate as Certificate
from thoughtscope.graphs.graph import Graph as Graph
from thoughtscope.graphs.graph import Scores as Scores
from thoughtscope.graphs.graph import Supernode as Supernode
from thoughtscope.graphs.graph import Target as Target
from thoughtscope.graphs.influence import influence as influence
from thoughtscope.graphs.influence import path_lengths as path_lengths
from thoughtscope.graphs.influence import score as score
from thoughtscope.graphs.json_read import graph_from_json as graph_from_json
from thoughtscope.graphs.json_read import read_json as read_json
from thoughtscope.graphs.json_write import file_ids as file_ids
from thoughtscope.graphs.json_write import graph_to_json as graph_to_json
from thoughtscope.graphs.json_write import write_json as write_json
from thoughtscope.graphs.linear import Linearised as Linearised
from thoughtscope.graphs.linear import linearise as linearise
from thoughtscope.graphs.prune import prune as prune
from thoughtscope.graphs.schema import validate_json as validate_json
from thoughtscope.graphs.supernodes import find_supernode as find_supernode
from thoughtscope.graphs.supernodes import group as group
from thoughtscope.graphs.supernodes import group_named as group_named
from thoughtscope.graphs.supernodes import grouped_edges as grouped_edges
from thoughtscope.graphs.supernodes import strongest_path as strongest_path
from thoughtscope.graphs.targets import LogitDifference as LogitDifference
