"""Graphs and outcomes as data for the page, and as one HTML file that opens from disk."""

from thoughtscope.reports.curves import Curves as Curves
from thoughtscope.reports.curves import build_curves as build_curves
from thoughtscope.reports.report import Report as Report
from thoughtscope.reports.report import build_report as build_report
