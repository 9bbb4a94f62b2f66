#!/bin/sh
# Runs the main path on the lowest versions of everything that pyproject.toml allows, on PostgreSQL 15
# where Debian's package is here. Its environment is kept under the user's cache folder.
set -eu
cache=${XDG_CACHE_HOME:-$HOME/.cache}/confiture-webhooks/lowest
[ -x "$cache/bin/python" ] || "$PYTHON" -m venv --clear "$cache"
install="$cache/bin/python -m pip install -q --disable-pip-version-check"
$install --require-hashes -r requirements/lowest.txt
$install --no-deps --no-build-isolation -e .
"$cache/bin/python" -m pip list 2>/dev/null | grep -iE '^(fraiseql|typer |click|opentelemetry-sdk|requests |structlog)'
debian=$(ls -d /usr/lib/postgresql/15/bin 2>/dev/null || true)
[ -z "$debian" ] || export CONFITURE_WEBHOOKS_TEST_PG_BIN="$debian"
exec "$cache/bin/python" -m pytest -q -n "${JOBS:-2}" tests/acceptance/test_main_path.py
