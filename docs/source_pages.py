"""What the site needs beyond mkdocs: pages of the files outside of docs/ that a page links to, formulas as MathML.

A link such as [`gae`](../triplex/rl/advantages.py#gae) opens the file in an editor and on a forge. On the site it opens
a page of that file at the definition of that name. A file or a name that is not there is a warning, so that
`mkdocs build --strict` fails.
"""

import html
import logging
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\(\.\./([\w./@-]+)(?:#(\w+))?\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
LINE = re.compile(r'data-line="(\d+)" href="([^"]*)"')
log = logging.getLogger("mkdocs.hooks.source_pages")


def on_files(files: Files, config: Any) -> Files:
    """The files of docs/ and a page for each file outside that one of them links to."""
    pages = [file.content_string for file in files.documentation_pages()]
    for name in sorted({link[1] for page in pages for link in LINK.finditer(page)}):
        if (ROOT / name).is_file():
            language = {"py": "python", "yaml": "yaml", "md": "markdown"}.get(name.rpartition(".")[2], "text")
            code = (ROOT / name).read_text(encoding="utf-8")
            text = f"---\nsearch: {{exclude: true}}\n---\n# {name}\n\n````` {language}\n{code}`````\n"
            files.append(File.generated(config, f"source/{name}.md", content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files outside of docs/ lead to their pages, at the line that defines the name behind the `#`."""
    if page.file.src_uri.startswith("source/"):
        return markdown

    def target(link: re.Match[str]) -> str:
        name, symbol = link[1], link[2]
        if not (ROOT / name).is_file():
            log.warning(f"{page.file.src_uri} links to {name}, which is not there")
            return link[0]
        line = f"{{data-line={line_of(page.file.src_uri, name, symbol)}}}" if symbol else ""
        return f"](source/{name}.md){line}"

    return LINK.sub(target, markdown)


def line_of(page: str, name: str, symbol: str) -> int:
    """The line of a file that defines `symbol`; 1, and a warning, where none does."""
    definition = re.compile(rf"\s*(?:class|def) {symbol}\b|{symbol}\s*[:=]")
    for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), start=1):
        if definition.match(line):
            return number
    log.warning(f"{page} links to {symbol} of {name}, which does not define it")
    return 1


def on_page_content(content: str, **_: Any) -> str:
    """Formulas as MathML, which browsers show by themselves; links to a line of a file."""
    content = LINE.sub(r'href="\2#__codelineno-0-\1"', content)
    return FORMULA.sub(
        lambda found: convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline"), content
    )
