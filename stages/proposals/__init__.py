"""Region proposals: image -> boxes."""
