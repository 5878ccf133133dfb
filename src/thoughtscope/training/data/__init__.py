"""Activations to learn from: documents → contexts → forward passes → rows a site → batches."""

from thoughtscope.core.share import Share as Share
from thoughtscope.training.data.harvest import Feed as Feed
from thoughtscope.training.data.harvest import Harvested as Harvested
from thoughtscope.training.data.harvest import harvest as harvest
from thoughtscope.training.data.moments import Moments as Moments
from thoughtscope.training.data.sources import Source as Source
from thoughtscope.training.data.sources import parse_source as parse_source
from thoughtscope.training.data.sources import source_of as source_of
from thoughtscope.training.data.store import Store as Store
from thoughtscope.training.data.store import StoreStream as StoreStream
from thoughtscope.training.data.store import load_store as load_store
from thoughtscope.training.data.stream import Batch as Batch
from thoughtscope.training.data.stream import HarvestStream as HarvestStream
from thoughtscope.training.data.stream import Stream as Stream
from thoughtscope.training.data.writing import harvest_to as harvest_to
