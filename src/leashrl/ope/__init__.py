"""Policies judged from data alone: fitted Q evaluation and diagnostics."""
