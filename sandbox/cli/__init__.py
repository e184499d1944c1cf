"""The command line: one module per command. Only this layer prints."""
