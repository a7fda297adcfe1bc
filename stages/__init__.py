"""Stages: one method of one paper each; they know numpy, torch and their own library, nothing else here."""
