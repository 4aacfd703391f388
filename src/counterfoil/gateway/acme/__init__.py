"""Certificates from an ACME directory (RFC 8555), such as Let's Encrypt's.

`settings` is what a user says; `schedule` when what is due; `keeper` does it, on a thread beside
the data plane; `authority` speaks with the directory. What came of it is behind `store`: in a
`folder` for one gateway, or `shared` by several, of which one orders at a time.
"""

from counterfoil.gateway.acme.settings import Acme, ExternalAccount

__all__ = ["Acme", "ExternalAccount"]
