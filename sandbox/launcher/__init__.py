"""Zygote and jail stages: the code between fork and exec."""
