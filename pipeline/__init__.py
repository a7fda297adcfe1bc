"""Stages put together: the pipeline, its cache and clock, the run loop, measures, recipes and the command."""
