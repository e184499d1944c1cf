"""The resident part: listener, share life cycle, worker slots."""
