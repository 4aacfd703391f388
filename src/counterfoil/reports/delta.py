"""Opens and creates Delta tables, whatever the engine, after a protocol check.

Tables stay at what both engines write and what a plain list of their files answers rightly; so a
table begun by one engine can be continued by the other, and read by neither. A reader that ignores
a feature is silently wrong: deleted rows come back (deletion vectors), columns are empty (column
mapping). Every way into a table therefore asks here first.

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
    """The Delta table in `path`, newest or at a version, once its protocol was checked.

    Raises:
        UnknownFeature: names the features that this side would read or, if it is to `write`,
            write wrongly.
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
    """What in the protocol of `table` is not known here, by name where it has one."""
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
    """The files that are the table's rows, each with its partition."""
    # `file_uris` would give a folder's spaces and percent signs as in a URL.
    (day,) = table.metadata().partition_columns
    added: Any = table.get_add_actions(flatten=True)  # another library's table
    names: list[str] = added["path"].to_pylist()
    days: list[str] = added[f"partition.{day}"].to_pylist()
    return {str(path / unquote(name)): value for name, value in zip(names, days, strict=True)}


def columns(table: "deltalake.DeltaTable") -> "pyarrow.Schema":
    """The table's columns as Arrow knows them."""
    import pyarrow  # noqa: PLC0415 - heavy

    exported: Any = table.schema().to_arrow()  # another library's: it has Arrow's C interface
    return pyarrow.schema(exported)


def create(path: Path, schema: "pyarrow.Schema", day: str) -> None:
    """Have a table in `path`, partitioned by `day`; no engine makes one in another way."""
    import deltalake  # noqa: PLC0415 - heavy

    if not (path / "_delta_log").exists():
        path.mkdir(parents=True, exist_ok=True)
        deltalake.DeltaTable.create(str(path), schema, partition_by=[day], mode="ignore")


_HINT: Final = (
    "whoever switched it on must drop it (ALTER TABLE ... DROP FEATURE name on Spark), "
    "or copy the rows into a new table"
)
