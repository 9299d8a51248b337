"""How long `inspect` and `plan` take on a folder of GPT-NeoX-20B's size, and how much of it they read.

    python benchmarks/large_folder.py FOLDER

writes FOLDER as layer files of two tensor-parallel ranks: 41 GB of zeros that take 5 MB of the disk, where the file
system has sparse files. Before each command the files are dropped from the page cache, and after it the program
``fincore`` says how much of them was read.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from neoxrun.config.reader import load_settings
from neoxrun.config.tensors import TensorKey, local_shape, parameters

ROWS, TP = 50432, 2


def write(folder: Path) -> None:
    """Files with the 20B's names, sizes and headers."""
    step = folder / "global_step150000"
    step.mkdir(parents=True)
    table = parameters(load_settings(["20B"]).model, ROWS)
    for layer in sorted({key.layer for key in table}):
        for rank in range(TP):
            names = [key.name for key in table if key.layer == layer]
            shapes = {name: local_shape(name, table[TensorKey(layer, name)], TP) for name in names}
            tensors = {name: torch.empty(shape, dtype=torch.float16) for name, shape in shapes.items()}
            with torch.serialization.skip_data():
                torch.save(tensors, step / f"layer_{layer:02d}-model_{rank:02d}-model_states.pt")
    (folder / "latest").write_text(step.name)


def main() -> None:
    """Write the folder unless it exists, and print a line for each command."""
    folder = Path(sys.argv[1])
    if not folder.exists():
        write(folder)
    files = sorted(folder.glob("*/*.pt"))
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e9:.1f} GB")
    neoxrun = Path(sys.executable).with_name("neoxrun")
    for command in (["inspect", folder], ["plan", "20B", "--checkpoint", folder, "--devices", "2x80GB"]):
        for path in files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        subprocess.run([neoxrun, *command], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        cached = subprocess.run(["fincore", "-bno", "RES", *files], check=True, capture_output=True, text=True).stdout
        print(f"{command[0]}: {seconds:.1f} s, {sum(map(int, cached.split())) / 1e6:.0f} MB read")


if __name__ == "__main__":
    main()
