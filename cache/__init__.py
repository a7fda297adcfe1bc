"""Bytes, keys and files; imports neither torch nor scikit-learn."""
