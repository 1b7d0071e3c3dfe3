"""track finding without learning, on the same events."""
