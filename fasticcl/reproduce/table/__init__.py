"""The table of a reproduction: the result of each run, and the table as HTML, Markdown, LaTeX and JSON."""
