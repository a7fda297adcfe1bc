"""Classifiers: features -> scores."""
