"""One run of migrations: what happened goes in, deliveries go out, and the run ends in time."""

from .run import Run

__all__ = ["Run"]
