"""Hypothesis without its stopwatch, for other programs share these cores."""

from hypothesis import settings

settings.register_profile("shared cores", deadline=None)
settings.load_profile("shared cores")
