"""What the site is made of beside the pages in docs/: the reference, commands, notebooks and links between files.

``docs/hooks.py`` hands it to mkdocs. Nothing here imports mkdocs or JAX, so that tests are light.
"""
