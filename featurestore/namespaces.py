"""Namespaces: the part before the slash in a name like `risk/card_activity`, the boundary of a team or a project."""

from __future__ import annotations

DEFAULT = "default"
"""The namespace of names without a slash. It is never written."""


def namespace_of(name: str) -> str:
    """The namespace of a source, entity, view or service by its full name."""
    namespace, slash, _ = name.partition("/")
    return namespace if slash else DEFAULT


def folder_name(name: str) -> str:
    """The one folder that stands for a full name: `risk.card_activity`, for no name has a dot."""
    return name.replace("/", ".")


def name_of_folder(folder: str) -> str:
    """The full name that `folder_name` made a folder's name of."""
    return folder.replace(".", "/")
