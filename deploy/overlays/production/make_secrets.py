"""Print the Secrets that this overlay reads, with new passwords. Run it once; store no output.

    python make_secrets.py | kubectl apply --namespace voting -f -

Or pipe it into a tool that seals or stores Secrets. The certificate of the pages is not included.
"""

import hashlib
import json
import secrets
import sys
from pathlib import Path

# The rights of Redis' users are those of the overlays for kind.
OVERLAYS = Path(__file__).parent.parent
USERS = (
    OVERLAYS / "kind/voting/users.acl",
    OVERLAYS / "kind-replicated/voting/replication.acl",
    OVERLAYS / "kind-replicated/voting/sentinel.acl",
)
SENTINELS = "redis-0:26379,redis-1:26379,redis-2:26379"


def make() -> list[dict[str, object]]:
    """Return all Secrets. Each password is in one URL at most, and in at most one other Secret."""
    names = ("vote", "worker", "admin", "keda", "replica", "sentinel")
    redis = {name: secrets.token_hex(24) for name in names}
    users = {
        "migrate": "voting",
        "worker": "voting_worker",
        "result": "voting_result",
        "admin": "voting_admin",
    }
    postgres = {name: secrets.token_hex(24) for name in users}

    def redis_url(name: str) -> str:
        return f"redis+sentinel://{name}:{redis[name]}@{SENTINELS}/voting"

    def database_url(name: str) -> str:
        return f"postgresql://{users[name]}:{postgres[name]}@postgres-rw/voting?sslmode=require"

    def login(name: str) -> dict[str, str]:
        return {"username": users[name], "password": postgres[name]}

    basic = "kubernetes.io/basic-auth"
    return [
        secret("vote", REDIS_URL=redis_url("vote"), SECRET_KEYS=secrets.token_hex(32)),
        secret("worker", REDIS_URL=redis_url("worker"), DATABASE_URL=database_url("worker")),
        secret("result", DATABASE_URL=database_url("result")),
        secret("admin", REDIS_URL=redis_url("admin"), DATABASE_URL=database_url("admin")),
        secret("migrate", DATABASE_URL=database_url("migrate")),
        secret(
            "redis",
            **{path.name: acl(path, redis) for path in USERS},
            # Servers and Sentinels log in to each other.
            **{f"{name}-password": redis[name] for name in ("replica", "sentinel")},
        ),
        secret("keda", username="keda", password=redis["keda"]),
        secret("postgres-owner", basic, **login("migrate")),
        secret("postgres-worker", basic, **login("worker")),
        secret("postgres-result", basic, **login("result")),
        secret("postgres-admin", basic, **login("admin")),
    ]


def acl(path: Path, passwords: dict[str, str]) -> str:
    """Return an ACL file of Redis, with the hash of each user's password."""
    text = path.read_text()
    for name, password in passwords.items():
        digest = hashlib.sha256(password.encode()).hexdigest()
        text = text.replace(f"user {name} on >insecure", f"user {name} on #{digest}")
    if ">" in text:
        sys.exit(f"a user of {path} would keep its published password")
    return text


def secret(name: str, kind: str = "Opaque", **data: str) -> dict[str, object]:
    # The second label: CloudNativePG applies a changed password at once.
    labels = {"app.kubernetes.io/part-of": "voting", "cnpg.io/reload": "true"}
    metadata = {"name": name, "labels": labels}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": kind,
        "stringData": data,
    }


if __name__ == "__main__":
    if sys.stdout.isatty():
        sys.exit(
            "refusing to print passwords: pipe them to `kubectl apply --namespace voting -f -`."
        )
    json.dump({"apiVersion": "v1", "kind": "List", "items": make()}, sys.stdout, indent=2)
