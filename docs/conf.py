"""Sphinx: what the pages are made by (`make docs`, strict)."""

from importlib.metadata import version as installed

project = "moco"
author = "the moco developers"
release = version = installed("momentum-contrast")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
html_theme = "furo"
html_title = f"moco {release}"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_use_ivar = True
copybutton_prompt_text = "$ "
nitpicky = False
