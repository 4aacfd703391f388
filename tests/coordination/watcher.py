"""A watch in a process of its own, which a test pauses: prints the value of a key as it changes."""

import sys
import threading

from conftest import connect


def main() -> None:
    for snapshot in connect(*sys.argv[1:]).watch("/big", threading.Event()):
        for key in snapshot:
            print(key.value.rstrip("."), flush=True)


if __name__ == "__main__":
    main()
