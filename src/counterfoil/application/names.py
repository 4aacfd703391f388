"""Checks that names are unique: each topic, and each set of offsets, has one owner.

What belongs to a pipeline, a saga or a service has a name that is made of its own, such as
`payments.retries`. Kafka joins such names to the application's with a dot. So a name may be right
by itself and still be another's, and then two owners would write where each believes to be alone.
"""

import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from counterfoil.application.configuration import ConfigurationError
from counterfoil.events.shares import whole

if TYPE_CHECKING:
    from counterfoil.application.application import Application

_APPLICATION: Final = re.compile(r"[A-Za-z0-9_-]{1,48}")
"""Without a dot: `a.b` with the topic `c` and `a` with the topic `b.c` would share one. With the
200 characters of a topic it is what Kafka takes for a name."""


def check_names(application: "Application") -> None:
    """See that whatever an application declares has names of its own.

    Raises:
        ConfigurationError: says which name two things have.
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
