"""Scores of predictions, of labels and of networks."""
