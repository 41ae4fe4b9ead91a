"""Checks: each is a function of all facts that returns a finding, or None if it does not apply."""
