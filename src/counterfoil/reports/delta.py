"""Opens and creates Delta tables for all engines, after a protocol check.

Tables use only features that both engines write, and that a plain list of their files represents
correctly. So a table created by one engine can be continued by the other, and read without either.
A reader that ignores a feature is silently wrong: deleted rows reappear (deletion vectors), columns
are empty (column mapping). So every access to a table starts here.

Source: the Delta transaction protocol, "Protocol Evolution" and "Valid Feature Names".
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

from counterfoil.reports.errors import UnknownFeature

if TYPE_CHECKING:
    import deltalake
    import pyarrow

READER_VERSION: Final = 1
WRITER_VERSION: Final = 2
"""The newest protocol without named features: appendOnly and invariants."""
NAMED_FEATURES: Final = frozenset({"appendOnly", "invariants"})


def open_table(path: Path, *, write: bool = False, version: int | None = None):
    """The Delta table in `path`, newest or at a version, after a check of its protocol.

    Raises:
        UnknownFeature: names the features that would be read or, with `write`, written wrongly.
    """
    import deltalake  # noqa: PLC0415 - heavy
    from deltalake.exceptions import DeltaError  # noqa: PLC0415

    try:
        table = deltalake.DeltaTable(str(path), version=version)
    except DeltaError as error:
        raise UnknownFeature(f"{path} can't be read: {error}", hint=_HINT) from error
    if unknown := unknown_features(table, write=write):
        done = "written" if write else "read"
        raise UnknownFeature(
            f"{path} has {', '.join(unknown)}: it can't be {done} here", hint=_HINT
        )
    return table


def unknown_features(table: "deltalake.DeltaTable", *, write: bool) -> list[str]:
    """Unsupported parts of the protocol of `table`: features by name, else versions."""
    protocol = table.protocol()
    named = set(protocol.reader_features or ())
    versions: list[str] = []
    if protocol.min_reader_version > READER_VERSION and not protocol.reader_features:
        versions.append(f"reader version {protocol.min_reader_version}")
    if write:
        named |= set(protocol.writer_features or ())
        if protocol.min_writer_version > WRITER_VERSION and not protocol.writer_features:
            versions.append(f"writer version {protocol.min_writer_version}")
    return [*sorted(named - NAMED_FEATURES), *versions]


def data_files(path: Path, table: "deltalake.DeltaTable") -> dict[str, str]:
    """The table's data files, each with its partition."""
    # `file_uris` would percent-encode spaces and percent signs of the folder.
    (day,) = table.metadata().partition_columns
    added: Any = table.get_add_actions(flatten=True)  # an Arrow table of another library
    names: list[str] = added["path"].to_pylist()
    days: list[str] = added[f"partition.{day}"].to_pylist()
    return {str(path / unquote(name)): value for name, value in zip(names, days, strict=True)}


def columns(table: "deltalake.DeltaTable") -> "pyarrow.Schema":
    """The table's columns as an Arrow schema."""
    import pyarrow  # noqa: PLC0415 - heavy

    exported: Any = table.schema().to_arrow()  # another library's, with Arrow's C interface
    return pyarrow.schema(exported)


def create(path: Path, schema: "pyarrow.Schema", day: str) -> None:
    """Create a table in `path` if there is none, partitioned by `day`; for all engines."""
    import deltalake  # noqa: PLC0415 - heavy

    if not (path / "_delta_log").exists():
        path.mkdir(parents=True, exist_ok=True)
        deltalake.DeltaTable.create(str(path), schema, partition_by=[day], mode="ignore")


_HINT: Final = (
    "whoever switched it on must drop it (ALTER TABLE ... DROP FEATURE name on Spark), "
    "or copy the rows into a new table"
)
