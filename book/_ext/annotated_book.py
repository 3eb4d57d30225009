"""What this book asks of Sphinx beyond Jupyter Book: a small extension, named in `_config.yml`."""

from docutils import nodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"


class HideDirectives(SphinxTransform):
    "Take the exporter's `#| …` lines off the page; the notebook keeps them."

    default_priority = 400

    def apply(self):
        for block in self.document.findall(nodes.literal_block):
            if block.astext().startswith("#|"):
                lines = block.astext().splitlines()
                shown = "\n".join(line for line in lines if not line.startswith("#|")).strip("\n")
                block.rawsource = shown
                block.children = [nodes.Text(shown)]


class LocalBadge(SphinxTransform):
    "Show the Colab badge from our own files, so that reading a page asks nothing of another host."

    default_priority = 10

    def apply(self):
        for image in self.document.findall(nodes.image):
            if image.get("uri") == BADGE:
                image["uri"] = "/book/_static/colab-badge.svg"


class DemandAlt(SphinxTransform):
    "Warn, and so fail a build with -W, where a picture has no alternative text."

    default_priority = 900

    def apply(self):
        for image in self.document.findall(nodes.image):
            if not image.get("alt"):
                logger.warning("picture without alternative text: %s", image.get("uri"), location=image)


def keep_stars(app, what, name, obj, options, lines):
    "In a docstring a star after a bracket is a shape's, as in (*batch, keys), and starts no emphasis."
    lines[:] = [line.replace("(*", r"(\*") for line in lines]


def drop_thebe(app, config):
    "Jupyter Book always loads sphinx-thebe, which asks another host for its script; this book does not use it."
    for name, listeners in app.events.listeners.items():
        app.events.listeners[name] = [one for one in listeners if one.handler.__module__ != "sphinx_thebe"]
    app.registry.css_files = [css for css in app.registry.css_files if css[0] != "sphinx-thebe.css"]


def setup(app):
    app.connect("config-inited", drop_thebe, priority=900)
    app.connect("autodoc-process-docstring", keep_stars, priority=100)
    for transform in (HideDirectives, LocalBadge, DemandAlt):
        app.add_transform(transform)
    return {"version": "1", "parallel_read_safe": True}
