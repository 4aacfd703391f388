"""The edge: a native data plane, configured from Python."""
