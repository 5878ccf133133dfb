"""Collecting examples beside delphi and SAEDashboard: a process with an interpreter each, the same files, in turns."""
