"""The environment for programs that tests start."""

import os

from voting.settings import ROLE_SETTINGS

_SETTINGS = {"role"}.union(*(each.model_fields for each in ROLE_SETTINGS.values()))

# Without the settings of the app that the user of the tests may have in their own environment.
ENVIRON = {name: value for name, value in os.environ.items() if name.lower() not in _SETTINGS}
