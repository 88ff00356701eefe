"""Settings of the whole suite."""

from hypothesis import settings

# A busy machine makes an example slow and no claim wrong: nothing here depends on time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
