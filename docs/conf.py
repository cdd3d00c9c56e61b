"""Sphinx's configuration: `make docs` builds the site into build/docs."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import attnreid  # noqa: E402  (from this checkout)

project = "attnreid"
author = "The attnreid developers"
copyright = author
release = version = attnreid.__version__

extensions = [
    "myst_nb",
    "sphinx_design",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docs.made.extension",
]
exclude_patterns = ["results/ledger"]
nitpicky = True
default_role = "literal"  # the docstrings' single backticks

nb_execution_mode = "off"  # the tests run the notebooks
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Shape", "notes_style"), ("Returns", "notes_style"), ("Fields", "params_style")]
python_display_short_literal_types = True

html_theme = "furo"
html_title = f"attnreid {release}"
html_static_path = ["_static"]
html_extra_path = ["llms.txt"]
html_css_files = ["site.css"]
html_js_files = ["filter.js"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "native"
