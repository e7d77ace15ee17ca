"""Sphinx's configuration: `python -m sphinx -W docs build/docs` builds the manual."""

project = "pytest-hypervisor"
html_title = project
extensions = ["myst_parser"]
# Headings down to this level get the anchors that GitHub gives them.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
nitpicky = True
html_theme = "furo"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
# The name of a command's option is not prose: "--" stays as it is.
smartquotes = False
