#!/bin/sh
# Builds the wheel, installs it with its otlp extra into an empty environment, and runs it there.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
"$PYTHON" -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w "$work/dist" .
"$PYTHON" -m venv "$work/venv"
wheel=$(ls "$work"/dist/*.whl)
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check "$wheel[otlp]"
"$work/venv/bin/confiture" --version
CONFITURE_WEBHOOK_URL=https://example.com/hook "$work/venv/bin/confiture" webhooks check
echo "The wheel works in an empty environment: $(basename "$wheel")"
