"""Compiles the dashboards against Grafana's types: ``python observability/preview/check_types.py``.

``@grafana/schema`` and the compiler are installed once, in the user's cache, in the versions of ``package.json``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
OBSERVABILITY = HERE.parent
sys.path.insert(0, str(OBSERVABILITY / "native"))

UNAVAILABLE = 3
TYPES = """
import type { AnnotationQuery, Dashboard, VariableModel } from '@grafana/schema';
// JSON has strings where the types have enumerations; a data source's own keys are not in the common types.
type Plain<T> = T extends string ? `${T}` : T extends (infer One)[] ? Plain<One>[]
  : T extends object ? { [Key in keyof T]: Plain<T[Key]> } : T;
type Mark = Plain<AnnotationQuery> & { expr: string; step: string; titleFormat: string };
type Choice = Plain<VariableModel> & { definition?: string };
type Shipped = Plain<Omit<Dashboard, 'annotations' | 'templating'>>
  & { annotations: { list: Mark[] }; templating: { list: Choice[] } };
"""


def main() -> int:
    """Run the command; its exit code, UNAVAILABLE where npm cannot be had or asked."""
    from programs import cache  # of observability/native

    if shutil.which("npm") is None:
        print("npm is not installed: the dashboards were not compiled", file=sys.stderr)
        return UNAVAILABLE
    wanted = json.loads((HERE / "package.json").read_text())
    packages = {
        "@grafana/schema": wanted["dependencies"]["@grafana/schema"],
        "typescript": wanted["devDependencies"]["typescript"],
    }
    home = cache().parent / "grafana-types"
    if any(not (home / "node_modules" / name).exists() for name in packages):
        home.mkdir(parents=True, exist_ok=True)
        asked = [f"{name}@{version}" for name, version in packages.items()]
        options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(home)]
        done = subprocess.run(
            ["npm", "install", *options, *asked], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"npm could not install {asked}:\n{done.stderr[-500:]}", file=sys.stderr)
            return UNAVAILABLE
    with tempfile.TemporaryDirectory(dir=home) as folder:
        source = Path(folder) / "dashboards.ts"
        paths = sorted(OBSERVABILITY.glob("*/dashboards/*/*.json"))
        constants = [
            f"export const dashboard{number}: Shipped = {path.read_text()}"
            for number, path in enumerate(paths)
        ]
        source.write_text("\n".join([TYPES, *constants]))
        compiler = home / "node_modules" / "typescript" / "bin" / "tsc"
        flags = "--noEmit --skipLibCheck --moduleResolution bundler --module esnext --target es2022"
        done = subprocess.run(
            ["node", str(compiler), *flags.split(), str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
    print(done.stdout, end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
