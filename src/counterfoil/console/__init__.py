"""A page to see the way of every payment, and to act on what is stuck."""
