"""Stages: each one method of one paper; they know numpy, torch and their own library, never the cache or the pipeline."""
