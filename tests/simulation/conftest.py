import pytest


@pytest.fixture(autouse=True)
def select_by_seed(request):
    """Run only `test_one_seed` if `--seed` is given, and only the other tests if not."""
    one = request.config.getoption("--seed") is not None
    if one != (request.node.originalname == "test_one_seed"):
        pytest.skip("--seed runs one seed" if one else "needs --seed")
