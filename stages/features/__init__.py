"""Features of regions: image and boxes -> features."""
