"""What every test runs under."""

from hypothesis import settings

# Two loaded cores make single examples slow now and then; a rule is judged by its outcome, not by its speed.
settings.register_profile("footfall", deadline=None, print_blob=True)
settings.load_profile("footfall")
