"""Checks of `first_light.py`. Each is a module with a function ``check(setup, report)``."""
