# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]>=2026.8.10"]
# [tool.nox]
# script-venv-backend = "virtualenv"  # has pip, which knows where packages come from
# ///
"""Every check of the project, one session each: `nox` runs those that need no cluster.

`pip install nox` is enough: nox installs uv from the block above, and uv makes the environments of
the sessions in seconds. With CI=true a missing browser fails its session; elsewhere it is skipped.
"""

import ast
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv"
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"
# Tests wait often: a second session uses the cores meanwhile.
nox.options.parallel = 2
nox.options.allow_parallel = True
nox.options.sessions = [
    *("lint", "types", "manifests", "unit", "integration", "simulation", "faults"),
    *("acceptance", "browser", "e2e_local", "coverage"),
]


# uv does not read pip's configuration: these options of pip are these variables of uv.
PIP_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT",
}


def configure_uv_as_pip() -> None:
    """Have uv install from where pip does, unless uv's own variables are set."""
    # pip takes a version from any of its indexes; hashes decide which file is right.
    os.environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    if importlib.util.find_spec("pip"):
        command = (sys.executable, "-m", "pip", "config", "list")
        listed = subprocess.check_output(command, text=True)
        for option, value in re.findall(r"^(?::env:|global)\.([\w-]+)=(.+)$", listed, re.MULTILINE):
            if variable := PIP_TO_UV.get(option):
                os.environ.setdefault(variable, " ".join(ast.literal_eval(value).split()))


configure_uv_as_pip()

# Each of the processes has its own Postgres and Valkey.
IN_PARALLEL = ("--numprocesses=2", "--dist=worksteal")


def install(session: nox.Session) -> None:
    """Install the locked packages, then the project itself without its dependencies."""
    session.install("--require-hashes", "-r", "requirements/dev.txt")
    session.install("--no-deps", "--no-build-isolation", "-e", ".")
    # Tests start the command hundreds of times: compile modules once, even if the environment of
    # the caller, like that of many containers, would compile them at each start.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""


def install_image_packages(session: nox.Session, *locks: str) -> str:
    """Make an environment with the packages of the image, and return the path of its Python."""
    image = Path(session.create_tmp()) / "image"
    session.run("uv", "venv", "--quiet", "--clear", str(image))
    python = str(image / "bin/python")
    for lock in locks:
        install = ("uv", "pip", "install", "--quiet", "--python", python)
        session.run(*install, "--require-hashes", "-r", f"requirements/{lock}.txt")
    return python


def install_only(session: nox.Session, name: str) -> None:
    """Install one package, which needs no other, in its locked version."""
    lock = Path("requirements/dev.txt").read_text()
    entry = Path(session.create_tmp()) / "requirements.txt"
    entry.write_text(re.search(rf"^{name}==(.|\n )*", lock, re.MULTILINE)[0])
    session.install("--require-hashes", "--requirement", str(entry))


def measured(session: nox.Session, folder: str, *options: str) -> None:
    """Run a folder's tests, or those that the command line names, and record what they execute."""
    session.env["COVERAGE_FILE"] = f".coverage.{session.name}"
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *options, *(session.posargs or [folder]))


@nox.session
def lint(session: nox.Session) -> None:
    """Style and likely mistakes."""
    install_only(session, "ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types over the package."""
    install(session)
    session.run("mypy")


@nox.session
def manifests(session: nox.Session) -> None:
    """`deploy/`, `compose.yaml`, the Dockerfile and `.github/`: syntax, policies, our own rules.

    `-- --gateway-api=FOLDER` also validates the Gateway against its CRDs: `config/crd/standard` of
    the Gateway API.
    """
    session.install("--require-hashes", "-r", "requirements/manifests.txt")
    session.run("yamllint", "--strict", "deploy", ".github", "compose.yaml")
    session.run("hadolint", "Dockerfile")
    workflows = sorted(map(str, Path(".github/workflows").iterdir()))
    for schema, files in (
        ("vendor.github-workflows", workflows),
        ("custom.github-workflows-require-timeout", workflows),
        ("vendor.dependabot", [".github/dependabot.yml"]),
        ("vendor.github-issue-forms", sorted(map(str, Path(".github/ISSUE_TEMPLATE").iterdir()))),
        ("vendor.compose-spec", ["compose.yaml"]),
    ):
        session.run("check-jsonschema", "--builtin-schema", schema, *files)
    # Offline, so that the result depends on this repository alone.
    session.run("zizmor", "--offline", "--strict-collection", "--persona", "pedantic", ".github")
    rendered = Path(session.create_tmp())
    for overlay in ("kind", "kind-gateway", "kind-replicated", "production"):
        text = session.run("kubectl", "kustomize", f"deploy/overlays/{overlay}", silent=True)
        (rendered / f"{overlay}.yaml").write_text(text)
    shutil.copy("Dockerfile", rendered)
    policies = ("--config-file", "deploy/checkov.yaml", "--quiet", "--compact")
    frameworks = ("--framework", "kubernetes", "dockerfile")
    session.run("checkov", *policies, *frameworks, "--directory", str(rendered))
    # The package is imported from the working directory: it cannot be installed here, because its
    # dependencies conflict with those of checkov.
    tests = ("pytest", "tests/manifests", *IN_PARALLEL, *session.posargs)
    session.run(*tests, env={"PYTHONPATH": "."})


@nox.session
def unit(session: nox.Session) -> None:
    """Single modules, without servers."""
    install(session)
    measured(session, "tests/unit", *IN_PARALLEL)


@nox.session
def integration(session: nox.Session) -> None:
    """Modules against real Postgres and Valkey, each test with its own database and stream."""
    install(session)
    measured(session, "tests/integration", *IN_PARALLEL)


@nox.session
def simulation(session: nox.Session) -> None:
    """The queue and the worker on simulated servers, through seeded faults: `-- --seeds N`."""
    install(session)
    session.run("pytest", "tests/simulation", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Real servers and roles under load, through every fault: `-- --votes N --repeat K`."""
    install(session)
    if shutil.which("strace") is None:
        install_package("strace")
    only = "/test_faults.py" if session.posargs else ""  # the options are for these tests
    session.run("pytest", f"tests/faults{only}", *IN_PARALLEL, *session.posargs)


@nox.session
def acceptance(session: nox.Session) -> None:
    """The commands, started as a user starts them."""
    install(session)
    # Not measured: that takes a third of the start of a process, and unit and integration tests
    # reach each line of the core.
    session.run("pytest", *IN_PARALLEL, *(session.posargs or ["tests/acceptance"]))


@nox.session
def browser(session: nox.Session) -> None:
    """The pages in a real Chromium."""
    install(session)
    chromium = find_chromium(session)
    if chromium is None:
        session.skip(NO_CHROMIUM)
    tests = session.posargs or ["tests/browser"]
    session.run("pytest", *IN_PARALLEL, *tests, env={"CHROMIUM": chromium})


@nox.session(default=False)
def screenshots(session: nox.Session) -> None:
    """Pictures of every state of the pages, in `screenshots/`, and those of the README."""
    install(session)
    chromium = find_chromium(session)
    if chromium is None:
        session.error(NO_CHROMIUM)
    session.run(
        *("pytest", "tests/browser/test_states.py", "tests/browser/readme.py", *session.posargs),
        env={"CHROMIUM": chromium, "SCREENSHOTS": "screenshots"},
    )


@nox.session
def e2e_local(session: nox.Session) -> None:
    """Votes from the page to the result, also while processes die, with `voting up`."""
    install(session)
    session.run(
        *("pytest", "e2e", *session.posargs),
        env={"CHROMIUM": find_chromium(session)},
        interrupt_timeout=60,  # after Ctrl-C, to stop what the tests started
    )


@nox.session(default=False)
def e2e(session: nox.Session) -> None:
    """The same through the Ingress of a cluster, and Kubernetes itself: docker, kind, kubectl.

    `-- --keep` keeps the cluster, `-- --use-existing` uses the one that was kept, `-- --replicated`
    runs Redis in three pods. `-- --gateway` goes through a Gateway instead. Its CRDs come from the
    Internet, or from `--gateway-api=FOLDER`: `config/crd/standard` of the Gateway API.
    """
    missing = session.run("python", "e2e/needs.py", silent=True, success_codes=[0, 1])
    if missing:
        session.error(missing.strip())
    install(session)
    session.run(
        *("pytest", "e2e", "--target=cluster", *session.posargs),
        env={"CHROMIUM": find_chromium(session)},
        interrupt_timeout=300,  # after Ctrl-C, to remove the cluster
    )


@nox.session(default=False)
def quick(session: nox.Session) -> None:
    """Style, types, unit tests and a short simulation: two minutes, for use while editing."""
    install(session)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("pytest", "tests/unit", *IN_PARALLEL)
    session.run("pytest", "tests/simulation", "--seeds=200")


@nox.session(requires=["unit", "integration"])
def coverage(session: nox.Session) -> None:
    """Report the lines and branches that unit and integration tests have executed."""
    install_only(session, "coverage")
    session.run("coverage", "combine", silent=True)
    session.run("coverage", "report")
    # A line here that no test executes could lose a vote.
    core = ",".join(f"voting/{path}" for path in CORE)
    session.run("coverage", "report", f"--include={core}", "--fail-under=100")


@nox.session(default=False)
def lowest(session: nox.Session) -> None:
    """Unit and integration tests with the lowest version of each package that is allowed."""
    packages = ("--editable", ".[local,tracing]", "--group", "dev")
    session.install("--resolution=lowest-direct", *packages)
    tests = session.posargs or ["tests/unit", "tests/integration", "tests/faults/test_faults.py"]
    # Of the faults, those that show whether clients give up a connection by themselves.
    session.run("pytest", *IN_PARALLEL, "-k", "not test_faults or silent", *tests)


@nox.session(default=False)
def image(session: nox.Session) -> None:
    """Build the image and test it. `-- BASE` builds from another base image, with its Python."""
    engine = next(filter(is_usable, ("docker", "podman", "buildah")), None)
    if engine is None:
        session.error("docker, podman or buildah is required")
    install(session)
    version = session.run("voting", "--version", silent=True).strip()
    commit = session.run("git", "rev-parse", "HEAD", external=True, silent=True).strip()
    # The full name, to which Kubernetes expands a short one.
    name = "docker.io/library/voting:dev"
    arguments = [f"VERSION={version}", f"COMMIT={commit}", *(f"BASE={b}" for b in session.posargs)]
    session.run(
        *(engine, "build", "--tag", name, *(f"--build-arg={each}" for each in arguments)),
        # chroot needs no privileges and works inside a container. podman and buildah would reuse
        # a cached layer although the commit has changed.
        *(("--isolation=chroot", "--no-cache") if engine != "docker" else ()),
        ".",
        external=True,
    )
    env = {"VOTING_ENGINE": engine, "VOTING_IMAGE": name, "VOTING_COMMIT": commit}
    session.run("pytest", "tests/image", env=env)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure each part against its bottleneck, into `bench.json`: `-- --only count` for one."""
    install(session)
    # Roles are measured without the packages of the tests, which would take memory too.
    python = install_image_packages(session, "app")
    env = {"BENCH_PYTHON": python, "PYTHONPATH": os.pathsep.join((".", "tests"))}
    session.run("python", "-m", "bench", *session.posargs, env=env)


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Secrets in the tree, licences, an SBOM, known vulnerabilities (from the Internet)."""
    session.install("--require-hashes", "-r", "requirements/audit.txt")
    tree = session.run("git", "ls-files", external=True, silent=True).splitlines()
    scanned = [path for path in tree if not path.startswith("requirements/")]  # those have hashes
    session.run("detect-secrets-hook", *NO_SECRETS, *scanned)
    python = install_image_packages(session, "app")
    about = ("--pyproject", "pyproject.toml", "--output-file", "sbom.json")
    session.run("cyclonedx-py", "environment", *about, python)
    # Images built for tracing have more packages.
    python = install_image_packages(session, "app", "tracing")
    session.run("pip-licenses", *LICENCES, "--python", python, "--from=mixed", silent=True)
    options = ("--strict", "--require-hashes", "--disable-pip", "--progress-spinner=off")
    for lock in sorted(Path("requirements").glob("*.txt")):
        session.run("pip-audit", *options, f"--requirement={lock}", *session.posargs)


@nox.session(default=False)
def translations(session: nox.Session) -> None:
    """Bring the catalogs up to date with the texts of the pages: new ones are to be translated."""
    install(session)
    texts = str(Path(session.create_tmp()) / "voting.pot")
    plain = ("--no-wrap", "--output-file", texts)
    session.run(
        *("pybabel", "extract", "--mapping-file=pyproject.toml", "--add-location=file", *plain),
        "voting",
    )
    kept = ("--no-wrap", "--no-fuzzy-matching", "--ignore-obsolete", "--ignore-pot-creation-date")
    session.run(
        *("pybabel", "update", "--domain=voting", f"--input-file={texts}", *kept),
        "--output-dir=voting/web/locales",
    )


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Lock the newest version of every dependency, with its hashes."""
    options = ("--universal", "--generate-hashes", "--upgrade", "--quiet")
    # The files contain no addresses: each user installs from their own index.
    plain = ("--no-header", "--no-annotate")
    for name, sources in (
        ("app", ("pyproject.toml",)),
        ("tracing", ("pyproject.toml", "--extra", "tracing")),
        ("dev", ("pyproject.toml", "--all-extras", "--group", "dev")),
        ("manifests", ("pyproject.toml", "--group", "manifests")),
        ("audit", ("--group", "audit")),
        ("build", ("--group", "build")),
    ):
        output = ("--output-file", f"requirements/{name}.txt")
        session.run("uv", "pip", "compile", *options, *plain, *sources, *output)


# Looks like a secret but is not: names of Secrets, digests of tools, words of tests, and what the
# overlay `kind` publishes.
NO_SECRETS = (
    "--exclude-lines=secretName: |_SHA256: |# Secrets: ",
    "--exclude-secrets=^(hidden|secret|short|redis-password|4bf92f3577b34da6a3ce929d0e0e4736)$",
    "--exclude-secrets=^insecure(-key-of-cookies)?$",
)

# Licences that ask for a notice at most.
LICENCES = (
    "--allow-only",
    ";".join(
        (
            *("3-Clause BSD License", "Apache Software License", "Apache-2.0"),
            *("Apache-2.0 AND BSD-2-Clause", "BSD License", "BSD-2-Clause", "BSD-3-Clause", "MIT"),
            *("MIT AND PSF-2.0", "MIT License", "MIT OR Apache-2.0", "PSF-2.0"),
            "Mozilla Public License 2.0 (MPL 2.0)",
        )
    ),
    # Its metadata has the text of the MIT licence in place of the name.
    *("--ignore-packages", "rich-click"),
)

# The modules between an acknowledged vote and its count.
CORE = (
    *("queue/*", "reconcile/*", "roles/worker.py", "roles/maintenance.py"),
    *(f"database/{each}.py" for each in ("counting", "folding", "poll", "totals")),
)

NO_CHROMIUM = "no Chromium was found, and none could be installed"


def is_usable(engine: str) -> bool:
    """Whether an image builder is installed and, if it has a service, that is running."""
    if shutil.which(engine) is None:
        return False
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.run([engine, "info"], check=False, **quiet).returncode == 0


def find_chromium(session: nox.Session) -> str | None:
    """Return the path of a Chromium, installed if necessary, or None if there is none.

    Fails the session instead of returning None if CI is set.
    """
    found = installed_chromium(session)
    if found is None:
        ignore_failure = list(range(256))
        session.run("playwright", "install", "chromium", success_codes=ignore_failure, silent=True)
        found = installed_chromium(session)
    if found is None:
        install_package("chromium")
        found = installed_chromium(session)
    if found is None and os.environ.get("CI"):
        session.error(NO_CHROMIUM)
    return found


def install_package(name: str) -> None:
    """Install a package of the distribution, if that is Debian's and the user is root."""
    if sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get"):
        with Path(".nox/apt.lock").open("w") as lock:  # sessions may run at the same time
            fcntl.flock(lock, fcntl.LOCK_EX)
            for command in (["update"], ["install", "--yes", "--no-install-recommends", name]):
                words = ["apt-get", "--quiet", *command]
                subprocess.run(words, check=False, stdout=subprocess.DEVNULL)


def installed_chromium(session: nox.Session) -> str | None:
    """Return the path of Playwright's Chromium, or of one on the PATH."""
    code = (
        "from playwright.sync_api import sync_playwright as p\n"
        "with p() as playwright: print(playwright.chromium.executable_path)"
    )
    own = (session.run("python", "-c", code, silent=True) or "").strip()
    if Path(own).is_file():
        return own
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)
