"""The components `load` and `load-check`, in each overlay that offers them."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from voting.load.check import STABLE_SECONDS
from voting.load.command import THIS_LOAD, load
from voting.settings import LoadSettings, load_settings

from . import pods, wiring
from .network import allowed
from .rendering import DEPLOY, Resource, kustomize, one, pod

COMPONENTS = {"load": ("Deployment", "load"), "load-check": ("Job", "check")}
# The overlay to apply, and the folder whose kustomization lists components.
OVERLAYS = {"overlays/kind": "overlays/kind/voting", "overlays/production": "overlays/production"}

POLICIES = (
    pods.every_container_has_requests_and_limits,
    pods.every_container_is_confined,
    pods.every_pod_is_unprivileged,
    pods.no_pod_has_a_token,
    pods.images_have_tags,
    wiring.selectors_match_pods,
    pods.the_job_is_named_after_its_image,
    wiring.services_target_container_ports,
    wiring.no_service_leads_to_the_admin_page,
    wiring.only_the_listed_pairs_may_connect,
)


def kustomization(folder: Path) -> Path:
    return folder / "kustomization.yaml"


@pytest.fixture(params=OVERLAYS)
def rendered(request, tmp_path: Path) -> Callable[..., list[Resource]]:
    """Render an overlay with the line of a component uncommented."""

    def rendered(component: str) -> list[Resource]:
        folder = Path(shutil.copytree(DEPLOY, tmp_path / component))
        path = kustomization(folder / OVERLAYS[request.param])
        text = path.read_text()
        line = rf"^  # - (\S+/components/{component})$"
        assert len(re.findall(line, text, re.MULTILINE)) == 1
        path.write_text(re.sub(line, r"  - \1", text, flags=re.MULTILINE))
        return kustomize(folder / request.param)

    return rendered


def command(container: Resource) -> tuple[dict, LoadSettings]:
    """Parse a container's command as Kubernetes starts it, and return its options and settings."""
    environ = {each["name"]: each["value"] for each in container["env"]}
    first, *arguments = (
        re.sub(r"\$\((\w+)\)", lambda match: environ[match[1]], each) for each in container["args"]
    )
    assert first == load.name
    options = load.make_context(first, arguments).params
    return options, load_settings(LoadSettings, environ)


@pytest.mark.parametrize("component", COMPONENTS)
def test_its_pods_keep_the_rules_of_the_others(rendered, component: str):
    resources = rendered(component)
    assert [each for policy in POLICIES for each in policy(resources)] == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_without_the_other_policies_the_pages_stay_reachable(tmp_path: Path, component: str):
    folder = Path(shutil.copytree(DEPLOY, tmp_path / "deploy")) / "overlays/new"
    folder.mkdir()
    kustomization(folder).write_text(
        f"namespace: voting\nresources: [../../base]\ncomponents: [../../components/{component}]\n"
    )
    arriving = allowed(kustomize(folder), "Ingress")
    assert {f"any → {page} 8080/TCP" for page in ("vote", "result")} <= arriving


@pytest.mark.parametrize("component", COMPONENTS)
def test_it_uses_the_services_with_the_image_of_the_app_and_no_secret(rendered, component: str):
    resources = rendered(component)
    workload = one(resources, *COMPONENTS[component])
    [container] = pod(workload)["containers"]
    [vote] = pod(one(resources, "Deployment", "vote"))["containers"]
    assert container["image"] == vote["image"]
    assert container["env"] == [
        {"name": each["name"], "value": each["value"]} for each in container["env"]
    ]
    assert not container.keys() & {"envFrom", "volumeMounts"}
    _, settings = command(container)
    for service, url in (("vote", settings.vote_url), ("result", settings.result_url)):
        [port] = one(resources, "Service", service)["spec"]["ports"]
        assert (url, port["port"]) == (f"http://{service}", 80)


def test_the_load_has_no_end_and_waits_for_the_pages(rendered):
    [container] = pod(one(rendered("load"), "Deployment", "load"))["containers"]
    options, _ = command(container)
    assert (options["votes"], options["rate"], options["check"]) == (None, 20, None)
    assert options["wait"] >= 600


def test_the_check_runs_once_for_each_version_and_has_the_time_it_needs(rendered):
    job = one(rendered("load-check"), "Job", "check")
    assert job["spec"]["backoffLimit"] == 0
    assert "ttlSecondsAfterFinished" not in job["spec"]
    assert pod(job)["restartPolicy"] == "Never"
    [container] = pod(job)["containers"]
    options, _ = command(container)
    assert options["check"] == THIS_LOAD
    voting = options["votes"] / options["rate"]
    longest = 2 * options["wait"] + voting + 2 * STABLE_SECONDS + options["timeout"]
    assert job["spec"]["activeDeadlineSeconds"] > longest
