"""`counterfoil events verify`: the command; `verify.py` carries it out."""

import sys
from pathlib import Path

from counterfoil.cli.options import Count, Json, Rate


def verify_transactions(
    *,
    servers: str = "",
    application: Path | None = None,
    clients: Count = 5,
    transactions: Count = 1_000,
    seed: int = 1,
    kill_every: Rate = 0.0,
    bug: str = "",
    save: Path | None = None,
    history: Path | None = None,
    as_json: Json = False,
) -> None:
    """Run random transactions on Kafka, and check what clients saw for anomalies.

    Looks for G0, G1a, G1c, lost writes, torn transactions, duplicates, polls
    that skip or go back. The exit code is 1 if something was found that Kafka
    promises not to happen.

    Examples: counterfoil events verify --transactions 5000 --kill-every 20
              counterfoil events verify --servers 10.0.0.1:9092
              counterfoil events verify --application examples/shop
              counterfoil events verify --bug read-uncommitted
              counterfoil events verify --history run.json --json

    Parameters
    ----------
    servers
        The cluster: host:port, comma-separated; by default a broker is started here.
    application
        Instead of --servers: the folder of an application, for its cluster and credentials.
    clients
        The number of concurrent clients.
    transactions
        The number of transactions in all.
    seed
        Determines what the clients do.
    kill_every
        Kill the broker that was started here every so many seconds.
    bug
        Seed a bug: read-uncommitted, send-twice, skip-polls, rewind or claim-commit.
    save
        Save the history to this file.
    history
        Check the history in this file instead of running anything.
    """
    import msgspec  # noqa: PLC0415

    from counterfoil.cli.verify import cluster, report, verify  # noqa: PLC0415
    from counterfoil.errors import CounterfoilError  # noqa: PLC0415
    from counterfoil.proof.anomalies import History  # noqa: PLC0415
    from counterfoil.proof.anomalies.kafka import SEEDED  # noqa: PLC0415

    if bug and bug not in SEEDED:
        raise CounterfoilError(f"there is no bug {bug!r}", hint=f"one of {', '.join(SEEDED)}")
    if history is not None:
        try:
            seen = msgspec.json.decode(history.read_bytes(), type=History)
        except (OSError, msgspec.DecodeError) as error:
            raise CounterfoilError(f"{history}: {error}", hint="keep one with --save") from error
    else:
        seen = verify(
            cluster(servers, application),
            clients=clients,
            transactions=transactions,
            seed=seed,
            kill_every=kill_every,
            bug=bug or None,
            quiet=as_json,
        )
    if save is not None:
        save.write_bytes(msgspec.json.encode(seen))
    if not report(seen, as_json=as_json):
        sys.exit(1)
