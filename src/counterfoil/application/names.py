"""Checks that names are unique: each topic, and each set of offsets, has one owner.

Names of topics and offsets are derived from those of pipelines, sagas and services, such as
`payments.retries`, and prefixed with the application's name and a dot on Kafka. So two distinct
declarations may end up with the same name, and write to the same topic or offsets.
"""

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from counterfoil.application.configuration import ConfigurationError
from counterfoil.events.shares import whole

if TYPE_CHECKING:
    from counterfoil.application.application import Application

_APPLICATION: Final = re.compile(r"[A-Za-z0-9_-]{1,48}")
"""No dot: application `a.b` with topic `c` and application `a` with topic `b.c` would share a
topic. The limit, with the 200 characters of a topic, is that of Kafka's names."""


def check_names(application: "Application") -> None:
    """Check that no two declarations of an application share a name.

    Raises:
        ConfigurationError: names the duplicate.
    """
    if not _APPLICATION.fullmatch(application.name):
        raise ConfigurationError(
            f"an application can't be called {application.name!r}",
            hint="use 1 to 48 letters, digits, hyphens and underscores: a dot parts its name from "
            "those of its topics",
        )
    for name in (*application.pipelines, *application.parallels):
        if whole(name) != name:
            raise ConfigurationError(
                f"the pipeline {name!r} has the name of a share of another one",
                hint="rename it: what ends in .NUMBER-of-NUMBER is one of several processes",
            )
    holders = application.position_holders()
    for what, names in (
        ("keep their positions under the name", holders),
        ("are topics called", [topic.name for topic in application.all_topics()]),
        ("are consumers called", application.consumer_names()),
    ):
        for name, times in Counter(names).items():
            if times > 1:
                raise ConfigurationError(f"two things {what} {name!r}", hint="rename one of them")
    positions = {f"{holder}.positions" for holder in holders}
    for topic in application.all_topics():
        if topic.name in positions:
            raise ConfigurationError(
                f"the topic {topic.name!r} has the name under which positions are kept",
                hint="rename it",
            )
