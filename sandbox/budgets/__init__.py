"""Budgets that several shares draw from by weight: how they are divided, and how the members find each other."""
