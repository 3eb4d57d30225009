"""What this book asks of Sphinx beyond Jupyter Book: a small extension, named in `_config.yml`."""

import base64
import hashlib
import html
import inspect
import json
import pkgutil
import re
import shutil
import unicodedata
from importlib import import_module
from importlib.resources import files
from pathlib import Path

import fontTools.subset
import latex2mathml.converter
import yaml
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PACKAGE = "annotated_decoder"


def slug(title):
    "What a link calls a heading, here and in JupyterLab, which knows no other name: its words with hyphens between."
    return title.translate(STRAIGHT).strip().replace(" ", "-")


STRAIGHT = str.maketrans("’‘“”", "''\"\"")


DIRECTIVES = ("#|", "#@title")


class HideDirectives(SphinxTransform):
    "Take the exporter's `#| …` lines and Colab's titles off the page; the notebook keeps them."

    default_priority = 400

    def apply(self):
        for block in self.document.findall(nodes.literal_block):
            if block.astext().startswith(DIRECTIVES):
                lines = block.astext().splitlines()
                shown = "\n".join(line for line in lines if not line.startswith(DIRECTIVES)).strip("\n")
                block.rawsource = shown
                block.children = [nodes.Text(shown)]


def label_of(cell_id):
    "The words under which a folded cell lies, from what its id says that it is; None: the words of all others."
    if cell_id in ("imports", "imports-page"):
        return "Imports"
    if cell_id == "also-checked":
        return "We also checked"
    if cell_id.endswith("-holds"):
        return "Check"
    return "Solution" if cell_id.startswith("solution-") else None


class LabelFoldedCells(SphinxTransform):
    "Name what a folded cell holds; import cells that follow each other lie under one name."

    default_priority = 410

    def apply(self):
        path = Path(self.env.doc2path(self.env.docname))
        if path.suffix != ".ipynb":
            return
        ids = [cell.get("id", "") for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
        cells = [n for n in self.document.findall(nodes.container) if n.get("nb_element") == "cell_code"]
        for cell in cells:
            hidden = cell.get("hide_mode")
            label = "The answer" if hidden == "output" else hidden and label_of(ids[cell["cell_index"]])
            if label:
                cell["prompt_show"] = cell["prompt_hide"] = label
        for cell in reversed(cells):
            place = cell.parent.index(cell)
            above = cell.parent[place - 1] if place else None
            if all(isinstance(one, nodes.container) and is_import(one) for one in (cell, above)):
                above[0].extend(cell[0].children)
                cell.parent.remove(cell)


def is_import(cell):
    return cell.get("prompt_show") == "Imports" and len(cell) == 1    # one child: the code, and no output


class SayReadingTime(SphinxTransform):
    "Beside how long a chapter runs, how long it takes to read."

    default_priority = 420

    def apply(self):
        if not re.search(CHAPTER, self.env.docname):
            return
        *_, minutes = told(self.env.docname)
        for line in self.document.findall(nodes.emphasis):
            if line.astext().startswith("Runs in"):
                runs = line.astext()
                line.clear()
                line += nodes.Text(f"About {minutes} minutes to read; r{runs[1:]}")
                return


# What readers look for under other words than those of a chapter's headings.
ALSO_FOUND_UNDER = {
    "00_one_token_at_a_time": "autoregressive, what is a decoder",
    "01_encoder_outputs": "hidden states, vocabulary, padding",
    "02_attention": "why sqrt, why divide by sqrt, scaled dot product, self-attention, query key value",
    "03_cross_attention": "encoder-decoder attention",
    "04_embedding": "positional encoding, sinusoidal",
    "05_normalization": "layer norm, pre-norm, post-norm, residual connection, skip connection",
    "06_decoder": "feed-forward, MLP, decoder block",
    "07_encoder": "decoder-only, GPT, BERT",
    "08_projection": "lm head, unembedding, logits, weight tying",
    "09_softmax": "cross-entropy, loss",
    "10_generation": "stop symbol, stop token, end of sequence, EOS, start symbol, BOS, inference loop",
    "11_caching": "KV cache, key-value cache",
    "12_strategies": "beam, beam search, sampling, temperature, top-k, top-p, nucleus sampling, greedy, "
    "length penalty, degeneration, repetition, min-p, exact search",
    "13_training": "teacher forcing, learning rate, optimizer, AdamW, Muon",
    "14_ablations": "ablation study, random seeds, significance, permutation test, hyperparameters",
    "15_looking_inside": "interpretability, attention maps, alignment",
    "16_bug_museum": "silent bugs, debugging a Transformer, tests, data leakage",
    "17_fast_decoding": "inference speed, quantization, int8, static cache, memory bandwidth, GQA, MQA",
    "18_pretrained": "Hugging Face, Marian, BART, T5, Whisper, checkpoints",
    "19_scaling_out": "distributed training, DDP, FSDP, torchrun, GPU memory, ZeRO, activation checkpointing",
}


class AlsoFoundUnder(SphinxTransform):
    "Entries for the index and the search, which counts them before any other word."

    default_priority = 430

    def apply(self):
        words = ALSO_FOUND_UNDER.get(self.env.docname.rpartition("/")[2])
        if not words:
            return
        section = next(self.document.findall(nodes.section))
        entries = [("single", word.strip(), section["ids"][0], "main", None) for word in words.split(",")]
        section.insert(1, addnodes.index(entries=entries))


class LocalBadge(SphinxTransform):
    "Show the Colab badge from our own files, so that reading a page asks nothing of another host."

    default_priority = 10

    def apply(self):
        for image in self.document.findall(nodes.image):
            if image.get("uri") == BADGE:
                image["uri"] = "/book/_static/colab-badge.svg"


WIDEST_ON_A_TELEPHONE = 526    # pixels of a plot; of a wider one the labels are smaller there than 10 pixels


class KeepPlotsReadable(SphinxTransform):
    "Say how wide a plot must stay on a telephone, where it would be too small; book.css lets it scroll there."

    default_priority = 890

    def apply(self):
        for image in self.document.findall(nodes.image):
            if "_build/jupyter_execute/" in image["uri"] and image["uri"].endswith(".png"):
                header = Path(self.env.srcdir, image["uri"].lstrip("/")).read_bytes()[:24]
                if (width := int.from_bytes(header[16:20])) > WIDEST_ON_A_TELEPHONE:
                    image["classes"].append("wide-plot")
                    image["width"] = f"{round(0.67 * width)}px"


GLOSSARY = Path(__file__).resolve().parents[1] / "glossary.md"


def terms():
    "The glossary's terms, each name of an entry by itself, with the id of its entry."
    lines = GLOSSARY.read_text(encoding="utf-8").splitlines()
    entries = [term for term, meaning in zip(lines, lines[1:], strict=False) if meaning.startswith(": ")]
    return {name.lower(): "term-" + nodes.make_id(entry) for entry in entries for name in entry.split(", ")}


def term_of(text, known):
    "The id of the entry that a link means, in the singular or the plural; None where there is none."
    text = text.lower()
    return next((known[name] for name in (text, text + "s", text.removesuffix("s")) if name in known), None)


class NameTerms(SphinxTransform):
    "Give each entry of the glossary an id."

    default_priority = 420

    def apply(self):
        if self.env.docname == "book/glossary":
            known = terms()
            for term in self.document.findall(nodes.term):
                term["ids"].append(known[term.astext().split(", ")[0].lower()])


def link_terms(app, document, name):
    "A link to the glossary leads to the entry that its text names."
    known = terms()
    for link in document.findall(nodes.reference):
        page, _, place = link.get("refuri", "").partition("#")
        if page.endswith("glossary.html") and not place and not page.startswith("http"):
            if found := term_of(link.astext(), known):
                link["refuri"] += "#" + found
            elif link.astext() != "Glossary":
                logger.warning("the glossary has no entry %r", link.astext(), location=link)


class DemandAlt(SphinxTransform):
    "Warn, and so fail a build with -W, where a picture has no alternative text."

    default_priority = 900

    def apply(self):
        for image in self.document.findall(nodes.image):
            if not image.get("alt"):
                logger.warning("picture without alternative text: %s", image.get("uri"), location=image)


def rooms():
    "The package's subpackages."
    return sorted(m.name for m in pkgutil.iter_modules(import_module(PACKAGE).__path__) if m.ispkg)


def chapters():
    "The chapters' modules, in their order: a chapter's module has the name of its notebook."
    names = [path.stem.split("_", 1)[1] for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    known = {m.name for m in pkgutil.iter_modules(import_module(PACKAGE).__path__) if not m.ispkg}
    return [name for name in names if name in known]


def documented():
    "Every module that has public names for a reader of the reference: chapters first, then rooms."
    return [f"{PACKAGE}.{name}" for name in [*chapters(), *rooms()]]


def homes():
    "Where the reference describes each name at the top of the package: `Decoder` in `annotated_decoder.decoder`."
    top = import_module(PACKAGE)
    modules = [import_module(name) for name in documented()]
    return {
        name: next(m.__name__ for m in modules if name in m.__all__ and getattr(m, name) is getattr(top, name))
        for name in top.__all__
    }


class PublicNames(SphinxDirective):
    """The public names of the package, written from its modules' `__all__`, so that no list is kept by hand.

    ```{public-names} top          the names at the top, each with a link to its description
    ```{public-names} chapters     every chapter's module, under a heading
    ```{public-names} check        one room
    """

    required_arguments = 1

    def run(self):
        what = self.arguments[0]
        if what == "top":
            rows = [f"| {{py:obj}}`{n} <{home}.{n}>` | `{home}` |" for n, home in homes().items()]
            text = "\n".join(["| name | described with |", "|---|---|", *rows])
        elif what == "chapters":
            text = "\n\n".join(f"## {name}\n\n{described(name)}" for name in chapters())
        else:
            text = described(what)
        found = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), self.get_source_info()[0]), 0, found, match_titles=True)
        return found.children


def described(module):
    found = import_module(f"{PACKAGE}.{module}")
    values = {name: inspect.unwrap(getattr(found, name)) for name in found.__all__}
    # Constants and aliases, which autodoc passes over:
    plain = [name for name, value in values.items() if not (inspect.isclass(value) or inspect.isroutine(value))]
    data = "\n\n".join(f".. py:data:: {name}\n   :module: {found.__name__}" for name in plain)
    return f"""```{{eval-rst}}
.. automodule:: {found.__name__}
   :members:
   :undoc-members:
   :exclude-members: training

{data}
```"""


WORDS_A_MINUTE, LINES_A_MINUTE = 200, 12    # of prose, and of code that is shown


def minutes_of(cells):
    "How long a notebook takes to read, in whole minutes: its prose, and the code that is not folded."
    hidden = {"remove-cell", "hide-input", "hide-cell"}
    words = sum(len("".join(cell["source"]).split()) for cell in cells if cell["cell_type"] == "markdown")
    shown = [cell for cell in cells if cell["cell_type"] == "code" and not hidden & {*cell["metadata"].get("tags", [])}]
    return round(words / WORDS_A_MINUTE + sum(len(cell["source"]) for cell in shown) / LINES_A_MINUTE)


def course():
    "The parts of the book with their chapters: (caption, [(page, title, promise, minutes), ...]) each."
    parts = []
    for part in yaml.safe_load((NOTEBOOKS.parent / "_toc.yml").read_text(encoding="utf-8"))["parts"]:
        pages = [entry["file"] for entry in part["chapters"]]
        if pages[0].startswith("notebooks/"):
            parts.append((part["caption"], [(page, *told(page)) for page in pages]))
    return parts


CHAPTER = r"(?:^|/)([\dA]\d)_"    # in its file's name; A0 is the primer


def numbered(page, title):
    "A chapter's link with its number before it; the primer has none."
    number = re.search(CHAPTER, page)[1]
    return (f"{int(number)} · " if number.isdecimal() else "") + f"[{title}](../{page}.ipynb)"


def told(page):
    "Title, promise and minutes of a chapter."
    cells = json.loads((NOTEBOOKS.parent / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
    head = "".join(cells[0]["source"])
    promise = " ".join(re.findall(r"^> (.*)", head, re.M))
    return re.search(r"^# (.*)", head)[1], promise, minutes_of(cells)


class MystDirective(SphinxDirective):
    "A directive that writes MyST."

    def run(self):
        found = nodes.Element()
        lines = StringList(self.text().splitlines(), self.get_source_info()[0])
        self.state.nested_parse(lines, 0, found, match_titles=True)
        return found.children


class CourseMap(MystDirective):
    "The map of the model, each box a link to its chapter, and beside it the chapters by part with their minutes."

    def run(self):
        from annotated_decoder.teaching.diagrams import model_map

        pages = [page for _, chapters in course() for page, *_ in chapters]
        uri = self.env.app.builder.get_relative_uri
        links = {page.split("/")[-1].split("_", 1)[1]: uri(self.env.docname, page) for page in pages}
        drawn = nodes.raw("", model_map(links=links)._repr_html_(), format="html")
        listed = nodes.container("", *super().run())
        return [nodes.container("", nodes.container("", drawn), listed, classes=["course-map"])]

    def text(self):
        parts, lines = course(), []
        total = sum(minutes for _, chapters in parts for *_, minutes in chapters)
        lines += [f"{sum(len(c) for _, c in parts)} chapters, about {round(total / 60)} hours to read.", ""]
        for caption, chapters in parts:
            lines += [f"**{caption}**", ""]
            for page, title, _, minutes in chapters:
                lines.append(f"- {numbered(page, title)}, {minutes} minutes")
            lines.append("")
        return "\n".join(lines)


class ModelScore(MystDirective):
    "How often the shipped model is wrong, from the notes in its file."

    def text(self):
        from annotated_decoder.pronunciation.model import pronouncer

        test = pronouncer().notes["test"]
        words, plain, stress = test["stressless"]["words"], test["stressless"]["wer"], test["stressed"]["wer"]
        return (
            f"Of {words:,} words that it has never seen, the model says {100 * (1 - plain):.0f} % "
            f"as the dictionary does, and {100 * (1 - stress):.0f} % with the right stress too; "
            "[its card](../notebooks/pronunciation/model_card.ipynb) says where it fails, and how others do."
        )


class ClaimCards(MystDirective):
    "The claims of their page as cards that unfold from what is told to what is precise."

    def text(self):
        page = (NOTEBOOKS.parent / "book" / "claims.md").read_text(encoding="utf-8")
        parts = (
            r"^## N\d+: (.*)\n\nWhat is loose\n: .*\n\nPrecisely\n: (.*)\n\n"
            r"Checked in\n: \[N\d+\]\((\S+)\) of \[(.*?)\]"
        )
        cards = [
            f":::{{dropdown}} {usual}\n{precise} Checked in [{chapter}]({link}).\n:::"
            for usual, precise, link, chapter in re.findall(parts, page, re.M)
        ]
        return "\n\n".join(cards)


class LiveInstrument(SphinxDirective):
    """The instrument with a box to type into; its script and style are files beside the page, not text in it.

    ```{live-instrument} nebulizing read knight
    :label: Type a word. Watch a decoder say it.
    :layer: 1
    ```
    """

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {"label": directives.unchanged_required, "layer": directives.nonnegative_int}

    def run(self):
        from annotated_decoder.pronunciation.model import pronouncer
        from annotated_decoder.teaching.instrument import instrument

        words, options = self.arguments[0].split(), {"layer": self.options.get("layer")}
        piece = instrument(pronouncer(), words, self.options["label"], plays=True, live=True, **options)
        written = {f"instrument-{piece.id}.css": piece.css, f"instrument-{piece.id}.js": piece.js}
        self.env.metadata[self.env.docname]["files"] = json.dumps(written)
        static = "../" * self.env.docname.count("/") + "_static"
        style, script = (f"{static}/{name}" for name in written)
        text = piece.figure(f'<link rel="stylesheet" href="{style}">', f'<script src="{script}"></script>')
        return [nodes.raw("", text, format="html")]


def write_live_files(app, exception):
    "Beside the pages: what their directives wrote, the decoder in JavaScript and the voice, the package's weights."
    static = Path(app.outdir) / "_static"
    if exception or app.config.html_theme != "sphinx_book_theme":
        return
    for metadata in app.env.metadata.values():
        for name, text in json.loads(metadata.get("files", "{}")).items():
            (static / name).write_text(text, encoding="utf-8")
    pieces = [f"teaching/pieces/{name}" for name in ("decoder.js", "voice.js")]
    for name in (*pieces, "pronunciation/pronouncer.safetensors"):
        shutil.copy(files(PACKAGE) / name, static)


def keep_to_its_part(app, pagename, templatename, context, doctree):
    "*Next* and *previous* stay among the chapters, among the reference pages, or in the workshop."
    parents = {page: parent for parent, pages in app.env.toctree_includes.items() for page in pages}
    root = app.config.root_doc

    def part(page):
        while parents.get(page, root) != root:
            page = parents[page]
        return page if page in app.env.toctree_includes else root

    around = app.builder.relations.get(pagename)    # (parent, previous, next)
    for name, page in zip(("prev", "next"), around[1:] if around else (), strict=False):
        if page and part(page) != part(pagename):
            context[name] = None


def keep_stars(app, what, name, obj, options, lines):
    "In a docstring a star after a bracket is a shape's, as in (*batch, keys), and starts no emphasis."
    lines[:] = [line.replace("(*", r"(\*") for line in lines]


def mathml(latex, display):
    "A formula as browsers draw it themselves, and screen readers read it: no script, no raw LaTeX without one."
    return latex2mathml.converter.convert(latex, display=display)


def write_math(self, node):
    self.body.append(f'<span class="math">{mathml(node.astext(), "inline")}</span>')
    raise nodes.SkipNode


def write_math_block(self, node):
    self.body.append(self.starttag(node, "div", CLASS="math", tabindex="0", role="group"))
    self.body.append(f"{mathml(node.astext(), 'block')}</div>")
    raise nodes.SkipNode


ICON = re.compile(r"\bfa-([a-z0-9-]+)")
DRAWS_ICONS, SEARCHES = (
    re.compile(rf"""[ \t]*<script[^>]*src="[^"]*(?:{names})\.js[^>]*></script>\n?""")
    for names in ("scripts/fontawesome", "_static/searchtools|_static/language_data|searchindex")
)


POLICY = '<meta http-equiv="Content-Security-Policy"'
OWN_SCRIPT = re.compile(r"<script(?![^>]*\b(?:src=|type=.application/json))[^>]*>(.*?)</script>", re.DOTALL)
OWN_HANDLER = re.compile(r"""\son\w+="([^"]*)\"""")


def guard(page):
    "A page that says what it may run and load: files of its own site, and by their hashes the scripts that it holds."
    if POLICY in page:
        return page
    scripts = {*OWN_SCRIPT.findall(page), *map(html.unescape, OWN_HANDLER.findall(page))}
    digests = sorted(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    rules = {
        "default-src": "'none'", "img-src": "'self' data:", "media-src": "'self' data: blob:", "font-src": "'self'",
        "connect-src": "'self'", "style-src": "'self' 'unsafe-inline'", "form-action": "'self'", "base-uri": "'none'",
        "script-src": " ".join(["'self' 'unsafe-hashes'", *(f"'sha256-{digest}'" for digest in digests)]),
    }    # fmt: skip
    policy = "; ".join(f"{name} {allowed}" for name, allowed in rules.items())
    return re.sub(r"<meta charset[^>]*>", rf'\g<0>\n    {POLICY} content="{policy}" />', page, count=1)


def lighten(app, exception):
    """Take from the pages what they load and never use, a script that draws icons a second time and the index of words;
    and guard them."""
    if exception or app.config.html_theme != "sphinx_book_theme":
        return
    static, icons, signs = Path(app.outdir) / "_static", set(), set("∑∏∫√()[]{}|‖⌊⌋")
    for page in sorted(Path(app.outdir).rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        icons |= set(ICON.findall(text))
        signs |= set("".join(re.findall(r"<m[ion][^>]*>([^<]*)<", text)))
        lighter = DRAWS_ICONS.sub("", text)
        lighter = lighter if page.name == "search.html" else SEARCHES.sub("", lighter)
        if (guarded := guard(lighter)) != text:
            page.write_text(guarded, encoding="utf-8")
    for script in static.rglob("*theme.js"):
        icons |= set(ICON.findall(script.read_text(encoding="utf-8")))
    style = (static / "styles" / "pydata-sphinx-theme.css").read_text(encoding="utf-8")
    codes = {name: chr(int(code, 16)) for rule, code in ICON_RULE.findall(style) for name in ICON.findall(rule)}
    fonts, wanted = static / "vendor" / "fontawesome" / "webfonts", {codes[icon] for icon in icons & codes.keys()}
    for font in sorted(fonts.glob("*.ttf")):
        subset(font, font.with_suffix(".woff2"), wanted)
        font.unlink()
    subset(files("ziamath.fonts") / "STIXTwoMath-Regular.ttf", static / "math.woff2", {*signs, *map(italic, signs)})


ICON_RULE = re.compile(r"""((?:\.fa-[a-z0-9-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}""")


def italic(sign):
    "The mathematical italic that a browser draws for a letter alone."
    names = [f"MATHEMATICAL ITALIC {case} {sign.upper()}" for case in ("CAPITAL", "SMALL")]
    if sign == "h":
        return "ℎ"
    if "a" <= sign <= "z" or "A" <= sign <= "Z":
        return unicodedata.lookup(names[sign.islower()])
    if "α" <= sign <= "ω" or "Α" <= sign <= "Ω":
        return chr(ord(sign) - ord("α") + ord("𝛼")) if sign.islower() else chr(ord(sign) - ord("Α") + ord("𝛢"))
    return sign


def subset(source, target, signs):
    "A font with these signs alone, compressed; with none, an empty one."
    options = fontTools.subset.Options(flavor="woff2", layout_features=["*"], notdef_outline=True)
    font = fontTools.subset.load_font(str(source), options)
    subsetter = fontTools.subset.Subsetter(options)
    subsetter.populate(unicodes=[ord(sign) for sign in signs])
    subsetter.subset(font)
    fontTools.subset.save_font(font, str(target), options)


def drop_thebe(app, config):
    "Jupyter Book always loads sphinx-thebe, which asks another host for its script; this book does not use it."
    for name, listeners in app.events.listeners.items():
        app.events.listeners[name] = [one for one in listeners if one.handler.__module__ != "sphinx_thebe"]
    app.registry.css_files = [css for css in app.registry.css_files if css[0] != "sphinx-thebe.css"]


def number_no_figure(app, config):
    "A caption says what is seen, and nothing refers to it by a number, which sphinx-jupyterbook-latex would give it."
    config.numfig = False


def setup(app):
    app.connect("config-inited", drop_thebe, priority=900)
    app.connect("config-inited", number_no_figure, priority=900)
    app.connect("autodoc-process-docstring", keep_stars, priority=100)
    app.connect("doctree-resolved", link_terms)
    app.connect("html-page-context", keep_to_its_part)
    app.connect("build-finished", write_live_files)
    app.connect("build-finished", lighten, priority=900)
    app.add_html_math_renderer("mathml", (write_math, None), (write_math_block, None))
    app.add_directive("public-names", PublicNames)
    app.add_directive("live-instrument", LiveInstrument)
    app.add_directive("course-map", CourseMap)
    app.add_directive("model-score", ModelScore)
    app.add_directive("claim-cards", ClaimCards)
    for transform in (
        HideDirectives, LabelFoldedCells, SayReadingTime, AlsoFoundUnder, LocalBadge, KeepPlotsReadable, NameTerms,
        DemandAlt,
    ):  # fmt: skip
        app.add_transform(transform)
    return {"version": "1", "parallel_read_safe": True}
