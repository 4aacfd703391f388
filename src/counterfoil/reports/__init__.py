"""A lake of Delta tables, and daily reports over it."""

from counterfoil.reports.definition import Batch, Found, Report, Run, Table
from counterfoil.reports.embedded import Embedded
from counterfoil.reports.engine import Engine
from counterfoil.reports.errors import (
    AlreadyMoved,
    EngineLost,
    QueryRefused,
    ReportsError,
    RowRefused,
    UnknownFeature,
)
from counterfoil.reports.lake import Lake, LakeWriter
from counterfoil.reports.runner import ReportRunner, check_tables, published

__all__ = [
    "AlreadyMoved",
    "Batch",
    "Embedded",
    "Engine",
    "EngineLost",
    "Found",
    "Lake",
    "LakeWriter",
    "QueryRefused",
    "Report",
    "ReportRunner",
    "ReportsError",
    "RowRefused",
    "Run",
    "Table",
    "UnknownFeature",
    "check_tables",
    "published",
]
