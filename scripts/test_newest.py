"""Runs unit, contract and acceptance tests on the newest Confiture, which needs Python 3.14.

Uses a python3.14 that is installed. Otherwise, on Debian as root, a folder made by debootstrap
from the suite that has it; the mirror's address is read from apt's own configuration. Where
neither can be had, it says why it is skipped.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "confiture-webhooks"
SUITE = "forky"
PACKAGES = "python3.14,python3.14-venv,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
TARGET = "tests/unit tests/contract tests/acceptance"
TRACKED = (
    "src",
    "tests",
    "examples",
    "requirements",
    "scripts",
    "docs",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


def run(command: Sequence[str | Path], **options: Any) -> int:
    """Run *command* with its output shown; its exit code."""
    words = [str(word) for word in command]
    return subprocess.run(words, stdin=subprocess.DEVNULL, check=False, **options).returncode


def answer(*command: str) -> str:
    """What *command* prints; nothing where there is no such command."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout


def test_with(python: str, prefix: Sequence[str], tree: str, environ: Mapping[str, str]) -> int:
    """Make an environment with *python* in *tree* and run the tests in it."""
    venv = f"{tree}/.venv-newest"
    script = f"""
cd {tree}
[ -x {venv}/bin/pip ] || {python} -m venv --clear {venv}
export PIP_DISABLE_PIP_VERSION_CHECK=1
{venv}/bin/python -m pip install -q --require-hashes -r requirements/tests.txt
{venv}/bin/python -m pip install -q --no-deps -e .
{venv}/bin/python -m pip list 2>/dev/null | grep -i fraiseql
{venv}/bin/python -m pytest -q -n 3 --dist worksteal -m "not slow" {TARGET}
"""
    return run([*prefix, "sh", "-ec", script], env=environ)


def copy_tree(to: Path) -> None:
    """Put what the tests need under *to*; the environment there is kept."""
    to.mkdir(parents=True, exist_ok=True)
    for name in TRACKED:
        source, target = ROOT / name, to / name
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)


def mirror() -> str | None:
    """Debian's mirror as apt is configured here."""
    addresses = answer("apt-get", "indextargets", "--format", "$(REPO_URI)").split()
    return next((one for one in addresses if re.match(r"https?://\S+/debian/?$", one)), None)


def debian_root() -> Path | str:
    """A Debian folder with Python 3.14 in it, or why there is none."""
    if not Path("/etc/debian_version").exists():
        return "no python3.14 is installed, and this is not Debian"
    if os.geteuid() != 0:
        return "no python3.14 is installed, and only root can make a Debian folder that has it"
    root = CACHE / f"debian-{SUITE}"
    if (root / "usr/bin/python3.14").exists():
        return root
    if shutil.which("debootstrap") is None:
        run(["apt-get", "update", "-qq"])
        if run(["apt-get", "install", "-y", "-qq", "debootstrap"], stdout=subprocess.DEVNULL):
            return "debootstrap cannot be installed"
    address = mirror()
    if address is None:
        return "apt names no Debian mirror"
    root.parent.mkdir(parents=True, exist_ok=True)
    print(f"Making a Debian {SUITE} folder with Python 3.14 …", flush=True)
    scripts = Path("/usr/share/debootstrap/scripts")
    # An older debootstrap does not know the suite by name; it is made as unstable is.
    script = [] if (scripts / SUITE).exists() else [scripts / "sid"]
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    # Under its own name only when it is whole: an interrupted one is not taken for it.
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    options = ["--variant=minbase", f"--include={PACKAGES}", f"--keyring={keyring}"]
    made = run(
        ["debootstrap", *options, SUITE, partial, address, *script], stdout=subprocess.DEVNULL
    )
    if made or not (partial / "usr/bin/python3.14").exists():
        return f"debootstrap of {SUITE} failed; its log is {partial}/debootstrap/debootstrap.log"
    partial.rename(root)
    return root


def pip_settings() -> dict[str, str]:
    """The settings of pip out here, from its files too, as the variables it reads in there."""
    found = {}
    for line in answer(sys.executable, "-m", "pip", "config", "list").splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2].upper().replace("-", "_")
        found[f"PIP_{name}"] = str(ast.literal_eval(value))
    if "://" not in found.get("PIP_FIND_LINKS", "://"):
        del found["PIP_FIND_LINKS"]  # a folder out here
    return found


def inner_environ(settings: Mapping[str, str]) -> dict[str, str]:
    """What a process in the folder inherits: the way to the package index, and little else."""
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    bundles = dict.fromkeys(("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), str(CERTIFICATES))
    fixed = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    return {**proxies, **settings, **bundles, **fixed, "CI": os.environ.get("CI", "")}


def in_debian(root: Path) -> int:
    """Run the tests inside *root*; nothing stays mounted, however that ends."""
    copy_tree(root / "work")
    for name in ("/etc/resolv.conf", "/etc/hosts"):
        if Path(name).exists():
            shutil.copy2(name, root / name[1:])
    settings = pip_settings()
    trusted = (settings.get("PIP_CERT"), os.environ.get("SSL_CERT_FILE"), str(CERTIFICATES))
    bundle = next((one for one in trusted if one and Path(one).is_file()), None)
    if bundle:
        shutil.copyfile(bundle, root / str(CERTIFICATES)[1:])
    environ = inner_environ(settings)
    prefix = ["chroot", str(root)]
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    # The mounts are this process's own and go with it. Without the right to make them, the
    # folder's own device files serve.
    if run([*alone, "mount", "-t", "proc", "proc", root / "proc"], stderr=subprocess.DEVNULL) == 0:
        mounts = 'mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"; exec chroot "$0" "$@"'
        prefix = [*alone, "sh", "-ec", mounts, str(root)]
    return test_with("python3.14", prefix, "/work", environ)


def main() -> int:
    """The exit code of the tests; 0 with a reason where they cannot run."""
    python = shutil.which("python3.14")
    if python:
        tree = CACHE / "newest"
        copy_tree(tree)
        return test_with(python, [], str(tree), os.environ)
    root = debian_root()
    if isinstance(root, str):
        print(f"test-newest is skipped: {root}")
        return 0
    return in_debian(root)


if __name__ == "__main__":
    sys.exit(main())
