"""The notebooks with what they print and draw: each percent script of `notebooks/` becomes a notebook, runs in its quick mode, and is kept in `rendered/`.

A cell that raises ends it, and so does one that warns.
"""

import asyncio
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
RENDERED = FOLDER / "rendered"
QUICK = {"JAXLLC_QUICK": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
"""Short runs, figures in the notebook, and no word of the debugger's."""
AT_ONCE = 2
"""Notebooks that run at the same time. Short runs mostly wait for compilation, which takes one core."""


async def rendered(script: Path) -> nbformat.NotebookNode:
    """A script as a notebook with its outputs, run in a folder of its own."""
    notebook = nbformat.from_dict(jupytext.read(script))
    with tempfile.TemporaryDirectory() as work:
        kernel = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{work}/kernel")  # sockets in this folder, none on the network
        client = NotebookClient(notebook, kernel, timeout=None, coalesce_streams=True, resources={"metadata": {"path": work}})
        try:
            await client.async_execute(env=os.environ | QUICK | {"FIGURE": f"{work}/figure.png"})
        finally:
            await kernel.shutdown_kernel(now=True)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "stream" and output.name == "stderr"]
    for output in outputs:
        if re.search(r"\w*Warning: ", output.text):
            raise RuntimeError(f"{script.name} warns:\n{output.text}")
    return notebook


async def main(names: list[str]) -> None:
    """Render the notebooks of these names, or all, some at a time, and say how long each took."""
    RENDERED.mkdir(exist_ok=True)
    places = asyncio.Semaphore(AT_ONCE)

    async def keep(script: Path) -> None:
        async with places:
            began = time.monotonic()
            nbformat.write(await rendered(script), RENDERED / f"{script.stem}.ipynb")
            sys.stdout.write(f"notebooks/rendered/{script.stem}.ipynb, {time.monotonic() - began:.0f} s\n")
            sys.stdout.flush()

    async with asyncio.TaskGroup() as tasks:
        for script in sorted(FOLDER.glob("*.py")):
            if not names or script.stem in names:
                tasks.create_task(keep(script))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
