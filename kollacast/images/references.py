"""What an image is called in an image file, from what it is called where it comes from."""

from __future__ import annotations

import re

from kollacast.images.layout import COMPONENT, TAG, BadImage, quoted

_NAMESPACE = re.compile(rf"{COMPONENT}(?:/{COMPONENT})*", re.ASCII)
_NAME = re.compile(rf"{COMPONENT}(?:/{COMPONENT})*:{TAG}", re.ASCII)


def name_of(reference: str) -> str:
    """`repository:tag` of a reference such as "quay.io/openstack.kolla/nova-api:2024.1".

    The registry's host is left out, as Docker tells it from a part of the repository; "latest" is
    the tag of a reference without one. Raises BadImage.
    """
    first, slash, rest = reference.partition("/")
    is_host = slash and (first == "localhost" or "." in first or ":" in first)
    name = rest if is_host else reference
    if "@" in name:
        raise BadImage(f"{quoted(reference)}: an image needs a tag, to be pulled by")
    if ":" not in name:
        name += ":latest"
    if not _NAME.fullmatch(name):
        raise BadImage(f"{quoted(reference)}: is no image's name, as in registry/repository:tag")
    return name


def with_namespace(name: str, namespace: str | None) -> str:
    """`repository:tag` in `namespace`, if it has none; a None changes nothing."""
    return f"{namespace}/{name}" if namespace and has_no_namespace(name) else name


def has_no_namespace(name: str) -> bool:
    """Whether a `repository:tag` is not in a folder of images, as those of Kolla are."""
    return "/" not in name


def is_namespace(word: str) -> bool:
    """Whether this can be the first part of a repository, or several."""
    return bool(_NAMESPACE.fullmatch(word))
