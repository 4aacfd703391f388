"""The console: shows the path of every payment, and lets operators act on what is stuck."""
