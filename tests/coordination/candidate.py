"""A candidate in a process of its own, which a test pauses.

It leads, says so, and tries to write when it is told to: once with the revision that it knows.
"""

import json
import sys
import threading

from conftest import connect

from counterfoil.coordination import Leadership


def main() -> None:
    client = connect(*sys.argv[1:])
    lease = Leadership(client, "relay", "first", ttl_seconds=2.0).campaign(threading.Event())
    assert lease is not None
    guarded = client.put("/work", "by the first", if_revision=0)
    assert guarded is not None
    print(json.dumps({"token": lease.fencing_token}), flush=True)
    sys.stdin.readline()
    held = lease.held()
    written = client.put("/work", "by the first again", if_revision=guarded.mod_revision)
    print(json.dumps({"held": held, "refused": written is None}), flush=True)


if __name__ == "__main__":
    main()
