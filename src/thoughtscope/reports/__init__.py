"""Graphs and outcomes as data for the page, and as one HTML file that opens from disk; dictionaries by their scores."""

from thoughtscope.reports.atlas import AtlasPage as AtlasPage
from thoughtscope.reports.curves import Curves as Curves
from thoughtscope.reports.curves import build_curves as build_curves
from thoughtscope.reports.pareto import ParetoPage as ParetoPage
from thoughtscope.reports.pareto import ParetoPoint as ParetoPoint
from thoughtscope.reports.pareto import pareto_page as pareto_page
from thoughtscope.reports.report import Report as Report
from thoughtscope.reports.report import build_report as build_report
