"""Tutorials: notebooks run as they are committed, without outputs, and shown as they ran.

``python -m docs.sitebuild.notebooks [NAME ...]`` runs them into build/tutorials, where the site takes them from.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from docs.sitebuild import places

RAN = places.ROOT / "build" / "tutorials"
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def digest(path: Path) -> str:
    """Of what a notebook says and does."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text("utf-8"))["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def run(path: Path, *, timeout: int = 300) -> Path:
    """Run a notebook from its first cell, in an empty folder; an error in a cell is raised here."""
    import nbclient
    import nbformat

    mark, notebook = digest(path), nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        client = nbclient.NotebookClient(
            notebook, timeout=timeout, kernel_name="python3", resources=where, coalesce_streams=True
        )
        client.execute()
    notebook.metadata["digest"] = mark
    RAN.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, RAN / path.name)
    return RAN / path.name


def ran(path: Path) -> Path | None:
    """The notebook as it ran, unless it says something else by now."""
    found = RAN / path.name
    if not found.exists() or json.loads(found.read_text("utf-8"))["metadata"].get("digest") != digest(path):
        return None
    return found


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook's page, and the images that belong to it, by name.

    What a cell printed is a block of text, what it returned an image or HTML where there is either.
    """
    cells = json.loads((ran(path) or path).read_text("utf-8"))["cells"]
    parts, images = list[str](), dict[str, bytes]()
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for at, output in enumerate(cell["outputs"]):
            text, image = _shown(output, f"{path.stem}-{number}-{at}.png")
            parts.append(text)
            images |= image
    title, _, rest = "\n\n".join(part for part in parts if part).partition("\n")
    return f"{title}\n\n[Download this notebook]({path.name}){{ .notebook download }}\n{rest}\n", images


def _shown(output: dict[str, Any], image: str) -> tuple[str, dict[str, bytes]]:
    data = output.get("data", {})
    if "image/png" in data:
        return f"![{_alternative(data)}]({image})", {image: base64.b64decode("".join(data["image/png"]))}
    if "text/html" in data:
        return f'<div class="output" markdown="0">\n{_without_blank_lines("".join(data["text/html"]))}\n</div>', {}
    text = "".join(output.get("text", data.get("text/plain", "")))
    if output.get("name") == "stderr" or not text.strip():
        return "", {}
    return f"```{{ .text .output }}\n{_ESCAPES.sub('', text).rstrip()}\n```", {}


def _alternative(data: dict[str, Any]) -> str:
    return "".join(data.get("text/plain", "figure")).strip("<>").partition(" with ")[0]


def _without_blank_lines(text: str) -> str:
    """A blank line would end the HTML for Markdown."""
    return "\n".join(line for line in text.splitlines() if line.strip())


def main() -> None:
    """Run the notebooks named, or all that changed."""
    named = sys.argv[1:]
    for path in places.notebooks():
        if path.stem in named or (not named and ran(path) is None):
            start, before = time.perf_counter(), _computed()
            run(path)
            took, computed = time.perf_counter() - start, _computed() - before
            sys.stdout.write(f"{path.name}: {took:.0f} s, {computed:.0f} s of processors\n")
            sys.stdout.flush()


def _computed() -> float:
    """Seconds that kernels which ended have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
