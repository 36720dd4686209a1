"""Name an image in the overlays that run a release, in this checkout.

python set_image.py ghcr.io/owner/voting 1.2.3 sha256:...
"""

import re
import sys
from pathlib import Path

DEPLOY = Path(__file__).parent.parent / "deploy"
OVERLAYS = ("demo", "production")

IMAGES = re.compile(r"^images:\n  - name: voting\n(    .+\n)+", re.MULTILINE)


def set_image(deploy: Path, name: str, tag: str, digest: str) -> None:
    """Set the image in each of OVERLAYS. Raises ValueError if one does not name exactly one."""
    new = (
        "images:\n"
        "  - name: voting\n"
        f"    newName: {name}\n"
        f'    newTag: "{tag}"\n'
        f"    digest: {digest}\n"
    )
    for overlay in OVERLAYS:
        path = deploy / "overlays" / overlay / "kustomization.yaml"
        text, found = IMAGES.subn(new, path.read_text())
        if found != 1:
            raise ValueError(f"{path} names {found} images")
        path.write_text(text)


if __name__ == "__main__":
    set_image(DEPLOY, *sys.argv[1:])
