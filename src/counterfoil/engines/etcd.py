"""etcd: coordination. It is built from its Go module, since there is no published package."""

import json
import shutil
import urllib.error
import urllib.request

from counterfoil.engines import packages
from counterfoil.engines.errors import NotInstalled
from counterfoil.engines.server import CONNECT_SECONDS, HOST, Launch, Place, Server, Tell

VERSION = "3.7.3"
QUOTA = 256 * 1024 * 1024
_FOLDER = f"etcd-{VERSION}"
_MAIN = """package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
"""


class Etcd(Server):
    """A single member."""

    kind = "etcd"
    scheme = "http://"

    def install(self, tell: Tell) -> None:
        with packages.new_folder(_FOLDER) as folder:
            if folder is None:
                return
            if not shutil.which("go"):
                raise NotInstalled("go is missing, and etcd is built with it", hint="install Go")
            tell(f"building etcd {VERSION}: about two minutes")
            (folder / "main.go").write_text(_MAIN)
            go = ["go", "-C", str(folder)]
            packages.run([*go, "mod", "init", "counterfoil/etcd"])
            packages.run([*go, "get", f"go.etcd.io/etcd/server/v3@v{VERSION}"])
            packages.run([*go, "build", "-o", "etcd", "."])

    def prepare(self, place: Place) -> Launch:
        client = f"http://{HOST}:{place.port}"
        return Launch(
            [
                str(packages.home() / _FOLDER / "etcd"),
                *("--name", "one", "--data-dir", str(place.folder / "data")),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                # It has no peers: the peer port is chosen by the system and never used.
                *("--listen-peer-urls", f"http://{HOST}:0"),
                *("--initial-advertise-peer-urls", f"http://{HOST}:1"),
                *("--initial-cluster", f"one=http://{HOST}:1"),
                f"--quota-backend-bytes={QUOTA}",
                *("--auto-compaction-mode", "periodic", "--auto-compaction-retention", "10m"),
                *("--log-level", "warn"),
            ]
        )

    def answers(self, place: Place) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://{HOST}:{place.port}/health", timeout=CONNECT_SECONDS
            ) as answer:
                return json.load(answer)["health"] == "true"
        except (urllib.error.URLError, OSError):
            return False
