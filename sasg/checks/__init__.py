"""What the suite promises of every method, checked on a given one (its own, or a user's part, model or data set)."""

from sasg.checks.contract import Finding, check

__all__ = ["Finding", "check"]
