"""Segments: an audience, said once as a tree of conditions, and asked of people and at events."""
