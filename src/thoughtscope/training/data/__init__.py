"""Activations to learn from: documents → contexts → forward passes → rows a site → batches."""

from thoughtscope.training.data.harvest import Feed as Feed
from thoughtscope.training.data.harvest import Harvested as Harvested
from thoughtscope.training.data.harvest import harvest as harvest
from thoughtscope.training.data.sources import Source as Source
from thoughtscope.training.data.sources import parse_source as parse_source
from thoughtscope.training.data.sources import source_of as source_of
from thoughtscope.training.data.stream import Batch as Batch
from thoughtscope.training.data.stream import HarvestStream as HarvestStream
from thoughtscope.training.data.stream import Moments as Moments
from thoughtscope.training.data.stream import Share as Share
from thoughtscope.training.data.stream import Stream as Stream
