"""`counterfoil gateway`: checks, reloads and operates the gateway; makes API keys."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import cyclopts
from cyclopts import Parameter

from counterfoil.cli.certificates import certificates
from counterfoil.cli.options import Folder, State, state_folder
from counterfoil.cli.output import out
from counterfoil.errors import CounterfoilError

if TYPE_CHECKING:
    from counterfoil.supervisor.gateway_control import GatewayControl

app = cyclopts.App(name="gateway", help="Check, reload and operate the gateway; make API keys.")
app.command(certificates)


@app.command
def check(path: Folder = Path()) -> None:
    """Check the configuration in PATH as a start or a reload would. Exit 2 if it is invalid.

    Example: counterfoil gateway check examples/shop
    """
    from counterfoil.application import at_fault, load  # noqa: PLC0415
    from counterfoil.gateway.data_plane import GatewayError  # noqa: PLC0415
    from counterfoil.gateway.data_plane import check as check_gateway  # noqa: PLC0415

    gateway = load(path).gateway
    try:
        check_gateway(gateway, folder=path)
    except GatewayError as error:
        if not error.setting:
            raise
        raise at_fault(path, f"gateway.{error.setting}", str(error)) from error
    counted = f"routes: {len(gateway.routes)}, limits: {len(gateway.limits)}"
    out.print(f"the gateway's configuration can be used ({counted})", highlight=False)


@app.command
def reload(path: Folder = Path(), *, state: State = None) -> None:
    """Apply the configuration in PATH to the running gateway without losing a request.

    It is checked first, and applied completely or not at all; what did not
    change keeps its state. Addresses, TLS, threads and everything outside
    [gateway] need a restart.

    Example: counterfoil gateway reload examples/shop
    """
    check(path)
    out.print(f"configuration {_control(path, state).reload()} is in force", highlight=False)


@app.command
def drain(path: Folder = Path(), *, end: bool = False, state: State = None) -> None:
    """Accept no new clients; requests in flight are finished.

    Examples: counterfoil gateway drain examples/shop
              counterfoil gateway drain examples/shop --end

    Parameters
    ----------
    end
        Accept clients again by a restart, which loses cache, counts and held breakers.
    """
    control = _control(path, state)
    if end:
        control.restart()
        out.print("the gateway restarts: see `counterfoil status`")
    else:
        control.drain()
        out.print(
            "the gateway accepts no new clients; `counterfoil gateway drain --end` ends the drain"
        )


@app.command
def breaker(
    instance: str,
    mode: Literal["open", "closed", "auto"],
    path: Folder = Path(),
    *,
    service: str | None = None,
    state: State = None,
) -> None:
    """Force the breaker of an instance open or closed, or release it (auto).

    Example: counterfoil gateway breaker payments-1 open examples/shop

    Parameters
    ----------
    instance
        Its name, as the console and `counterfoil status` show it.
    mode
        `open`: no requests. `closed`: requests, whatever it answers. `auto`: as it decides.
    service
        Its service; by default the instance's name up to the last hyphen.
    """
    control = _control(path, state)
    control.hold_breaker(service or instance.rpartition("-")[0], instance, mode)
    said = "is released" if mode == "auto" else f"is held {mode}"
    out.print(f"the breaker of {instance} {said}", highlight=False, markup=False)


@app.command
def split(
    route: str,
    path: Folder = Path(),
    *,
    weight: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    reset: bool = False,
    state: State = None,
) -> None:
    """Show or change the weights of a route's split in the running gateway.

    A change lasts until the gateway ends or a reload changes the split; write
    what is to stay into counterfoil.toml. Clients that are assigned by a key
    move only to a service whose weight was raised.

    Example: counterfoil gateway split "/checkout/*" examples/shop --weight checkout-next=10

    Parameters
    ----------
    route
        The route's path, as configured.
    weight
        SERVICE=WEIGHT; other weights stay. May be repeated.
    reset
        Return to the configured weights.
    """
    if reset and weight:
        raise CounterfoilError("--reset returns to the configured weights: leave --weight out")
    control = _control(path, state)
    if reset or weight:
        splits = control.weigh(route, None if reset else dict(map(_weight, weight)))
    else:
        splits = control.state()["splits"]
    found = [each for each in splits if each["path"] == route]
    if not found:
        paths = ", ".join(each["path"] for each in splits)
        raise CounterfoilError(
            f"no route {route} has a split", hint=f"these have one: {paths or 'none'}"
        )
    for each in found:
        total = sum(service["weight"] for service in each["services"])
        for service in each["services"]:
            share = 100 * service["weight"] / total
            out.print(
                f"{service['service']:30} weight {service['weight']:>7} ({share:.4g} %)   "
                f"answers {sum(service['answers']):,}, 5xx {service['answers'][4]:,}",
                highlight=False,
            )


def _weight(given: str) -> tuple[str, int]:
    """Split `service=weight`.

    Raises:
        CounterfoilError: it is no such pair.
    """
    service, _, weight = given.rpartition("=")
    if not service or not weight.isascii() or not weight.isdigit():
        raise CounterfoilError(f"{given!r} is no weight", hint="use --weight checkout-next=10")
    return service, int(weight)


@app.command
def purge(
    path: Folder = Path(),
    *,
    url: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    tag: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    soft: bool = False,
    state: State = None,
) -> None:
    """Purge cached responses, by URL or by tag.

    Example: counterfoil gateway purge examples/shop --url "/items/1?page=2" --tag items

    Parameters
    ----------
    url
        A path with its query, on every host; may be repeated.
    tag
        A tag of responses; may be repeated.
    soft
        Mark them stale instead: they are still served where stale ones may be.
    """
    _control(path, state).purge(urls=url, tags=tag, soft=soft)
    out.print(f"purged: addresses {len(url)}, tags {len(tag)}", highlight=False)


@app.command
def key(name: str, *, tenant: str, tier: str = "bronze") -> None:
    """Make an API key: the key to standard output, its entry for counterfoil.toml to stderr.

    Example: counterfoil gateway key billing --tenant aurora > billing.key

    Parameters
    ----------
    name
        The key's name, in the configuration and in logs.
    tenant
        The tenant that the key is for.
    tier
        The tenant's tier.
    """
    from counterfoil.gateway.api_keys import new_api_key  # noqa: PLC0415

    made, sha256 = new_api_key(name)
    sys.stderr.write(
        f"[gateway.api_keys.{name}]\n"
        f"sha256 = {json.dumps(sha256)}\ntenant = {json.dumps(tenant)}\ntier = {json.dumps(tier)}\n"
    )
    sys.stdout.write(f"{made}\n")


def _control(path: Folder, state: Path | None) -> "GatewayControl":
    """The switches of the gateway that runs.

    Raises:
        CounterfoilError: nothing runs.
    """
    from counterfoil.application import StateFolder  # noqa: PLC0415
    from counterfoil.cli.running import addresses  # noqa: PLC0415
    from counterfoil.supervisor.gateway_control import GatewayControl  # noqa: PLC0415

    files = StateFolder(state_folder(path, state))
    return GatewayControl(addresses(files).admin, files)
