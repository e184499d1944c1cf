"""Real and byte-level clients for a vhost-user socket: guests that boot, and a front end that sends exact bytes."""
