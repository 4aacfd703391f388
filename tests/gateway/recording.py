"""An application that records each request, for tests of who takes what for a request.

`python recording.py HOST:PORT FILE` appends a line with the target of each request to the file,
once its body is there, and answers with the target.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from granian.constants import Interfaces
from granian.server.embed import Server


def main(address: str, record: Path) -> None:
    host, _, port = address.partition(":")

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (event := await receive()).get("more_body"):
            pass
        if event["type"] == "http.disconnect":
            return  # before the end of its body it is no request
        target = scope["raw_path"] if scope.get("raw_path") else scope["path"].encode()
        with record.open("ab") as file:
            file.write(target + b"\n")
        length = str(len(target)).encode()
        headers = [(b"content-length", length), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": target})

    server = Server(application, host, int(port), interface=Interfaces.ASGI, log_enabled=False)
    asyncio.run(server.serve())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
