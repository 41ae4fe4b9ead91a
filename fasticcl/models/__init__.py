"""Trained models in use: predicting, exporting, and the card that says what a model is."""
