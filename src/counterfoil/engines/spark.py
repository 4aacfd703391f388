"""Apache Spark from the pyspark package, as a standalone cluster of a master and workers."""

import importlib.util
import os
import shutil
from pathlib import Path

from counterfoil.engines import packages
from counterfoil.engines.errors import NotInstalled
from counterfoil.engines.server import HOST, Launch, Place, Server, Tell

DELTA = "4.4.0"
CORES = 2
MEMORY = "2g"
WORKER_SECONDS = 15
"""A worker silent for this long is lost; a restarted master waits this long for its workers."""
_JARS = f"delta-spark-{DELTA}"
_DEPENDENCIES = (f"io.delta:delta-spark_4.2_2.13:{DELTA}",)


def delta_jars() -> list[Path]:
    """Delta's jars for Spark; their other dependencies are part of Spark."""
    folder = packages.home() / _JARS
    return sorted([*folder.glob("delta-*.jar"), *folder.glob("unitycatalog-*.jar")])


class _Spark(Server):
    main: str

    def install(self, tell: Tell) -> None:
        if importlib.util.find_spec("pyspark") is None:
            raise NotInstalled("pyspark is missing", hint="install counterfoil[spark]")
        if not shutil.which("java"):
            raise NotInstalled("java is missing", hint="apt-get install openjdk-17-jre-headless")
        packages.jars(_JARS, _DEPENDENCIES, tell)

    def _launch(self, place: Place, *arguments: str) -> Launch:
        found = importlib.util.find_spec("pyspark")
        assert found is not None and found.origin is not None, "installed before"
        spark_home = Path(found.origin).parent
        command = [str(spark_home / "bin" / "spark-class"), self.main]
        command += ["--host", HOST, *arguments]
        environment = {
            "SPARK_HOME": str(spark_home),
            "SPARK_LOCAL_IP": HOST,
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_DAEMON_JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            "SPARK_LOG_DIR": str(place.folder),
            "PATH": os.environ.get("PATH", ""),
        }
        return Launch(command, environment)


class SparkMaster(_Spark):
    """Assigns workers to applications."""

    kind = "spark-master"
    scheme = "spark://"
    main = "org.apache.spark.deploy.master.Master"

    def prepare(self, place: Place) -> Launch:
        # A master that lost its state would leave applications without executors forever. The
        # state is valid for this run only: in the next one, workers have other ports.
        memory = place.folder / f"recovery-{place.port}"
        memory.mkdir(exist_ok=True)
        options = {
            "spark.deploy.recoveryMode": "FILESYSTEM",
            "spark.deploy.recoveryDirectory": memory,
            "spark.worker.timeout": WORKER_SECONDS,
        }
        launch = self._launch(place, "--port", str(place.port), "--webui-port", "0")
        given = " ".join(f"-D{name}={value}" for name, value in options.items())
        return Launch(launch.command, {**launch.environment, "SPARK_MASTER_OPTS": given})


class SparkWorker(_Spark):
    """Runs the executors of applications."""

    kind = "spark-worker"
    main = "org.apache.spark.deploy.worker.Worker"

    def prepare(self, place: Place) -> Launch:
        work = str(place.folder / "work")
        # The known port is that of its web UI. It serves on a new port each time: a recovering
        # master takes a returning worker with the same port for the old one, and drops it.
        ports = ("--port", "0", "--webui-port", str(place.port))
        resources = ("-c", str(CORES), "-m", MEMORY, "-d", work)
        return self._launch(place, *ports, *resources, place.target)
