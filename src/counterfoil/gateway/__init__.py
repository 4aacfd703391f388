"""The gateway: a native data plane, configured from Python."""
