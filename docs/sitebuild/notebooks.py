"""Tutorials: notebooks, committed as they ran.

``python -m docs.sitebuild.notebooks [NAME ...]`` runs those that changed, or those named, and writes what they show
into them; with ``--check`` all run and none is written.
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

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def digest(path: Path) -> str:
    """Of what a notebook says and does."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text("utf-8"))["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def run(path: Path, *, timeout: int = 900) -> str:
    """A notebook as it runs from its first cell, in an empty folder; an error in a cell is raised here."""
    import nbclient
    import nbformat

    mark, notebook = digest(path), nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        client = nbclient.NotebookClient(
            notebook, timeout=timeout, kernel_name="python3", resources=where, coalesce_streams=True
        )
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata["digest"] = mark
    return nbformat.writes(notebook) + "\n"


def is_as_it_ran(path: Path) -> bool:
    """Whether what a notebook shows is of what it says by now."""
    return json.loads(path.read_text("utf-8"))["metadata"].get("digest") == digest(path)


def page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook's page, and the images that belong to it, by name.

    What a cell printed is a block of text, what it returned an image or HTML where there is either.
    """
    cells = json.loads(path.read_text("utf-8"))["cells"]
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
    if not text.strip():
        return "", {}
    return f"```{{ .text .output }}\n{_ESCAPES.sub('', text).rstrip()}\n```", {}


def _alternative(data: dict[str, Any]) -> str:
    return "".join(data.get("text/plain", "figure")).strip("<>").partition(" with ")[0]


def _without_blank_lines(text: str) -> str:
    """A blank line would end the HTML for Markdown."""
    return "\n".join(line for line in text.splitlines() if line.strip())


def main() -> None:
    """Run the notebooks named, or all that changed."""
    named, check = {*sys.argv[1:]} - {"--check"}, "--check" in sys.argv
    for path in places.notebooks():
        if path.stem in named or (not named and (check or not is_as_it_ran(path))):
            start, before = time.perf_counter(), _computed()
            text = run(path)
            if not check:
                path.write_text(text, encoding="utf-8")
            took, computed = time.perf_counter() - start, _computed() - before
            sys.stdout.write(f"{path.name}: {took:.0f} s, {computed:.0f} s of processors\n")
            sys.stdout.flush()


def _computed() -> float:
    """Seconds that kernels which ended have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
