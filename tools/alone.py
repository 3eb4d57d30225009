"""Run every notebook alone, as Colab does: in an empty folder, with the built wheel, on another CPU's arithmetic.

The wheel is built from the source archive and installed into an environment of its own, with what it asks for and
nothing else; only torch is shared with `.venv`, because of its size, unless `--python` is of another version, or
`--versions` asks for the least that the package allows, or for the newest there are.
First the package is used without the notebooks' extra; then each notebook runs in a folder that holds nothing but
itself, with two threads and the plainest kernels of torch (ATEN_CPU_CAPABILITY) and of MKL (MKL_CBWR), and what it
prints must agree with what is stored.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from notebooks import FOLDER, ROOT, every_notebook

HOME = ROOT / "_build" / "alone"
PYTHON = HOME / "env" / "bin" / "python"
RUN = HOME / "run"    # outside the checkout's src, and holding nothing of it


def call(*command, **options):
    "Run a command with nothing of the caller's Python; stop where it fails."
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(list(map(str, command)), check=True, env=environment | options.pop("env", {}), **options)


def build() -> Path:
    "The wheel, built from the source archive, both fresh."
    shutil.rmtree(HOME / "dist", ignore_errors=True)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    call(sys.executable, "-m", "build", "--no-isolation", "--outdir", HOME / "dist", ROOT, **quiet)
    (wheel,) = (HOME / "dist").glob("*.whl")
    return wheel


def floors() -> str:
    "The least version of everything that the package and its notebooks ask for, as pip reads it."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["notebooks"]
    return "".join(f"{line.replace('>=', '==')}\n" for line in asked if "==" in line or ">=" in line)


def environment(wheel: Path, python: str, versions: str) -> None:
    """A bare environment with the wheel, at the versions of requirements.txt, at the least that pyproject.toml allows
    or at the newest. At the first it sees this environment's torch and nothing else of it."""
    shutil.rmtree(HOME / "env", ignore_errors=True)
    call(python, "-m", "venv", HOME / "env")
    (packages,) = (HOME / "env" / "lib").glob("python*/site-packages")
    same = packages.parent.name == f"python{sys.version_info[0]}.{sys.version_info[1]}"
    if same and versions == "pinned":
        share_torch(packages)
    (HOME / "floors.txt").write_text(floors())
    limits = {"pinned": ["-c", ROOT / "requirements.txt"], "floors": ["-c", HOME / "floors.txt"], "newest": []}
    pip = PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *limits[versions]
    call(*pip, wheel)
    use(packages)
    call(*pip, f"{wheel}[notebooks]", "ipykernel")


def share_torch(packages: Path) -> None:
    "Let an environment see this one's torch, through a folder of links that holds nothing else."
    shared = HOME / "torch"
    shutil.rmtree(shared, ignore_errors=True)
    shared.mkdir()
    torch = importlib.metadata.distribution("torch")
    for top in {Path(file).parts[0] for file in torch.files} - {".."}:
        (shared / top).symlink_to(torch.locate_file(top))
    (packages / "torch.pth").write_text(f"{shared}\n")


def use(packages: Path) -> None:
    "The package as an importer meets it, before the notebooks' extra is there."
    empty = HOME / "empty"
    empty.mkdir(exist_ok=True)
    where = "import annotated_decoder; print(annotated_decoder.__file__)"
    found = call(PYTHON, "-c", where, cwd=empty, capture_output=True, text=True).stdout.strip()
    if Path(found) != packages / "annotated_decoder" / "__init__.py":
        raise SystemExit(f"not the wheel's package was imported, but {found}")
    command = PYTHON.with_name("annotated-decoder"), "pronounce", "nebulizing"
    said = call(*command, cwd=empty, capture_output=True, text=True).stdout
    if not said.startswith("nebulizing\tN "):
        raise SystemExit(f"the wheel's command line said {said!r}")
    print(f"{found}: {said.strip()}", flush=True)


def run_alone(names: list[str]) -> int:
    "Strict nbval on each notebook in a folder of its own; its exit status."
    kernel = HOME / "share" / "jupyter" / "kernels" / "alone"
    kernel.mkdir(parents=True, exist_ok=True)
    plainest = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
    settings = plainest | {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    argv = [str(PYTHON), "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "alone", "language": "python", "env": settings}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    shutil.rmtree(RUN, ignore_errors=True)
    copies = []
    for path in every_notebook():
        if not names or path.stem in names:
            alone = RUN / path.relative_to(FOLDER).with_suffix("")
            alone.mkdir(parents=True)
            copies.append(shutil.copy(path, alone))
    if not copies:
        raise SystemExit(f"no notebook is called {' or '.join(names)}")
    (RUN / "pytest.ini").write_text("[pytest]\n")
    shutil.copy(FOLDER / "conftest.py", RUN)
    nbval = "--nbval", "--nbval-kernel-name", "alone", "--nbval-cell-timeout=300"
    command = sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", *nbval
    jupyter = {"JUPYTER_PATH": str(HOME / "share" / "jupyter"), "JUPYTER_PLATFORM_DIRS": "1"}
    try:
        call(*command, *copies, cwd=RUN, env=jupyter)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--python", default=sys.executable, help="the interpreter; this one unless given")
    options.add_argument("--versions", choices=["pinned", "floors", "newest"], default="pinned", help="of packages")
    options.add_argument("names", nargs="*", help="stems of notebooks; all unless given")
    args = options.parse_args()
    HOME.mkdir(parents=True, exist_ok=True)
    environment(build(), args.python, args.versions)
    return run_alone(args.names)


if __name__ == "__main__":
    sys.exit(main())
