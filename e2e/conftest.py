"""One suite for `voting up` (`--target=local`) and a kind cluster (`--target=cluster`)."""

import os
import time
from collections.abc import Callable, Iterator

import pytest
from browser.conftest import browser, visitors  # noqa: F401 - fixtures
from support.app import data_folder

from e2e import overlay
from e2e.cluster import Cluster
from e2e.kind import Kind
from e2e.local import Local
from e2e.target import Target
from voting.poll.question import Question

CLUSTER = "pytest-voting-e2e"
KIND = pytest.StashKey[Kind]()
THREE_OPTIONS = Question("Tea, coffee or water?", ("Tea", "Coffee", "Water"))
REPORTS = 3  # failures with a report of the cluster; later ones often follow from them


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--target", choices=("local", "cluster"), default="local")
    parser.addoption("--keep", action="store_true", help="do not delete the cluster")
    parser.addoption("--use-existing", action="store_true", help="use the cluster that was kept")
    parser.addoption("--replicated", action="store_true", help="run Redis in three pods")
    parser.addoption("--gateway", action="store_true", help="a Gateway in place of the Ingress")
    what = "the folder or URL of its CRDs, which is on the Internet if none is given"
    parser.addoption("--gateway-api", default=overlay.CRDS, metavar="FOLDER", help=what)


def pytest_configure(config: pytest.Config) -> None:
    for line in (
        "cluster: about Kubernetes itself; needs --target=cluster",
        "replicated: about three pods of Redis; needs --replicated",
        "gateway: about the Gateway; needs --gateway",
    ):
        config.addinivalue_line("markers", line)
    if config.getoption("--replicated") and config.getoption("--gateway"):
        raise pytest.UsageError("--replicated and --gateway: no overlay has both, run one")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    local = config.getoption("--target") == "local"
    others = {"cluster"} if local else set()
    others |= {each for each in ("replicated", "gateway") if not config.getoption(f"--{each}")}
    here = [item for item in items if not any(map(item.get_closest_marker, others))]
    config.hook.pytest_deselected(items=[item for item in items if item not in here])
    items[:] = here
    if not local:
        for item in items:
            # Each wait has its own, shorter timeout.
            item.add_marker(pytest.mark.timeout(2400))


@pytest.fixture(scope="session")
def log(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Print a step on the terminal, with the seconds since the start."""
    terminal = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    capture = pytestconfig.pluginmanager.get_plugin("capturemanager")
    start = time.monotonic()

    def log(step: str) -> None:
        with capture.global_and_fixture_disabled():
            if terminal._tw.width_of_current_line:  # noqa: SLF001 - dots and letters of tests
                terminal.line("")
            terminal.write_line(f"{time.monotonic() - start:6.1f} s  {step}", flush=True)

    return log


@pytest.fixture(scope="session")
def kind(pytestconfig, k8s_manager, log) -> Iterator[Kind]:
    """A kind cluster, deleted at the end even if the app could not be started on it."""
    applied = overlay.KIND
    if pytestconfig.getoption("--replicated"):
        applied = overlay.REPLICATED
    if pytestconfig.getoption("--gateway"):
        applied = overlay.GATEWAY
    kind = Kind(k8s_manager("kind")(CLUSTER), log, applied)
    pytestconfig.stash[KIND] = kind
    yield kind
    if pytestconfig.getoption("--keep") or pytestconfig.getoption("--use-existing"):
        where = os.path.relpath(kind.kubeconfig)
        log(f"kept: kubectl --kubeconfig {where} --namespace voting get pods")
    else:
        log("removing the cluster")
        kind.delete()


@pytest.fixture(scope="session")
def cluster(pytestconfig, kind, log) -> Cluster:
    """The app on that cluster."""
    source, existing = map(pytestconfig.getoption, ("--gateway-api", "--use-existing"))
    return Cluster.start(kind, log, source, existing=existing)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Report the state of the cluster right after a failure."""
    report = yield
    kind = item.config.stash.get(KIND, None)
    if report.failed and kind is not None and kind.reports < REPORTS:
        report.sections.append((f"The cluster after {item.name}", kind.report(item.name)))
    return report


@pytest.fixture(scope="session")
def local() -> Iterator[Local]:
    with data_folder() as path:
        target = Local(path / "data")
        yield target
        target.close()


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Target:
    """The app, on this machine or on the cluster."""
    return request.getfixturevalue(request.config.getoption("--target"))


@pytest.fixture(scope="session")
def question(target: Target) -> Question:
    """A question with three options, from the first test that needs it to the last of the session.

    Tests before it have the first question, with two.
    """
    target.ask(THREE_OPTIONS)
    return THREE_OPTIONS
