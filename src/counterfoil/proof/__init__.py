"""Breaks an application on purpose and reconciles every cent of what it promised."""
