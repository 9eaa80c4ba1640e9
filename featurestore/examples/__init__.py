"""Examples: projects that run as they stand. Their files are templates, their generators make the events that fit.

`featurestore init` writes an example's files, `featurestore demo` runs it; both go by the table in `table.py`.
"""

from featurestore.examples.files import template_root, write_project
from featurestore.examples.table import BY_NAME, DEFAULT, Example, Span

__all__ = ["BY_NAME", "DEFAULT", "Example", "Span", "template_root", "write_project"]
