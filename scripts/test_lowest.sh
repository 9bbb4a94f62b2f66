#!/bin/sh
# Runs the main path, and what old versions broke, on the lowest versions of everything that pyproject.toml allows, on PostgreSQL 15
# where Debian's package is here. Its environment is kept under the user's cache folder.
set -eu
cache=${XDG_CACHE_HOME:-$HOME/.cache}/confiture-webhooks/lowest
install="$cache/bin/python -m pip install -q --disable-pip-version-check"
if ! cmp -s requirements/lowest.txt "$cache/requirements.txt"; then
  # Anew: beside a newer version that is installed, pip does not take the one that is asked for.
  "$PYTHON" -m venv --clear "$cache"
  $install --require-hashes -r requirements/lowest.txt
  cp requirements/lowest.txt "$cache/requirements.txt"
fi
$install --no-deps --no-build-isolation -e .
"$cache/bin/python" -m pip list 2>/dev/null | grep -iE '^(fraiseql|typer |click|opentelemetry-sdk|requests |structlog|urllib3|psycopg )'
debian=$(ls -d /usr/lib/postgresql/15/bin 2>/dev/null || true)
[ -z "$debian" ] || export CONFITURE_WEBHOOKS_TEST_PG_BIN="$debian"
# Named, because others import what is not installed here.
cd tests/acceptance
exec "$cache/bin/python" -m pytest -q -n "${JOBS:-2}" -m lowest test_main_path.py \
  test_kinds_of_migration.py test_postgres_outbox.py test_postgres_outbox_hidden.py
