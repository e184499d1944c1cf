"""Processes and sockets for real."""
