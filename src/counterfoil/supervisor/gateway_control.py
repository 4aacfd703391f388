"""Operates the running gateway, through its operators' port and by signals.

Both the command line and the console act through this, so that what one of them refuses the other
refuses in the same words. The credential goes from here to the gateway's port, and nowhere else.
"""

import http.client
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, Literal

from counterfoil.application import StateFolder
from counterfoil.errors import CounterfoilError

ANSWER_SECONDS: Final = 2.0
"""The port answers from memory; one that takes longer is as good as away."""
RELOAD_SECONDS: Final = 15.0
"""An issuer that is new is asked for its keys first, which may take five."""
LOOK_SECONDS: Final = 0.05
BreakerMode = Literal["open", "closed", "auto"]


class GatewayUnreachable(CounterfoilError):
    """The gateway doesn't answer operators: it isn't up, or it is just being started."""


class GatewayRefused(CounterfoilError):
    """The gateway answered, and did nothing of what it was asked for."""


class GatewayControl:
    """The switches of one gateway, which `counterfoil up` runs in the state folder `state`."""

    def __init__(self, admin: str, state: StateFolder) -> None:
        """`admin` is the `host:port` of the gateway's port for operators."""
        self._admin = admin
        self._state = state

    def state(self) -> dict[str, Any]:
        """Limits, breakers and counts.

        Raises:
            GatewayUnreachable: it doesn't answer.
        """
        return self._ask("GET", "/state")

    def configuration(self) -> dict[str, Any]:
        """The configuration that is in force, without its secrets.

        Raises:
            GatewayUnreachable: it doesn't answer.
        """
        return self._ask("GET", "/config")

    def drain(self) -> None:
        """Let nobody new in; what is under way ends. Only `restart` lets clients in again.

        Raises:
            GatewayUnreachable: it doesn't answer.
        """
        self._ask("POST", "/drain", {})

    def hold_breaker(self, service: str, instance: str, mode: BreakerMode) -> None:
        """Hold the breaker of an instance open or closed, or let go of it (`auto`).

        Raises:
            GatewayRefused: there is no such service or instance.
            GatewayUnreachable: it doesn't answer.
        """
        self._ask("POST", "/breakers", {"service": service, "instance": instance, "mode": mode})

    def weigh(self, path: str, weights: Mapping[str, int] | None) -> list[dict[str, Any]]:
        """Change weights of the splits of the routes with `path`, until a reload changes the split
        or the gateway ends; None goes back to those of the configuration. All splits, as they are
        then.

        Raises:
            GatewayRefused: there is no such split, or no service would have a weight above 0.
            GatewayUnreachable: it doesn't answer.
        """
        return self._ask("POST", "/splits", {"path": path, "weights": weights})["splits"]

    def purge(
        self,
        *,
        urls: Sequence[str] = (),
        tags: Sequence[str] = (),
        everything: bool = False,
        soft: bool = False,
    ) -> None:
        """Take back stored answers: by path and query, by tag, or all; `soft` makes them stale.

        Raises:
            GatewayRefused: nothing is named, a URL is none, or no route has a cache.
            GatewayUnreachable: it doesn't answer.
        """
        self._ask(
            "POST",
            "/cache/purge",
            {"urls": list(urls), "tags": list(tags), "all": everything, "soft": soft},
        )

    def reload(self, seconds: float = RELOAD_SECONDS) -> int:
        """Have the file put into force without losing a request; the version, once it is.

        Raises:
            GatewayRefused: it can't be used; what was in force still is.
            GatewayUnreachable: it doesn't answer, or hasn't reloaded within `seconds`.
        """
        before = self.state()["configuration"]
        self._signal(signal.SIGHUP)
        deadline = time.monotonic() + seconds
        while (after := self.state()["configuration"]) == before:
            if time.monotonic() > deadline:
                raise GatewayUnreachable(
                    f"the gateway has not reloaded within {seconds:.0f} s",
                    hint=f"it may yet; see {self._state.process_log('gateway')}",
                )
            time.sleep(LOOK_SECONDS)
        if after["refusals"] != before["refusals"]:
            raise GatewayRefused(f"the gateway refused it: {after['refused']}")
        return after["version"]

    def restart(self) -> None:
        """Have the gateway end, after what is under way, and be started anew by its supervisor.

        What it knows in memory is gone then: counts, local limits, held breakers, stored answers.

        Raises:
            GatewayUnreachable: no gateway runs.
        """
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        document: dict[str, Any] = json.loads(self._state.run.read_text())
        told = False
        for each in document["processes"]:
            if each["kind"] != "gateway" or not each["pid"]:
                continue
            try:
                os.kill(each["pid"], number)
            except ProcessLookupError:
                continue  # it has just ended, and its supervisor will say so
            told = True
        if not told:
            raise GatewayUnreachable("no gateway runs", hint="see `counterfoil status`")

    def _ask(self, method: str, path: str, document: object = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._admin, timeout=ANSWER_SECONDS)
        try:
            body = None if document is None else json.dumps(document)
            headers = {"authorization": f"Bearer {self._state.credential()}"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            found = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise GatewayUnreachable(
                f"the gateway does not answer at {self._admin}: {error}",
                hint="see `counterfoil status`",
            ) from error
        finally:
            connection.close()
        if answer.status == HTTPStatus.OK:
            return found
        raise GatewayRefused(found.get("detail") or f"the gateway answered {answer.status}")
