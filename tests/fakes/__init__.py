"""Stand-ins for the two ends of the supervisor: jails without walls, and workers that do what a test asks."""
