"""How Sphinx builds this folder: `sphinx-build -n -W --keep-going docs build/site`.

The pages are Markdown, so that they read as well on GitHub; the reference is made from the
docstrings of the installed package. Nothing is fetched from the network.
"""

from importlib.metadata import version as _version

project = "swa-fast"
author = "the swa-fast authors"
copyright = author
release = version = _version("swa-fast")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["plots"]
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|keras|tf_keras|np|os|optional|collections)\b.*"),
    # Entries of a report, described where it is.
    ("py:class", r"swa_fast\.checkpoints\.soups\.Trial"),
]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "dollarmath"]

# `name` in a docstring is code.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "swa-fast"
html_static_path = ["static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"source_edit_link": None}
