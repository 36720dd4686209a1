"""Every check of the project, a session each: `nox` runs those that need no cluster.

With CI=true a browser that is missing fails its session; elsewhere it is skipped.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.error_on_missing_interpreters = True
nox.options.reuse_venv = "yes"
nox.options.sessions = [
    *("lint", "types", "manifests", "unit", "integration", "simulation", "faults"),
    *("acceptance", "browser", "e2e_local", "coverage"),
]


def install(session: nox.Session) -> None:
    """Install what the lock file names, then the project without looking for anything else."""
    session.install("--require-hashes", "-r", "requirements/dev.txt")
    session.install("--no-deps", "--no-build-isolation", "-e", ".")
    # Tests start the command some hundred times: it is compiled once, also where the environment,
    # as that of many a container, would have each start compile all again.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""


def install_into(session: nox.Session, python: str, lock: str) -> None:
    """Install what `requirements/{lock}.txt` names into the environment of another Python."""
    pip = ("python", "-m", "pip", "--python", python, "install", "--quiet")
    session.run(*pip, "--require-hashes", "-r", f"requirements/{lock}.txt")


def as_in_the_image(session: nox.Session) -> str:
    """Make an environment with the packages that the image has; tell its Python."""
    image = Path(session.create_tmp()) / "image"
    session.run("python", "-m", "venv", "--clear", "--without-pip", str(image))
    python = str(image / "bin/python")
    install_into(session, python, "app")
    return python


def install_only(session: nox.Session, name: str) -> None:
    """Install one package that needs no other, as the lock file has it."""
    lock = Path("requirements/dev.txt").read_text()
    alone = Path(session.create_tmp()) / "requirements.txt"
    alone.write_text(re.search(rf"^{name}==(.|\n )*", lock, re.MULTILINE)[0])
    session.install("--require-hashes", "--requirement", str(alone))


def tests(session: nox.Session, *folders: str, env: dict[str, str] | None = None) -> None:
    session.run("coverage", "run", "-m", "pytest", *(session.posargs or folders), env=env)


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
    """What `deploy/`, the Dockerfile and `.github/` say: syntax, policies, what no tool knows."""
    session.install("--require-hashes", "-r", "requirements/manifests.txt")
    session.run("yamllint", "--strict", "deploy", ".github")
    session.run("hadolint", "Dockerfile")
    workflows = sorted(map(str, Path(".github/workflows").iterdir()))
    for schema, files in (
        ("vendor.github-workflows", workflows),
        ("custom.github-workflows-require-timeout", workflows),
        ("vendor.dependabot", [".github/dependabot.yml"]),
    ):
        session.run("check-jsonschema", "--builtin-schema", schema, *files)
    # Asks nobody: the same today and tomorrow, and the same without a network.
    session.run("zizmor", "--offline", "--strict-collection", "--persona", "pedantic", ".github")
    rendered = Path(session.create_tmp())
    for overlay in ("kind", "production"):
        text = session.run("kubectl", "kustomize", f"deploy/overlays/{overlay}", silent=True)
        (rendered / f"{overlay}.yaml").write_text(text)
    policies = ("--config-file", "deploy/checkov.yaml", "--quiet", "--compact")
    session.run("checkov", *policies, "--framework", "kubernetes", "--directory", str(rendered))
    session.run("checkov", *policies, "--framework", "dockerfile", "--file", "Dockerfile")
    # The package itself is read where it is: what builds it and what checks policies differ in
    # what they need.
    session.run("pytest", "tests/manifests", *session.posargs, env={"PYTHONPATH": "."})


@nox.session
def unit(session: nox.Session) -> None:
    """One module at a time, with no server."""
    install(session)
    session.run("coverage", "erase")
    tests(session, "tests/unit")


@nox.session
def integration(session: nox.Session) -> None:
    """Real Postgres and Valkey, each test with its own database and stream."""
    install(session)
    tests(session, "tests/integration")


@nox.session
def simulation(session: nox.Session) -> None:
    """The stream and the worker against models, through seeded faults: `-- --seeds N`."""
    install(session)
    session.run("pytest", "tests/simulation", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Real servers and roles, and whatever may happen: `-- --votes N --repeat K` for longer."""
    install(session)
    if shutil.which("strace") is None:
        install_package("strace")
    only = "/test_faults.py" if session.posargs else ""
    session.run("pytest", f"tests/faults{only}", *session.posargs)


@nox.session
def acceptance(session: nox.Session) -> None:
    """The commands, started as a user starts them."""
    install(session)
    tests(session, "tests/acceptance")


@nox.session
def browser(session: nox.Session) -> None:
    """The pages in a real Chromium."""
    install(session)
    chromium = find_chromium(session)
    if chromium is None:
        session.skip(NO_CHROMIUM)
    tests(session, "tests/browser", env={"CHROMIUM": chromium})


@nox.session(default=False)
def screenshots(session: nox.Session) -> None:
    """Pictures of every state of the pages, and how each reads aloud: into `screenshots/`."""
    install(session)
    chromium = find_chromium(session)
    if chromium is None:
        session.error(NO_CHROMIUM)
    session.run(
        *("pytest", "tests/browser/test_states.py", *session.posargs),
        env={"CHROMIUM": chromium, "SCREENSHOTS": "screenshots"},
    )


@nox.session
def e2e_local(session: nox.Session) -> None:
    """From the vote to the result, and whatever happens in between, with `voting up`."""
    install(session)
    session.run(
        *("coverage", "run", "-m", "pytest", "e2e", *session.posargs),
        env={"CHROMIUM": find_chromium(session)},
        interrupt_timeout=60,  # by Ctrl-C: for stopping what it has started
    )


@nox.session(default=False)
def e2e(session: nox.Session) -> None:
    """The same through the Ingress of a cluster, and Kubernetes itself: docker, kind, kubectl.

    `-- --keep` leaves the cluster there, `-- --use-existing` uses it.
    """
    lack = session.run("python", "e2e/needs.py", silent=True, success_codes=[0, 1])
    if lack:
        session.error(lack.strip())
    install(session)
    session.run(
        *("pytest", "e2e", "--target=cluster", *session.posargs),
        env={"CHROMIUM": find_chromium(session)},
        interrupt_timeout=300,  # by Ctrl-C: for removing the cluster
    )


@nox.session
def coverage(session: nox.Session) -> None:
    """What the sessions before this one have run, line by line and branch by branch."""
    install_only(session, "coverage")
    session.run("coverage", "combine", silent=True)
    session.run("coverage", "report")
    # Where a line that nobody ran could lose a vote.
    core = ",".join(
        f"voting/{name}.py" for name in ("casting", "rounds", "stream", "tally", "roles/worker")
    )
    session.run("coverage", "report", f"--include={core}", "--fail-under=100")


@nox.session(default=False)
def image(session: nox.Session) -> None:
    """Build the image and look into it. `-- BASE` builds from another base, with its Python."""
    engine = next(filter(works, ("docker", "podman", "buildah")), None)
    if engine is None:
        session.error("none of docker, podman and buildah is here and works")
    install(session)
    version = session.run("voting", "--version", silent=True).strip()
    commit = session.run("git", "rev-parse", "HEAD", external=True, silent=True).strip()
    # The whole name, as what Kubernetes makes of a short one.
    name = "docker.io/library/voting:dev"
    arguments = [f"VERSION={version}", f"COMMIT={commit}", *(f"BASE={b}" for b in session.posargs)]
    session.run(
        *(engine, "build", "--tag", name, *(f"--build-arg={each}" for each in arguments)),
        # Needs no rights over the machine, and works inside a container. Nothing is taken from the
        # last build: these two would keep a layer though the commit is another.
        *(("--isolation=chroot", "--no-cache") if engine != "docker" else ()),
        ".",
        external=True,
    )
    looks = {"VOTING_ENGINE": engine, "VOTING_IMAGE": name, "VOTING_COMMIT": commit}
    session.run("pytest", "tests/image", env=looks)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """How fast it is, beside what limits it, into `bench.json`: `-- --only count` for a part."""
    install(session)
    # Packages that only tests need would take memory too.
    env = {"BENCH_PYTHON": as_in_the_image(session), "PYTHONPATH": os.pathsep.join((".", "tests"))}
    session.run("python", "-m", "bench", *session.posargs, env=env)


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Secrets in the tree, licences, an SBOM, known vulnerabilities: the last are asked for."""
    session.install("--require-hashes", "-r", "requirements/audit.txt")
    tree = session.run("git", "ls-files", external=True, silent=True).splitlines()
    looked_at = [each for each in tree if not each.startswith("requirements/")]  # hashes
    session.run("detect-secrets-hook", *NO_SECRETS, *looked_at)
    python = as_in_the_image(session)
    about = ("--pyproject", "pyproject.toml", "--output-file", "sbom.json")
    session.run("cyclonedx-py", "environment", *about, python)
    # Some have these as well.
    install_into(session, python, "tracing")
    session.run("pip-licenses", *LICENCES, "--python", python, "--from=mixed", silent=True)
    asked = ("--strict", "--require-hashes", "--disable-pip", "--progress-spinner=off")
    for lock in sorted(Path("requirements").glob("*.txt")):
        session.run("pip-audit", *asked, f"--requirement={lock}", *session.posargs)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Find new versions of all dependencies, and write them down with their hashes."""
    session.install("uv")
    options = ("--universal", "--generate-hashes", "--upgrade", "--quiet")
    # The files hold no addresses: whoever installs from them has their own.
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


# What looks like a secret and is none: names of Secrets, digests of tools, words of tests. The
# passwords of the overlay `kind` do not look like any.
NO_SECRETS = (
    "--exclude-lines=secretName: |_SHA256: |# Secrets: ",
    "--exclude-secrets=^(hidden|secret|short|redis-password|4bf92f3577b34da6a3ce929d0e0e4736)$",
)

# Whoever has one of these has to be named, and no more.
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
    # Has the text of the MIT licence where its name should be.
    *("--ignore-packages", "rich-click"),
)

NO_CHROMIUM = "no Chromium is here and none can be installed"


def works(engine: str) -> bool:
    """Whether a builder of images is here, and so is the service behind it, if it has one."""
    if shutil.which(engine) is None:
        return False
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.run([engine, "info"], check=False, **quiet).returncode == 0


def find_chromium(session: nox.Session) -> str | None:
    """Find a Chromium, or install Playwright's own, else the distribution's when root.

    Where neither can be, says so, and ends the session where CI is set.
    """
    found = chromium_here_or_installed(session)
    if found is None and os.environ.get("CI"):
        session.error(NO_CHROMIUM)
    return found


def chromium_here_or_installed(session: nox.Session) -> str | None:
    if found := chromium_here(session):
        return found
    session.run("playwright", "install", "chromium", success_codes=list(range(256)), silent=True)
    if found := chromium_here(session):
        return found
    install_package("chromium")
    return chromium_here(session)


def install_package(name: str) -> None:
    """Install a package of the distribution, where that is Debian's and this is root."""
    if sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get"):
        for command in (["update"], ["install", "--yes", "--no-install-recommends", name]):
            subprocess.run(["apt-get", "--quiet", *command], check=False, stdout=subprocess.DEVNULL)


def chromium_here(session: nox.Session) -> str | None:
    """Tell the path of a Chromium on this machine: Playwright's, or one on the PATH."""
    code = (
        "from playwright.sync_api import sync_playwright as p\n"
        "with p() as playwright: print(playwright.chromium.executable_path)"
    )
    own = (session.run("python", "-c", code, silent=True) or "").strip()
    if Path(own).is_file():
        return own
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)
