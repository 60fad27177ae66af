"""Methods: each an `Algorithm` with its `step`."""
