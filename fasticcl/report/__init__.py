"""What a run achieved, as a page, figures and tables."""
