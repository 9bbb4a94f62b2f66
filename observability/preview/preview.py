"""Draws the shipped dashboards with Grafana's own components: ``python observability/preview/preview.py --help``.

A tool for those who change them. It asks a running stack (``make stack``) every query of every panel, and has headless
Chromium draw the answers with ``@grafana/ui`` and ``@grafana/data``. Needs Node, npm and Chromium; no Grafana.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OBSERVABILITY = HERE.parent
OUT = HERE / "out"
MODULES = HERE / "node_modules"
ROW_PX = 36
BUNDLE = (
    "--bundle --format=iife --minify --log-level=error --loader:.svg=dataurl --loader:.ttf=dataurl "
    '--define:process.env.NODE_ENV="production"'
).split()
CHROMIUM = (
    "--headless --no-sandbox --disable-gpu --hide-scrollbars --force-device-scale-factor=1 "
    "--allow-file-access-from-files --virtual-time-budget=20000"
).split()


def filled(expr: str, step_s: int, window_s: int) -> str:
    """An expression as Grafana sends it with every variable at *All*."""
    for name, value in (("service", ".+"), ("environment", ".*"), ("endpoint", ".*")):
        expr = expr.replace(f"${{{name}:regex}}", value).replace(f"${name}", value)
    expr = expr.replace("$__rate_interval", f"{step_s + 10}s")
    return expr.replace("$__interval", f"{step_s}s").replace("$__range", f"{window_s}s")


def get(url: str, **query: Any) -> bytes:
    """The body of an answer."""
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
        return bytes(answer.read())


def answers(panel: Any, options: argparse.Namespace, start: int, end: int) -> list[Any]:
    """What a panel's queries find."""
    step_s = {"1m": 60, "5m": 300}.get(panel.get("interval", ""), 15)
    found: list[Any] = []
    for target in panel.get("targets", ()):
        expr = filled(target["expr"], step_s, end - start)
        if target["datasource"]["uid"] == "${logs}":
            query = {"query": expr, "start": start, "end": end, "limit": target["maxLines"]}
            lines = get(f"{options.logs}/select/logsql/query", **query).splitlines()
            found.append(sorted(map(json.loads, lines), key=lambda line: line["_time"])[::-1])
        elif target.get("instant"):
            body = get(f"{options.prometheus}/api/v1/query", query=expr, time=end)
            found.append(json.loads(body)["data"]["result"])
        else:
            query = {"query": expr, "start": start - start % step_s, "end": end, "step": step_s}
            body = get(f"{options.prometheus}/api/v1/query_range", **query)
            found.append(json.loads(body)["data"]["result"])
    return found


def draw(path: Path, options: argparse.Namespace) -> Path:
    """The picture of one dashboard."""
    dashboard = json.loads(path.read_text())
    end = int(time.time())
    start = end - options.minutes * 60
    results = {panel["id"]: answers(panel, options, start, end) for panel in dashboard["panels"]}
    data = {"dashboard": dashboard, "results": results, "from": start * 1000, "to": end * 1000}
    written = json.dumps(data).replace("</", "<\\/")
    page = OUT / f"{path.stem}.html"
    page.write_text(
        '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="render.css">'
        '<body style="margin:0"><div id="root"></div>'
        f'<script>window.PREVIEW = {written}</script><script src="render.js"></script>'
    )
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    picture = options.to / f"grafana-{path.stem}.png"
    subprocess.run(
        [
            options.chromium,
            *CHROMIUM,
            f"--window-size=1440,{rows * ROW_PX}",
            f"--screenshot={picture}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    return picture


def main() -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prometheus", required=True, help="the metrics server of `make stack`")
    parser.add_argument("--logs", required=True, help="its VictoriaLogs")
    parser.add_argument("--dialect", default="prometheus", help="whose dashboards")
    parser.add_argument("--minutes", type=int, default=60, help="the time range")
    parser.add_argument("--to", type=Path, default=OUT, help="the folder of the pictures")
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    options = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    if not MODULES.exists():
        install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"]
        subprocess.run([*install, "--ignore-scripts"], cwd=HERE, check=True)
    bundle = [MODULES / ".bin" / "esbuild", "render.tsx", "--outfile=out/render.js", *BUNDLE]
    subprocess.run(bundle, cwd=HERE, check=True)
    dashboards = OBSERVABILITY / options.dialect / "dashboards" / "victorialogs"
    for path in sorted(dashboards.glob("*.json")):
        print(draw(path, options), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
