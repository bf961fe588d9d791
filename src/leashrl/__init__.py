"""Policies from logged data, kept on a leash."""
