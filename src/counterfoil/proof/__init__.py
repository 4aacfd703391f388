"""Runs an application under faults and reconciles every cent."""
