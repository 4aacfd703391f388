"""Operates the running gateway, through its admin port and by signals.

The command line and the console both use it, so their errors are the same. The credential is sent
to the gateway's admin port only.
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
"""The port answers from memory; a slower answer counts as none."""
RELOAD_SECONDS: Final = 15.0
"""A new issuer is first asked for its keys, which may take five seconds."""
LOOK_SECONDS: Final = 0.05
BreakerMode = Literal["open", "closed", "auto"]


class GatewayUnreachable(CounterfoilError):
    """The gateway doesn't answer: it isn't running, or is just starting."""


class GatewayRefused(CounterfoilError):
    """The gateway refused a request, without any effect."""


class GatewayControl:
    """The controls of the gateway that `counterfoil up` runs in the state folder `state`."""

    def __init__(self, admin: str, state: StateFolder) -> None:
        """`admin` is the `host:port` of the gateway's admin port."""
        self._admin = admin
        self._state = state

    def state(self) -> dict[str, Any]:
        """The state of limits and breakers, and counters.

        Raises:
            GatewayUnreachable: it doesn't answer.
        """
        return self._ask("GET", "/state")

    def configuration(self) -> dict[str, Any]:
        """The configuration in force, without its secrets.

        Raises:
            GatewayUnreachable: it doesn't answer.
        """
        return self._ask("GET", "/config")

    def drain(self) -> None:
        """Refuse new clients; requests under way finish. Only `restart` undoes it.

        Raises:
            GatewayUnreachable: it doesn't answer.
        """
        self._ask("POST", "/drain", {})

    def hold_breaker(self, service: str, instance: str, mode: BreakerMode) -> None:
        """Force an instance's breaker open or closed, or release it (`auto`).

        Raises:
            GatewayRefused: there is no such service or instance.
            GatewayUnreachable: it doesn't answer.
        """
        self._ask("POST", "/breakers", {"service": service, "instance": instance, "mode": mode})

    def weigh(self, path: str, weights: Mapping[str, int] | None) -> list[dict[str, Any]]:
        """Override the split weights of the routes with `path`, until a reload changes the split or
        the gateway ends; None restores those of the configuration. Returns all splits with their
        new weights.

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
        """Purge stored answers: by path and query, by tag, or all; `soft` marks them as stale.

        Raises:
            GatewayRefused: nothing is named, a URL is invalid, or no route has a cache.
            GatewayUnreachable: it doesn't answer.
        """
        self._ask(
            "POST",
            "/cache/purge",
            {"urls": list(urls), "tags": list(tags), "all": everything, "soft": soft},
        )

    def reload(self, seconds: float = RELOAD_SECONDS) -> int:
        """Reload the file without losing a request; returns the version in force.

        Raises:
            GatewayRefused: it is invalid; the previous configuration stays in force.
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
        """End the gateway after the requests under way; its supervisor starts it again.

        Its state in memory is lost: counters, local limits, held breakers, stored answers.

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
                continue  # it has just ended; its supervisor reports that
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
