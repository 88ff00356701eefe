"""Settings of the whole suite."""

import importlib.util

if importlib.util.find_spec("hypothesis"):  # which the environments of tests/clients do without
    from hypothesis import settings

    # A busy machine makes an example slow and no claim wrong: nothing here depends on time.
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")
