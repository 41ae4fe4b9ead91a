"""Conversion of original datasets into shards."""
