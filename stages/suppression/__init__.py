"""Suppression: scored boxes -> detections."""
