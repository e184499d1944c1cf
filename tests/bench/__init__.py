"""Figures: what takes how long, and how much memory."""
