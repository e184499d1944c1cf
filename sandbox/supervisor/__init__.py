"""The resident part: sockets, worker slots, what is logged. Reads no byte that a guest or monitor wrote (I1)."""
