"""Policy to prepared bytes and integers: seccomp program, Landlock rights, ids, capabilities; the host probe and tiers."""
