"""virtiofsd's command line, as monitors and their managers say it."""
