import uvloop


def pytest_asyncio_loop_factories():
    """Run each test on the event loop of the roles."""
    return {"uvloop": uvloop.new_event_loop}
