import sys
from importlib import import_module

import pytest

from voting.web.absent import absent


@pytest.mark.parametrize("loaded", [True, False])
def test_a_package_is_absent_only_meanwhile(loaded):
    before = import_module("colorsys")
    if not loaded:
        del sys.modules["colorsys"]
    with absent("colorsys"), pytest.raises(ModuleNotFoundError):
        import_module("colorsys")
    assert (sys.modules.get("colorsys") is before) is loaded
    assert import_module("colorsys").rgb_to_hsv
