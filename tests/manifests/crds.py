"""Validates custom resources as the API server does: against the schemas of their CRDs.

The rules in CEL, `x-kubernetes-validations`, are not evaluated: the API server does that.
"""

from collections.abc import Iterator
from pathlib import Path

import jsonschema
import yaml

from .rendering import Resource

ValidationError = jsonschema.ValidationError


def schema(folder: Path, resource: Resource) -> Resource:
    """Find the schema of a resource's kind and version in a folder with a CRD in each file."""
    group, _, version = resource["apiVersion"].partition("/")
    [found] = [
        each["schema"]["openAPIV3Schema"]
        for path in folder.glob(f"{group}_{resource['kind'].lower()}*.yaml")
        for spec in [yaml.safe_load(path.read_text())["spec"]]
        for each in spec["versions"]
        if (spec["names"]["kind"], each["name"]) == (resource["kind"], version)
    ]
    return found


def validate(resource: Resource, schema: Resource) -> None:
    """Raise ValidationError, also for a field that the schema does not have."""
    jsonschema.validate(resource, _strict(schema))


def _strict(schema: Resource) -> Resource:
    strict = dict(schema)
    if "properties" in schema:
        strict["properties"] = {key: _strict(each) for key, each in schema["properties"].items()}
        strict["additionalProperties"] = False
    if "items" in schema:
        strict["items"] = _strict(schema["items"])
    return strict


def missing_defaults(resource: Resource, schema: Resource) -> Iterator[str]:
    """Yield the path of each field with a default that the resource's specification lacks."""
    yield from _missing(resource["spec"], schema["properties"]["spec"], "spec")


def _missing(value: object, schema: Resource, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in schema.get("properties", {}).items():
            if key in value:
                yield from _missing(value[key], each, f"{path}.{key}")
            elif "default" in each:
                yield f"{path}.{key}"
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _missing(each, schema["items"], f"{path}.{number}")
