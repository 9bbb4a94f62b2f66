"""The body of a delivery in the format its endpoint asks for, made once and stored."""

from .rendering import JSON, Rendered, render

__all__ = ["JSON", "Rendered", "render"]
