"""An overlay for kind with this run's image and port."""

import yaml

KIND = "deploy/overlays/kind"
GATEWAY = "deploy/overlays/kind-gateway"
REPLICATED = "deploy/overlays/kind-replicated"
APP = f"{KIND}/voting"

# The CRDs of the Gateway API 1.6.1 that Traefik waits for. A commit: a tag can be moved.
CRDS = (
    "https://raw.githubusercontent.com/kubernetes-sigs/gateway-api"
    "/8bb74df00e56ec8f944d48c25e6c1c9c2f6848e3/config/crd/standard"
)
GATEWAY_GROUP = "gateway.networking.k8s.io"
GATEWAY_KINDS = (
    *("gatewayclasses", "gateways", "httproutes", "grpcroutes"),
    *("tlsroutes", "referencegrants", "backendtlspolicies"),
)


def cluster(text: str, name: str, port: int) -> str:
    """Set the name and the port of this machine in a configuration of kind."""
    config = yaml.safe_load(text)
    config["name"] = name
    [node] = config["nodes"]
    [mapping] = node["extraPortMappings"]
    mapping["hostPort"] = port
    return yaml.safe_dump(config, sort_keys=False)


def kustomization(app: str, overlay: str, tag: str, port: int) -> str:
    """Return an overlay of `overlay`. `app` is the text of the kustomization in `APP`."""
    # The replacements put the new tag into the Job's name.
    replacements = yaml.safe_load(app)["replacements"]
    urls = {page: f"http://{page}.localhost:{port}" for page in ("vote", "result")}
    return yaml.safe_dump(
        {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [overlay],
            "images": [{"name": "voting", "newTag": tag}],
            "replacements": replacements,
            "configMapGenerator": [
                {
                    "name": "voting",
                    "namespace": "voting",
                    "behavior": "merge",
                    "literals": [f"{page.upper()}_URL={url}" for page, url in urls.items()],
                }
            ],
        },
        sort_keys=False,
    )
