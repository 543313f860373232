"""Measurements of the real service."""
