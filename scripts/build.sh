#!/bin/sh
# Builds what would be published into dist/, twice with the same bytes, and checks it. Nothing is uploaded.
set -eu
cache=${XDG_CACHE_HOME:-$HOME/.cache}/confiture-webhooks/publish
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
[ -x "$cache/bin/python" ] || "$PYTHON" -m venv --clear "$cache"
"$cache/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r requirements/publish.txt

rm -rf dist
for folder in dist "$work/again"; do
    "$cache/bin/python" -m hatchling build -d "$folder" >/dev/null 2>&1
done
for file in dist/*; do
    cmp "$file" "$work/again/$(basename "$file")"
done
echo "build: two builds have the same bytes"
"$cache/bin/twine" check --strict dist/*
"$cache/bin/zizmor" --offline --quiet --pedantic .github/workflows

# An environment that has the wheel and its extras, and nothing else: tried, and its parts listed.
"$PYTHON" -m venv "$work/venv"
wheel=$(ls dist/*.whl)
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check "$wheel[otlp,socks]"
"$work/venv/bin/confiture" --version
"$work/venv/bin/python" -m confiture_webhooks --version
CONFITURE_WEBHOOK_URL=https://example.com/hook "$work/venv/bin/confiture" webhooks check
echo "build: the wheel works in an empty environment"
"$work/venv/bin/python" -m pip uninstall -q -y pip setuptools 2>/dev/null
bom="${wheel%.whl}.cdx.json"
"$cache/bin/cyclonedx-py" environment --output-reproducible --short-PURLs --pyproject pyproject.toml \
    --mc-type library -o "$bom" "$work/venv/bin/python" 2>/dev/null
echo "build: $bom lists $(grep -c '"purl"' "$bom") packages"

if "$cache/bin/pip-audit" --timeout 15 --disable-pip --require-hashes -r requirements/tests.txt >"$work/audit" 2>&1; then
    if grep -q 'could not be audited' "$work/audit"; then
        echo 'build: pip-audit is left out: its service does not know the packages of this index'
    else
        echo 'build: pip-audit knows no vulnerability'
    fi
elif grep -q 'ConnectionError\|Failed to resolve\|timed out' "$work/audit"; then
    echo 'build: pip-audit is left out: its service is not reachable'
else
    cat "$work/audit" >&2
    exit 1
fi
