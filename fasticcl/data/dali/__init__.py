"""The DALI graph: its operators, inputs and pipeline."""
