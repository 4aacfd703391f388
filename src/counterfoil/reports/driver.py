"""A Spark driver in this process: settings, exclusive ownership, shutdown.

A driver is two processes: this one, and the JVM that it starts. They don't die together. The JVM of
a killed Python process may live for another second and commit what it was writing, after the next
driver has read the positions that this commit moves; rows would be duplicated. So the JVM holds a
file lock, which the kernel releases when the JVM ends, and a driver starts only once it has the
lock. When it reads positions, no other driver can move them.

There is no recovery here. If its JVM or its cluster is gone, a driver raises `EngineLost`; its
process ends, and the supervisor starts another, a path that is tested anyway. A lost worker is no
such case: Spark repeats its tasks elsewhere, or waits for another worker.
"""

import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from counterfoil.reports.errors import EngineLost, ReportsError

LOCAL: Final = "local[2]"
LOCK_SECONDS: Final = 20.0
"""How long a killed driver's JVM may take to end: it first stops its jobs."""
MEANING: Final = MappingProxyType(
    {
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.ansi.enabled": "true",  # overflows and bad casts are errors, as in DuckDB
        "spark.sql.session.timeZone": "UTC",
    }
)
"""Settings that results depend on, on any cluster."""
_SHORT_RUNS: Final = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
ONE_MACHINE: Final = MappingProxyType(
    {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.executor.memory": "1g",
        "spark.executor.cores": "1",
        "spark.cores.max": "1",  # so that two drivers fit on the smallest cluster
        # Runs are short: optimizing compilation would take longer than it saves.
        "spark.driver.extraJavaOptions": _SHORT_RUNS,
        "spark.executor.extraJavaOptions": _SHORT_RUNS,
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
)
"""Small, on loopback; elsewhere these come from SPARK_CONF_DIR/spark-defaults.conf."""


class Driver:
    """The driver `name` on the cluster at `address`, or local to this process without one.

    Raises:
        ReportsError: Spark or Delta is missing, or another driver holds the file `lock`.
        EngineLost: the cluster does not answer.
    """

    def __init__(self, address: str, *, name: str, lock: Path, jars: Sequence[Path]) -> None:
        try:
            builder: Any = import_module("pyspark.sql").SparkSession.builder
        except ImportError as error:
            raise ReportsError("pyspark is missing", hint="install counterfoil[spark]") from error
        settings = dict(MEANING)
        if not address or urlsplit(address).hostname in ("127.0.0.1", "localhost"):
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
            settings |= ONE_MACHINE
        if jars:
            settings["spark.jars"] = ",".join(map(str, jars))
        try:
            self.session = (
                builder.master(address or LOCAL).appName(name).config(map=settings).getOrCreate()
            )
        except Exception as error:
            raise EngineLost(
                f"Spark did not start on {address or LOCAL}: {_first_line(error)}",
                hint="is java there, does the master answer, and are Delta's jars on its path?",
            ) from error
        self._context: Any = self.session.sparkContext
        self._context.setLogLevel("ERROR")
        self._lock = self._take(lock)

    @property
    def pid(self) -> int:
        """The JVM's process id."""
        pid: int = self._context._gateway.proc.pid
        return pid

    def close(self) -> None:
        """End the session; the JVM ends with this process."""
        self._lock.channel().close()
        self.session.stop()

    @contextmanager
    def asked(self, what: str) -> Generator[None, None, None]:
        """Turn Spark's exceptions into this package's errors.

        Raises:
            EngineLost: the driver is gone.
            ReportsError: Spark failed for another reason.
        """
        try:
            yield
        except Exception as error:
            if self._alive():
                raise ReportsError(f"{what}: {_first_line(error)}") from error
            raise EngineLost(
                f"{what}: the Spark driver or its cluster is gone: {_first_line(error)}",
                hint="this process ends; whoever supervises it starts another",
            ) from error

    def _alive(self) -> bool:
        try:
            return not self._context._jsc.sc().isStopped()
        except Exception:
            # Called after an error: if this fails too, the JVM is gone.
            return False

    def _take(self, path: Path) -> Any:
        """Lock a file in the JVM; the kernel releases the lock when the JVM ends."""
        path.parent.mkdir(parents=True, exist_ok=True)
        file: Any = self._context._jvm.java.io.RandomAccessFile(str(path), "rw")
        deadline = time.monotonic() + LOCK_SECONDS
        while (lock := file.getChannel().tryLock()) is None:
            if time.monotonic() > deadline:
                raise ReportsError(
                    f"{path} is locked by another Spark driver",
                    hint="one process at a time writes to a lake; stop the other",
                )
            time.sleep(0.05)
        return lock


def _first_line(error: Exception) -> str:
    """The first line of an error, without the JVM's stack trace."""
    # Py4JJavaError's own text is unhelpful; the JVM's message is in the exception it carries.
    thrown: Any = getattr(error, "java_exception", None)
    try:
        text = str(thrown.toString()) if thrown is not None else str(error)
    except Exception:
        text = repr(error)  # the JVM, which has the text, is gone
    return next((line for line in text.splitlines() if line.strip()), repr(error))
