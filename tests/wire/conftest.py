"""Hypothesis without its stopwatch: other programs share these cores, and time is measured where it matters."""

from hypothesis import settings

settings.register_profile("shared cores", deadline=None)
settings.load_profile("shared cores")
