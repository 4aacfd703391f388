"""Apicurio Registry, which offers Confluent's REST API, with its data in a file.

Its own compatibility rules stay off, as by default: Counterfoil checks topics itself, and the
registry's rule for Protobuf can't read a schema given as a descriptor.
"""

import shutil
import urllib.request

from counterfoil.engines import packages
from counterfoil.engines.errors import NotInstalled
from counterfoil.engines.server import CONNECT_SECONDS, HOST, Launch, Place, Server, Tell

VERSION = "3.0.9"
"""The newest that runs on Java 17; 3.3 requires 21."""
HEAP = "256m"
_NAME = f"apicurio-registry-{VERSION}"
_ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"


class Registry(Server):
    """The registry from its published archive; without authentication, on loopback."""

    kind = "registry"
    scheme = "http://"
    path = "/apis/ccompat/v7"
    start_seconds = 120.0

    def install(self, tell: Tell) -> None:
        if not shutil.which("java"):
            raise NotInstalled("java is missing", hint="apt-get install openjdk-17-jre-headless")
        packages.archive(_NAME, _ARTIFACT, tell)

    def prepare(self, place: Place) -> Launch:
        settings = {
            "quarkus.http.host": HOST,
            "quarkus.http.port": place.port,
            "quarkus.http.access-log.enabled": "false",
            "quarkus.log.level": "WARN",
            "apicurio.storage.sql.kind": "h2",
            # By default H2 acknowledges a commit half a second before it writes it.
            "apicurio.datasource.url": f"jdbc:h2:file:{place.folder}/registry;WRITE_DELAY=0",
        }
        command = ["java", f"-Xmx{HEAP}", "-XX:+UseSerialGC"]
        command += [f"-D{name}={value}" for name, value in settings.items()]
        jar = packages.home() / _NAME / f"apicurio-registry-app-{VERSION}-runner.jar"
        return Launch([*command, "-jar", str(jar)])

    def answers(self, place: Place) -> bool:
        address = f"{self.address(place.port)}/subjects"
        try:
            with urllib.request.urlopen(address, timeout=CONNECT_SECONDS):
                return True
        except OSError:
            return False
