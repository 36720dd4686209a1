import pytest


@pytest.fixture(autouse=True)
def only_a_seed(request):
    """Leave out the other tests where one seed is asked for."""
    one = request.config.getoption("--seed") is not None
    if one != (request.node.originalname == "test_one_seed_keeps_the_promise"):
        pytest.skip("--seed asks for one seed" if one else "it takes --seed")
