"""Stages, sources and modules made of torch: backbones, poolers, heads, and the one SGD loop."""
