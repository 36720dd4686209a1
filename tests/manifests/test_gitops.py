"""What a controller that applies these manifests again and again relies on, and its examples."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from inspect import isgeneratorfunction
from pathlib import Path
from typing import Any

import pytest
import yaml

from voting import __version__

from . import drift, pods, policies
from .rendering import (
    COMPONENTS,
    DEPLOY,
    OVERLAYS,
    Resource,
    containers,
    every_container,
    kustomize,
    of,
    one,
    pod,
    render,
    workloads,
)

ROOT = DEPLOY.parent
KIND, REPLICATED, PRODUCTION = "overlays/kind", "overlays/kind-replicated", "overlays/production"
DEMO = "overlays/demo"
FOLDERS = tuple(dict.fromkeys((*OVERLAYS, DEMO)))
EXAMPLES = DEPLOY / "examples"

Policy = Callable[[list[Resource]], Iterator[str]]


def vote(resources: list[Resource]) -> Resource:
    return one(resources, "Deployment", "vote")


def container(resources: list[Resource]) -> Resource:
    return pod(vote(resources))["containers"][0]


def limits(resources: list[Resource]) -> Resource:
    return container(resources)["resources"]["limits"]


def claim(resources: list[Resource]) -> Resource:
    return one(resources, "StatefulSet", "redis")["spec"]["volumeClaimTemplates"][0]


def cluster(resources: list[Resource]) -> Resource:
    return of(resources, "Cluster")[0]["spec"]


def annotate(resource: Resource, name: str) -> None:
    resource["metadata"].setdefault("annotations", {})[name] = "value"


MISTAKES: dict[Policy, list[Callable[[list[Resource]], object]]] = {
    drift.quantities_are_canonical: [
        lambda r: limits(r).update(cpu="1000m"),
        lambda r: limits(r).update(cpu=1),
        lambda r: limits(r).update(cpu="0.5"),
        lambda r: limits(r).update(memory="1024Mi"),
        lambda r: claim(r)["spec"]["resources"]["requests"].update(storage="0.5Gi"),
        lambda r: pod(one(r, "StatefulSet", "redis"))["volumes"][0]["emptyDir"].update(
            sizeLimit="1024Ki"
        ),
        lambda r: cluster(r)["storage"].update(size="2048Gi"),
    ],
    drift.nothing_is_empty: [
        lambda r: container(r).update(volumeMounts=[]),
        lambda r: container(r)["securityContext"].update(runAsUser=None),
        lambda r: vote(r)["metadata"].update(annotations={}),
    ],
    drift.the_server_sets_its_fields_alone: [
        lambda r: vote(r).update(status={"replicas": 1}),
        lambda r: vote(r)["metadata"].update(generation=1),
        lambda r: vote(r)["spec"]["template"]["metadata"].update(creationTimestamp="2026-11-29"),
        lambda r: claim(r)["metadata"].update(uid="1"),
    ],
    drift.values_are_text: [
        lambda r: one(r, "ConfigMap", "voting")["data"].update(VOTES_PER_MINUTE=20),
        lambda r: vote(r)["metadata"]["labels"].update(version=1),
    ],
    drift.items_are_named_once: [
        lambda r: container(r)["env"].append({"name": "ROLE", "value": "vote"}),
        lambda r: container(r)["ports"].append({"name": "other", "containerPort": 8080}),
        lambda r: one(r, "Service", "vote")["spec"]["ports"].append({"name": "web", "port": 80}),
    ],
    drift.lists_that_are_replaced_have_the_defaults: [
        lambda r: one(r, "NetworkPolicy", "dns")["spec"]["egress"][0]["ports"][0].pop("protocol"),
        lambda r: claim(r).pop("kind"),
        lambda r: cluster(r)["managed"]["roles"][1].pop("inherit"),
        lambda r: cluster(r)["plugins"][0].pop("enabled"),
        lambda r: one(r, "ServiceMonitor", "voting")["spec"]["endpoints"][0]["relabelings"][0].pop(
            "action"
        ),
        lambda r: of(r, "Job")[0]["spec"]["podFailurePolicy"]["rules"][1]["onPodConditions"][0].pop(
            "status"
        ),
    ],
    drift.there_are_no_hooks: [
        lambda r: annotate(of(r, "Job")[0], "argocd.argoproj.io/hook"),
        lambda r: annotate(of(r, "Job")[0], "helm.sh/hook"),
        lambda r: annotate(vote(r), "argocd.argoproj.io/sync-wave"),
        lambda r: annotate(vote(r), "kustomize.toolkit.fluxcd.io/force"),
    ],
    drift.each_namespace_comes_before_what_is_in_it: [
        lambda r: r.append(r.pop(r.index(one(r, "Namespace", "voting")))),
    ],
    drift.generated_names_are_those_that_are_read: [
        lambda r: container(r)["envFrom"][0]["configMapRef"].update(name="voting"),
        lambda r: container(r)["envFrom"][0]["configMapRef"].update(name="voting-59d29bfd7b"),
        lambda r: one(r, "ConfigMap", "redis")["metadata"].update(name="redis"),
        lambda r: containers(of(r, "Job")[0])[0]["envFrom"][0]["configMapRef"].update(
            name=one(r, "ConfigMap", "question")["metadata"]["name"]
        ),
    ],
}


@pytest.mark.parametrize("policy", MISTAKES, ids=lambda each: each.__name__)
@pytest.mark.parametrize("folder", FOLDERS)
def test_an_apply_leaves_nothing_to_change(folder: str, policy: Policy):
    assert list(policy(render(folder))) == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_no_component_leaves_something_to_change(component: str):
    resources = render(component)
    assert [each for policy in MISTAKES for each in policy(resources)] == []


@pytest.mark.parametrize(
    ("policy", "change"),
    [(policy, change) for policy, changes in MISTAKES.items() for change in changes],
    ids=lambda each: each.__name__,
)
def test_what_would_change_is_found(policy: Policy, change: Callable[[list[Resource]], object]):
    resources = render(PRODUCTION)
    change(resources)
    assert list(policy(resources)), "the policy found nothing"


def test_a_generated_secret_that_is_not_read_by_its_name_is_found():
    resources = render(KIND)
    container(resources)["env"][1]["valueFrom"]["secretKeyRef"].update(name="vote")
    assert list(drift.generated_names_are_those_that_are_read(resources))


def test_every_policy_is_tested():
    helpers = {drift.fields, drift.references}
    found = {
        each
        for each in vars(drift).values()
        if getattr(each, "__module__", "") == drift.__name__ and isgeneratorfunction(each)
    }
    assert found - helpers == MISTAKES.keys()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_renders_to_the_same_bytes_again(folder: str):
    command = ["kubectl", "kustomize", str(DEPLOY / folder)]
    first, second = (subprocess.run(command, capture_output=True, check=True) for _ in range(2))
    assert first.stdout == second.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of `deploy/`."""
    return Path(shutil.copytree(DEPLOY, tmp_path / "deploy"))


def edit(folder: Path, **added: list[Any]) -> list[Resource]:
    """Append to lists of a kustomization, as Argo CD and Flux do, and render the folder."""
    path = folder / "kustomization.yaml"
    kustomization = yaml.safe_load(path.read_text())
    for field, items in added.items():
        kustomization.setdefault(field, []).extend(items)
    path.write_text(yaml.safe_dump(kustomization, sort_keys=False))
    return kustomize(folder)


def by_title(resources: list[Resource]) -> dict[tuple[str, str], Resource]:
    return {(each["kind"], each["metadata"]["name"]): each for each in workloads(resources)}


def setting(config_map: str, name: str, value: str) -> Resource:
    change = {"op": "replace", "path": f"/data/{name}", "value": value}
    return {"target": {"kind": "ConfigMap", "name": config_map}, "patch": yaml.safe_dump([change])}


@pytest.mark.parametrize(
    ("config_map", "name", "rolled"),
    [
        ("voting", "VOTES_PER_MINUTE", {"vote", "result", "worker", "admin"}),
        ("question", "POLL_TITLE", {"worker"}),
        ("migrate", "POLL_TITLE", set()),
    ],
)
def test_a_changed_setting_rolls_the_pods_that_read_it_and_changes_no_job(
    copy: Path, config_map: str, name: str, rolled: set[str]
):
    before = by_title(render(PRODUCTION))
    after = by_title(edit(copy / PRODUCTION, patches=[setting(config_map, name, "7")]))
    changed = {title for title, each in before.items() if each != after[title]}
    assert before.keys() == after.keys()
    assert changed == {("Deployment", each) for each in rolled}


def test_another_version_makes_another_job_and_changes_only_images_beside(copy: Path):
    before = render(PRODUCTION)
    path = copy / PRODUCTION / "kustomization.yaml"
    path.write_text(path.read_text().replace('newTag: "0.1.0"', 'newTag: "0.2.0"'))
    after = kustomize(copy / PRODUCTION)
    assert [each["metadata"]["name"] for each in of(after, "Job")] == ["migrate-0-2-0"]
    assert yaml.safe_dump(before).replace("0.1.0", "0.2.0").replace(
        "migrate-0-1-0", "migrate-0-2-0"
    ) == yaml.safe_dump(after)


# --- the address of the repository, and a release


def test_the_demo_is_the_overlay_for_kind_with_the_image_of_this_version():
    demo = render(DEMO)
    assert list(pods.the_job_is_named_after_its_image(demo)) == []
    images = {each["image"] for _, each in every_container(demo) if "voting" in each["image"]}
    assert images == {f"ghcr.io/OWNER/voting:{__version__}"}
    for each in of(demo, "Deployment"):
        each["metadata"]["labels"].pop("app.kubernetes.io/version", None)
    text = yaml.safe_dump(demo).replace(*images, "voting:dev")
    text = text.replace(f"migrate-{__version__.replace('.', '-')}", "migrate-dev")
    assert yaml.safe_load(text) == render(KIND)


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_overlay_can_be_applied_from_the_address_of_a_repository(copy: Path, folder: str):
    """Kubectl clones it: no file may lie outside of it, or be ignored by git."""
    shutil.copy(ROOT / ".gitignore", copy.parent)
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for words in (
        ("init", "--quiet"),
        ("add", "."),
        (*identity, "commit", "--quiet", "--message=Release"),
        ("tag", f"v{__version__}"),
        ("clone", "--quiet", "--bare", ".", "voting.git"),
    ):
        subprocess.run(["git", *words], cwd=copy.parent, check=True)
    shutil.rmtree(copy)
    address = f"file://{copy.parent}/voting.git//deploy/{folder}?ref=v{__version__}"
    done = subprocess.run(
        ["kubectl", "kustomize", address], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(yaml.safe_load_all(done.stdout)) == render(folder)


def release(copy: Path, digest: str) -> None:
    """Name an image in a copy of `deploy/`, as the release does."""
    script = shutil.copytree(ROOT / ".github", copy.parent / ".github") / "set_image.py"
    arguments = ("ghcr.io/someone/voting", "1.2.3", digest)
    subprocess.run(["python3", script, *arguments], check=True)


@pytest.mark.parametrize("folder", [DEMO, PRODUCTION])
def test_a_release_names_its_image_by_tag_and_digest(copy: Path, folder: str):
    digest = f"sha256:{'5' * 64}"
    release(copy, digest)
    resources = kustomize(copy / folder)
    images = {each["image"] for _, each in every_container(resources) if "voting" in each["image"]}
    assert images == {f"ghcr.io/someone/voting:1.2.3@{digest}"}
    assert one(resources, "Job", "migrate")["metadata"]["name"] == "migrate-1-2-3"
    assert list(pods.the_job_is_named_after_its_image(resources)) == []


@pytest.mark.parametrize(
    ("repository", "code"), [("Someone/Voting", 0), ("someone/else", 1), ("someone/votin.", 1)]
)
def test_a_release_is_refused_if_the_demo_names_another_image(
    copy: Path, repository: str, code: int
):
    path = copy / DEMO / "kustomization.yaml"
    path.write_text(path.read_text().replace("OWNER/", "someone/"))
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    *_, step = workflow["jobs"]["version"]["steps"]
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        cwd=copy.parent,
        env=os.environ | step["env"] | {"GITHUB_REPOSITORY": repository},
        capture_output=True,
        check=False,
    )
    assert done.returncode == code


# --- the examples


def documents(name: str) -> dict[str, Resource]:
    return {each["kind"]: each for each in yaml.safe_load_all((EXAMPLES / name).read_text())}


# Validated once against the schemas of Argo CD 3.5 and Flux 2.9, which are too large to keep here.
def sources() -> dict[str, tuple[str, str, str, list[Resource]]]:
    """Return of each example the address and the tag of the artifact, the path, and the patches."""
    flux = documents("flux/voting.yaml")
    artifact, applied = (flux[kind]["spec"] for kind in ("OCIRepository", "Kustomization"))
    assert applied["sourceRef"] == {
        "kind": "OCIRepository",
        "name": flux["OCIRepository"]["metadata"]["name"],
    }
    argocd = documents("argocd/voting.yaml")["Application"]["spec"]["source"]
    return {
        "flux": (artifact["url"], artifact["ref"]["tag"], applied["path"], applied["patches"]),
        "argocd": (
            argocd["repoURL"],
            argocd["targetRevision"],
            argocd["path"],
            argocd["kustomize"]["patches"],
        ),
    }


@pytest.mark.parametrize("example", ["flux", "argocd"])
def test_an_example_applies_what_a_release_publishes_with_other_addresses(copy: Path, example: str):
    url, tag, path, patches = sources()[example]
    workflow = (ROOT / ".github/workflows/release.yml").read_text()
    assert 'echo "artifact=$image/deploy"' in workflow
    assert url == "oci://ghcr.io/OWNER/voting/deploy"
    assert re.fullmatch(r"\d+\.\d+\.\d+", tag)
    release(copy, f"sha256:{'5' * 64}")
    # The artifact has the folder `deploy` at its root.
    resources = edit(copy.parent / path, patches=patches)
    held = (policies.voters_use_tls, *MISTAKES)
    assert [each for policy in held for each in policy(resources)] == []
    # The way in follows the addresses.
    text = yaml.safe_dump(resources)
    assert text.count("https://vote.example.org") == 1
    assert text.count("vote.example.org") > 1
    assert not re.findall(r"example\.com|s3://example", text)


@pytest.mark.parametrize("kind", [DEMO, PRODUCTION])
def test_a_component_can_be_added_where_patches_are(copy: Path, kind: str):
    release(copy, f"sha256:{'5' * 64}")
    resources = edit(copy / kind, components=["../../components/load-check"])
    job = one(resources, "Job", "check")
    assert job["metadata"]["name"] == "check-1-2-3"
    assert containers(job)[0]["image"] == container(resources)["image"]


def test_flux_applies_only_what_the_workflow_of_the_repository_has_signed():
    verify = documents("flux/voting.yaml")["OCIRepository"]["spec"]["verify"]
    [signer] = verify["matchOIDCIdentity"]
    made_by = "https://github.com/{}/.github/workflows/{}@refs/tags/v1.2.3"
    assert verify["provider"] == "cosign"
    assert re.search(signer["issuer"], "https://token.actions.githubusercontent.com")
    assert re.search(signer["subject"], made_by.format("OWNER/voting", "release.yml"))
    for other in (("OTHER/voting", "release.yml"), ("OWNER/voting", "check.yml")):
        assert not re.search(signer["subject"], made_by.format(*other))


def test_both_delete_what_is_of_an_earlier_version_and_undo_what_was_changed_by_hand():
    flux = documents("flux/voting.yaml")["Kustomization"]["spec"]
    assert (flux["prune"], flux["wait"]) == (True, True)
    application = documents("argocd/voting.yaml")["Application"]
    policy = application["spec"]["syncPolicy"]
    assert policy["automated"] == {"prune": True, "selfHeal": True}
    assert {"ServerSideApply=true", "PruneLast=true"} <= {*policy["syncOptions"]}
    options = application["metadata"]["annotations"]["argocd.argoproj.io/compare-options"]
    assert options == "ServerSideDiff=true"
