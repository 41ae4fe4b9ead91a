"""The verbs as Python functions, with the names and defaults of the command line."""
