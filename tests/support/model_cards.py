"""Export a model and parse its model card."""

import re

import fasticcl


def export_card(model, **options):
    """Export a model, by default as safetensors, and return the text of its card."""
    return fasticcl.export(model, **{"format": "safetensors", **options}).card.read_text(encoding="utf-8")


def card_section(card, title):
    """Return the text of a section of a card."""
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)[1]


def table_rows(text):
    """Return the other cells of each table row by its first cell, without the header row."""
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {first.strip("*"): rest for first, *rest in table[1:]}
