"""Downloads programs through standard package managers."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from counterfoil.engines.errors import NotInstalled
from counterfoil.engines.server import Tell


def home() -> Path:
    """The folder of downloaded programs, in the user's cache, shared by all checkouts."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "counterfoil" / "engines"


@contextmanager
def _alone() -> Generator[None, None, None]:
    """A lock between processes: concurrent package managers fail, or corrupt each other's work."""
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "fetching.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def new_folder(name: str) -> Generator[Path | None, None, None]:
    """A folder to fill below `home()`, or None if it exists.

    It is renamed to its final name when the block succeeds, so existing folders are complete. Only
    one process at a time fills it.
    """
    folder = home() / name
    if folder.exists():
        yield None
        return
    with _alone():
        if folder.exists():
            yield None
            return
        temporary = folder.with_name(f"{name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        temporary.rename(folder)


def debian(program: str, package: str, tell: Tell) -> None:
    """Install a Debian package if its program is missing and this is root on Debian.

    Raises:
        NotInstalled: it is still missing.
    """
    if shutil.which(program):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        tell(f"installing {package}")
        # In runlevel 1, packages don't start their services.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        with _alone():
            if not shutil.which(program):
                run(["apt-get", "update", "-qq"], environment=environment)
                run(install, environment=environment)
    if not shutil.which(program):
        raise NotInstalled(f"{program} is missing", hint=f"apt-get install {package}")


def jars(name: str, dependencies: Sequence[str], tell: Tell) -> Path:
    """A folder with these Maven artifacts (`group:artifact:version`) and their dependencies.

    Raises:
        NotInstalled: Maven is missing, or could not download them.
    """
    with new_folder(name) as folder:
        if folder is not None:
            _maven(folder, tell, ", ".join(dependencies), dependencies, "copy-dependencies")
    return home() / name


def archive(name: str, artifact: str, tell: Tell) -> Path:
    """A folder with the contents of a Maven artifact (`group:artifact:version:type:classifier`).

    Raises:
        NotInstalled: Maven is missing, or could not download it.
    """
    with new_folder(name) as folder:
        if folder is not None:
            _maven(folder, tell, artifact, [], "unpack", f"-Dartifact={artifact}")
    return home() / name


def _maven(
    folder: Path, tell: Tell, what: str, dependencies: Sequence[str], goal: str, *options: str
) -> None:
    """Fill a folder by a goal of Maven's dependency plugin."""
    if not shutil.which("mvn"):
        raise NotInstalled("mvn is missing", hint="apt-get install maven")
    tell(f"fetching {what}")
    pom = folder / "pom.xml"  # otherwise it would write marker files to the current directory
    pom.write_text(_pom(dependencies))
    command = ["mvn", "-B", "-q", "-f", str(pom), f"dependency:{goal}"]
    run([*command, *options, f"-DoutputDirectory={folder}"])


def go(name: str, package: str, tell: Tell) -> Path:
    """A program built from a Go package (`path@version`).

    Raises:
        NotInstalled: Go is missing, or could not download or build it.
    """
    with new_folder(name) as folder:
        if folder is not None:
            if not shutil.which("go"):
                raise NotInstalled("go is missing", hint="apt-get install golang")
            tell(f"building {package}")
            run(["go", "install", package], environment={**os.environ, "GOBIN": str(folder)})
    program = package.partition("@")[0].rpartition("/")[2]
    return home() / name / program


def run(command: Sequence[str], *, environment: dict[str, str] | None = None) -> None:
    """Run a package manager.

    Raises:
        NotInstalled: it failed; the last lines of its output say why.
    """
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, stdin=None
    )
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-5:])
        raise NotInstalled(f"{command[0]} ended with {done.returncode}\n{last}")


def _pom(dependencies: Sequence[str]) -> str:
    wanted = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>"
        f"<version>{version}</version></dependency>"
        for group, artifact, version in (each.split(":") for each in dependencies)
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>counterfoil</groupId><artifactId>engine</artifactId><version>1</version>"
        f"<dependencies>{wanted}</dependencies></project>"
    )
