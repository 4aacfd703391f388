"""`counterfoil gateway certificates`: expiry of certificates, and the state of renewals."""

from pathlib import Path

import msgspec

from counterfoil.cli.options import Folder, Json, State, state_folder


class Certificate(msgspec.Struct, frozen=True):
    """What clients are shown, as the gateway tells of it."""

    source: str
    names: tuple[str, ...]
    not_after: int | None


class Host(msgspec.Struct, frozen=True):
    """A name that is asked of an ACME directory, as the gateway tells of it."""

    host: str
    ordering: bool
    failures: int
    trouble: str | None
    try_at: float | None
    renew_at: float | None


def certificates(path: Folder = Path(), *, state: State = None, as_json: Json = False) -> None:
    """Show the certificates in use, and the state of those ordered by ACME.

    Example: counterfoil gateway certificates examples/shop
    """
    import time  # noqa: PLC0415

    from counterfoil.application import StateFolder  # noqa: PLC0415
    from counterfoil.cli.output import out, print_table, write_json  # noqa: PLC0415
    from counterfoil.cli.running import addresses  # noqa: PLC0415
    from counterfoil.cli.times import duration_text, time_text  # noqa: PLC0415
    from counterfoil.supervisor.gateway_control import GatewayControl  # noqa: PLC0415

    files = StateFolder(state_folder(path, state))
    told, now = GatewayControl(addresses(files).admin, files).state(), time.time()
    shown = msgspec.convert(told["certificates"] or [], list[Certificate])
    hosts = msgspec.convert(told["acme"] or [], list[Host])
    if as_json:
        write_json({"certificates": shown, "acme": hosts})
        return
    if not shown:
        out.print("clients are shown no certificates: tls is off")
        return

    def moment(seconds: float | None) -> str:
        if seconds is None:
            return "unknown"
        left = seconds - now
        away = f"in {duration_text(left)}" if left >= 0 else f"{duration_text(-left)} ago"
        return f"{time_text(int(seconds * 1e6))[:16]} UTC, {away}"

    shown.sort(key=lambda each: each.not_after or 0)
    rows = [(", ".join(each.names), each.source, moment(each.not_after)) for each in shown]
    print_table(("names", "source", "ends"), rows)
    issued = {name for each in shown if each.source == "acme" for name in each.names}

    def next_step(host: Host) -> str:
        if host.failures:
            return f"is tried again {moment(host.try_at)}"
        if host.ordering:
            return "is ordered"
        if host.host in issued:
            return f"is renewed {moment(host.renew_at)}"
        return "is about to be ordered"

    if hosts:
        out.print()
        rows = [(each.host, next_step(each), each.failures, each.trouble or "") for each in hosts]
        print_table(("host", "next", "failures", "trouble"), rows)
