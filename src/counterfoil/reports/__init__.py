"""A lake of Delta tables, and daily reports over it."""

from counterfoil.reports.definition import Commit, Found, Report, Run, Table
from counterfoil.reports.errors import ReportsError
from counterfoil.reports.lake import Lake, LakeWriter
from counterfoil.reports.runner import ReportRunner, published

__all__ = [
    "Commit",
    "Found",
    "Lake",
    "LakeWriter",
    "Report",
    "ReportRunner",
    "ReportsError",
    "Run",
    "Table",
    "published",
]
