"""Measures of finished clips, from their frames alone."""
