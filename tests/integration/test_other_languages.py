"""The test vectors, checked by the Standard Webhooks library of another language."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

VECTORS = Path(__file__).parents[2] / "docs" / "test-vectors.json"
INSTALLS_S = 50
CHECK = """
const {Webhook} = require("standardwebhooks");
const {cases} = JSON.parse(require("fs").readFileSync(process.argv[2]));
const Clock = Date, verdicts = {};
for (const {name, secrets, now, headers, body} of cases) {
  global.Date = class extends Clock {
    constructor(...given) { given.length ? super(...given) : super(now * 1000); }
    static now() { return now * 1000; }
  };
  verdicts[name] = secrets.some((secret) => {
    try {
      const key = secret.startsWith("whsec_")
        ? new Webhook(secret) : new Webhook(new TextEncoder().encode(secret), {format: "raw"});
      key.verify(body, headers);
      return true;
    } catch (error) {
      if (error.constructor.name !== "WebhookVerificationError") throw error;
      return false;
    }
  });
}
console.log(JSON.stringify(verdicts));
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the library installed, by npm's own settings."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("npm or node is not installed")
    directory = tmp_path_factory.mktemp("npm")
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save"]
    try:
        done = subprocess.run(
            [*command, "--prefix", directory, "standardwebhooks@1"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALLS_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install standardwebhooks in {INSTALLS_S} s")
    if done.returncode:
        pytest.skip("npm cannot install standardwebhooks here")
    return directory


@pytest.mark.timeout(150)
def test_the_javascript_library_agrees(library: Path) -> None:
    """It accepts and refuses exactly what our receiver does."""
    script = library / "check.js"
    script.write_text(CHECK)
    done = subprocess.run(
        ["node", script, VECTORS], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = {case["name"]: case["valid"] for case in json.loads(VECTORS.read_text())["cases"]}
    assert json.loads(done.stdout) == expected
