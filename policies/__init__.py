"""What a share is and what may happen on it."""
