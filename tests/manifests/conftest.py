"""An option: the CRDs of the Gateway API, which are not part of this repository."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    what = "validate against the CRDs in this folder: `config/crd/standard` of the Gateway API"
    parser.addoption("--gateway-api", type=Path, metavar="FOLDER", help=what)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--gateway-api") is None:
        needing = [item for item in items if "gateway_api" in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


@pytest.fixture
def gateway_api(pytestconfig: pytest.Config) -> Path:
    """A folder with a CRD in each file."""
    return pytestconfig.getoption("--gateway-api")
