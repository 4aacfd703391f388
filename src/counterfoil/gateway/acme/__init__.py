"""Certificates from an ACME directory (RFC 8555), such as Let's Encrypt's.

`settings` is the configuration; `schedule` decides when something is due; `keeper` does it, on a
thread beside the data plane; `authority` is the client of the directory. `store` is the port for
the results: in a `folder` for one gateway, or `shared` by several, one of which orders at a time.
"""

from counterfoil.gateway.acme.settings import Acme, ExternalAccount

__all__ = ["Acme", "ExternalAccount"]
