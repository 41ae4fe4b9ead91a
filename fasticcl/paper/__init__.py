"""The tables and figures of the paper: their cells, the settings of each, and the published figures."""
