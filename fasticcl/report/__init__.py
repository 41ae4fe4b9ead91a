"""Reports on one run or on several: an HTML page, figures, and tables as JSON, CSV and LaTeX."""
