"""Where settings are read from, and what a wrong one costs: only what it is about."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

import pytest


def _targets(receiver: Any) -> list[str]:
    return [json.loads(request.body)["webhook_target"] for request in receiver.requests]


@pytest.mark.survived("A variable of one endpoint that is not set", "kept", "said")
def test_an_endpoint_whose_variable_is_not_set_waits_and_the_others_deliver(
    one_migration: Any, receiver: Any
) -> None:
    """Its events are recorded, the run says so, and they are sent once it is set."""
    good = {"name": "good", "url": receiver.url}
    one_migration.environment_file(
        webhooks={"endpoints": [{"name": "bad", "url": "${HOOK_OF_BAD}"}, good]}
    )
    done = one_migration.confiture("migrate", "up")
    assert done.returncode == 0
    assert _targets(receiver) == ["good"]
    assert "events for bad are recorded and wait" in done.stderr
    assert "needs the environment variable HOOK_OF_BAD" in done.stderr
    logged = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert "webhooks.config_invalid" in {line["event"] for line in logged}
    assert len({line["correlation_id"] for line in logged}) == 1  # the run's, on every line
    env = {"HOOK_OF_BAD": receiver.url}
    sent = one_migration.confiture("webhooks", "deliver", env=env)
    assert sent.returncode == 0, sent.stderr
    assert _targets(receiver) == ["good", "bad"]


def test_a_variable_of_another_environments_endpoint_costs_nothing_here(
    one_migration: Any, receiver: Any
) -> None:
    """Staging has no secret of production's pager: it migrates without a word, `check` warns."""
    pager = {"name": "pager", "url": "${PAGER_URL}", "environments": ["production", "dr"]}
    everywhere = {"name": "chat", "url": receiver.url}
    for name in ("staging", "production"):
        one_migration.environment_file(name, webhooks={"endpoints": [pager, everywhere]})
    staging = ("--config", "db/environments/staging.yaml")
    checked = one_migration.confiture("webhooks", "check", *staging)
    assert checked.returncode == 0, checked.stderr
    assert (
        "webhooks.endpoints[0].url (pager): needs the environment variable PAGER_URL, which is not "
        "set; the endpoint is only for dr, production. Set PAGER_URL there"
    ) in checked.stdout
    words = ("webhooks", "check", *staging, "--explain", "migration_error", "--format", "json")
    verdicts = json.loads(one_migration.confiture(*words).stdout)["explain"]["endpoints"]
    assert {one["endpoint"]: one["sent"] for one in verdicts} == {"pager": False, "chat": True}
    done = one_migration.confiture("migrate", "up", *staging)
    assert done.returncode == 0
    assert _targets(receiver) == ["chat"]
    assert "pager" not in done.stderr
    assert "PAGER_URL" not in done.stderr
    assert one_migration.confiture("webhooks", "deliver", *staging).returncode == 0
    tried = one_migration.confiture("webhooks", "test", "pager", *staging)
    assert tried.returncode == 5
    assert "webhooks.endpoints[0].url (pager): needs the environment" in tried.stderr
    there = ("--config", "db/environments/production.yaml")
    refused = one_migration.confiture("webhooks", "check", *there, "--format", "json")
    assert refused.returncode == 5
    (fault,) = json.loads(refused.stdout)["faults"]
    assert (fault["setting"], fault["endpoint"]) == ("webhooks.endpoints[0].url", "pager")
    refused = one_migration.confiture("webhooks", "check", *there)
    assert "webhooks.endpoints[0].url (pager): needs the environment" in refused.stderr


def test_where_the_outbox_is_memory_no_event_is_kept(one_migration: Any, receiver: Any) -> None:
    """A wrong outbox and a wrong endpoint: the run promises no record that is lost anyhow."""
    wrong = {"name": "b", "url": "ftp://x"}
    block = {"outbox": "nowhere", "endpoints": [{"name": "a", "url": receiver.url}, wrong]}
    one_migration.environment_file(webhooks=block)
    done = one_migration.confiture("migrate", "up")
    cost = "events for b are not sent; events are kept in memory and are lost when the command ends"
    assert cost in done.stderr
    assert "are recorded and wait" not in done.stderr


@pytest.mark.parametrize("dsn", ["postgresql://us3r:p4ss@[h/d", "nosuch=p4ss"])
def test_an_outbox_whose_dsn_cannot_be_read_is_one_fault_everywhere(
    one_migration: Any, receiver: Any, dsn: str
) -> None:
    """`check`, the run and commands say the same, without the password; the run delivers."""
    env = {
        "CONFITURE_WEBHOOK_URL": receiver.url,
        "CONFITURE_WEBHOOK_OUTBOX": f"postgres:{dsn}",
        "CONFITURE_WEBHOOK_LOG": "console",
    }
    fault = "CONFITURE_WEBHOOK_OUTBOX: has no valid DSN after the colon"
    for command in ("check", "status"):
        done = one_migration.confiture("webhooks", command, env=env)
        assert done.returncode == 5, command
        assert fault in done.stderr
    done = one_migration.confiture("migrate", "up", env=env)
    assert (done.returncode, _targets(receiver)) == (0, ["default"])
    assert "events are kept in memory and are lost when the command ends" in done.stderr
    assert fault in done.stderr
    assert "internal fault" not in done.stderr
    assert "p4ss" not in done.stderr


def test_a_misspelt_network_that_is_denied_is_not_dialled(
    one_migration: Any, receiver: Any
) -> None:
    """The endpoints that the file's list protects wait until it is right."""
    block = {"endpoints": [{"name": "a", "url": receiver.url}], "deny_networks": ["privte"]}
    one_migration.environment_file(webhooks=block)
    done = one_migration.confiture("migrate", "up")
    assert (done.returncode, receiver.requests) == (0, ())
    assert "events for a are recorded and wait until this is fixed" in done.stderr
    assert done.stderr.count("webhooks.deny_networks[0]: is not a network") == 2  # and a log line
    assert one_migration.confiture("webhooks", "deliver").returncode == 5
    assert one_migration.confiture("webhooks", "test").returncode == 5
    one_migration.environment_file(webhooks=block | {"deny_networks": ["metadata"]})
    assert one_migration.confiture("webhooks", "deliver").returncode == 0
    assert _targets(receiver) == ["a"]


def test_a_block_without_endpoints_is_not_named_as_another_file(one_migration: Any) -> None:
    """The remedy names the file that is read, and --config only for one that is not."""
    used = one_migration.environment_file(webhooks={"flush_timeout": 1})
    done = one_migration.confiture("webhooks", "check")
    assert done.returncode == 5
    assert "an endpoint into the `webhooks:` block of db/environments/local.yaml" in done.stderr
    one_migration.environment_file("other", webhooks={"endpoints": []})
    done = one_migration.confiture("webhooks", "check", "--config", str(used))
    assert "a file that has a `webhooks:` block: db/environments/other.yaml\n" in done.stderr
    done = one_migration.confiture("webhooks", "check", env={"CONFITURE_WEBHOOK_CONFIG": str(used)})
    assert f"an endpoint into the `webhooks:` block of {used}\n" in done.stderr


def test_check_prints_every_fault_at_once(one_migration: Any) -> None:
    """Those of settings, hook files, telemetry, ways and the outbox's place: none hides another."""
    urls = {"url": "https://hooks.example.com/"}
    endpoints = [{"name": "a", **urls}, {"name": "b", **urls, "tls": {"ca_bundle": "no.pem"}}]
    one_migration.environment_file(webhooks={"endpoints": endpoints, "flush_timeout": "10s"})
    hooks = one_migration.path / "confiture_hooks"
    hooks.mkdir()
    (hooks / "broken.py").write_text("def (:\n")
    env = {
        "CONFITURE_WEBHOOK_OUTBOX": "sqlite:db/environments/local.yaml",
        "HTTPS_PROXY": "http://",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "nowhere",
    }
    done = one_migration.confiture("webhooks", "check", "--format", "json", env=env)
    assert done.returncode == 5
    faults = json.loads(done.stdout)["faults"]
    assert [(fault["setting"], fault["endpoint"]) for fault in faults] == [
        ("webhooks.flush_timeout", None),
        ("confiture_hooks/broken.py:1", None),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", None),
        ("HTTPS_PROXY", None),  # once, though it is in the way of both
        ("tls.ca_bundle", "b"),
        ("CONFITURE_WEBHOOK_OUTBOX", None),
    ]
    one_migration.environment_file(
        webhooks={"outbox": env["CONFITURE_WEBHOOK_OUTBOX"], "endpoints": endpoints[:1]}
    )
    checked = one_migration.confiture("webhooks", "check", "--format", "json")
    assert [one["setting"] for one in json.loads(checked.stdout)["faults"]][1:] == [
        "webhooks.outbox"
    ]


def test_a_fault_without_an_endpoint_is_what_check_names(one_migration: Any) -> None:
    """That no endpoint is configured would hide it."""
    env = {"CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "10s"}
    done = one_migration.confiture("webhooks", "check", env=env)
    assert done.returncode == 5
    assert "CONFITURE_WEBHOOK_FLUSH_TIMEOUT: must be a number" in done.stderr


def test_an_environment_that_no_endpoint_is_for_is_named(one_migration: Any, receiver: Any) -> None:
    """A misspelt environment: check and doctor suggest the right one, and a run says so."""
    analytics = {"name": "analytics", "url": receiver.url, "environments": ["prodution"]}
    one_migration.environment_file("production", webhooks={"endpoints": [analytics]})
    there = ("--config", "db/environments/production.yaml")
    stray = "analytics: is sent nothing in environment production: its environments are prodution"
    checked = one_migration.confiture("webhooks", "check", *there)
    assert checked.returncode == 0
    assert f"{stray}. Did you mean `production`?\n" in checked.stdout
    rows = json.loads(one_migration.confiture("webhooks", "doctor", *there, "-f", "json").stdout)
    assert stray in [row["detail"] for row in rows["checks"] if row["status"] == "warning"]
    done = one_migration.confiture("migrate", "up", *there)
    assert done.returncode == 0
    said = "no endpoint is for environment production, so no event is sent. Show the endpoints: "
    assert f"{said}`confiture webhooks check {' '.join(there)}`" in done.stderr
    assert [one.method for one in receiver.requests] == ["HEAD"]  # the doctor's


def test_an_endpoint_of_an_environment_that_has_a_file_is_no_slip(
    one_migration: Any, receiver: Any
) -> None:
    """A block for several environments: where another endpoint is sent events, there is no advice."""
    rows = [
        {"name": name, "url": receiver.url, "environments": [name]}
        for name in ("staging", "production")
    ]
    for name in ("staging", "production"):
        one_migration.environment_file(name, webhooks={"endpoints": rows})
    there = ("--config", "db/environments/staging.yaml")
    checked = one_migration.confiture("webhooks", "check", *there, "-f", "json")
    assert json.loads(checked.stdout)["warnings"] == []
    assert "no endpoint is for" not in one_migration.confiture("migrate", "up", *there).stderr


def test_another_fault_of_another_environments_endpoint_is_a_fault(one_migration: Any) -> None:
    """What is wrong in the file is wrong in every environment; so is a list that is not known."""
    pager = {"name": "pager", "url": "ftp://x", "environments": ["production"]}
    hidden = {"name": "x", "url": "${X_URL}", "environments": ["${X_ENVIRONMENT}"]}
    one_migration.environment_file("staging", webhooks={"endpoints": [pager, hidden]})
    words = ("webhooks", "check", "--config", "db/environments/staging.yaml")
    refused = one_migration.confiture(*words)
    assert refused.returncode == 5
    assert "endpoints[0].url (pager): is neither http nor https" in refused.stderr
    assert "endpoints[1].url (x): needs" in refused.stderr


@pytest.mark.survived("A wrong setting of one endpoint", "kept", "said")
def test_any_fault_of_an_endpoint_costs_that_endpoint_alone(
    one_migration: Any, receiver: Any
) -> None:
    """Whatever is wrong with some, the other delivers and the run names each."""
    wrong: dict[str, dict[str, Any]] = {
        "misspelt": {"secert": "x"},
        "line": {"secret": "line\n"},
        "bom": {"secret": "\ufeffbom"},
        "quoted": {"secret": '"quoted"'},
        "padded": {"headers": {"X-Key": "padded "}},
        "event": {"events": ["migration_sucess"]},
        "rate": {"rate": "often"},
        "schedule": {"retry": {"schedule": ["soon"]}},
    }
    rows = [{"name": name, "url": receiver.url, **fault} for name, fault in wrong.items()]
    one_migration.environment_file(
        webhooks={"endpoints": [*rows, {"name": "good", "url": receiver.url}]}
    )
    done = one_migration.confiture("migrate", "up")
    assert done.returncode == 0
    assert _targets(receiver) == ["good"]
    assert f"events for {', '.join(wrong)} are recorded and wait" in done.stderr
    checked = one_migration.confiture("webhooks", "check")
    assert checked.returncode == 5
    assert [name for name in wrong if f"({name})" not in checked.stderr] == []


def test_with_a_dsn_the_block_is_that_of_the_environment(one_migration: Any, receiver: Any) -> None:
    """The commonest CI: the address in one variable, the environment's name in another."""
    one_migration.environment_file()
    one_migration.environment_file(
        "production", webhooks={"endpoints": [{"name": "a", "url": receiver.url}]}
    )
    dsn = {"CONFITURE_DATABASE_URL": one_migration.database_url}
    done = one_migration.confiture(
        "migrate", "up", env={**dsn, "CONFITURE_ENVIRONMENT": "production"}
    )
    assert done.returncode == 0, done.stderr
    (request,) = receiver.requests
    assert json.loads(request.body)["migration"]["environment"] == "production"


@pytest.mark.survived("A block that is not read", "said")
def test_a_run_whose_block_is_not_read_says_so(one_migration: Any, receiver: Any) -> None:
    """Without the environment's name nothing is guessed: one line, with both remedies."""
    one_migration.environment_file(
        "production", webhooks={"endpoints": [{"name": "a", "url": receiver.url}]}
    )
    dsn = {"CONFITURE_DATABASE_URL": one_migration.database_url}
    done = one_migration.confiture("migrate", "up", env=dsn)
    assert done.returncode == 0
    assert receiver.requests == ()
    (line,) = done.stderr.splitlines()
    assert "CONFITURE_DATABASE_URL" in line
    assert "Set CONFITURE_ENVIRONMENT to production, or CONFITURE_WEBHOOK_CONFIG" in line
    mistyped = one_migration.confiture(
        "migrate", "up", env={**dsn, "CONFITURE_ENVIRONMENT": "prod"}
    )
    (line,) = mistyped.stderr.splitlines()
    assert "CONFITURE_ENVIRONMENT: is prod, but there is no db/environments/prod.yaml" in line
    shutil.copy(
        one_migration.environments / "production.yaml", one_migration.environments / "prod.yml"
    )
    env = {**dsn, "CONFITURE_ENVIRONMENT": "prod"}
    misnamed = one_migration.confiture("webhooks", "status", env=env)
    assert "Rename db/environments/prod.yml to prod.yaml\n" in misnamed.stderr
    one_migration.environment_file("local", webhooks=None)
    for command in (("migrate", "up"), ("webhooks", "status")):
        local = one_migration.confiture(*command, env={"CONFITURE_ENVIRONMENT": "production"})
        assert "is production, but Confiture reads db/environments/local.yaml" in local.stderr
        named = f"`confiture {' '.join(command)} --config db/environments/production.yaml`"
        assert f"Set CONFITURE_DATABASE_URL too, or name the file: {named}" in local.stderr
    assert local.returncode == 5
    remedy = {"CONFITURE_WEBHOOK_CONFIG": "db/environments/production.yaml"}
    one_migration.migration("002", "b", up="SELECT 1")
    one_migration.confiture("migrate", "up", env={**dsn, **remedy})
    assert len(receiver.requests) == 1


def test_the_file_of_the_variable_comes_before_the_commands(
    one_migration: Any, receiver: Any
) -> None:
    """One block for all environments; the environment is that of the file Confiture was given."""
    shared = one_migration.environment_file(
        "hooks", webhooks={"endpoints": [{"name": "shared", "url": receiver.url}]}
    )
    staging = one_migration.environment_file(
        "staging", webhooks={"endpoints": [{"name": "own", "url": receiver.url}]}
    )
    env = {"CONFITURE_WEBHOOK_CONFIG": str(shared)}
    done = one_migration.confiture("migrate", "up", "--config", str(staging), env=env)
    assert done.returncode == 0, done.stderr
    (body,) = (json.loads(request.body) for request in receiver.requests)
    assert body["webhook_target"] == "shared"
    assert body["migration"]["environment"] == "staging"


def test_variables_alone_describe_a_whole_endpoint(one_migration: Any, receiver: Any) -> None:
    """Format, events, headers and both secrets of ``default`` come from variables."""
    env = {
        "CONFITURE_WEBHOOK_URL": receiver.url,
        "CONFITURE_WEBHOOK_FORMAT": "slack",
        "CONFITURE_WEBHOOK_EVENTS": "run_success, migration_error",
        "CONFITURE_WEBHOOK_HEADERS": "X-Team=data%20base,X-Key=k",
        "CONFITURE_WEBHOOK_SECRET": "n" * 24,
        "CONFITURE_WEBHOOK_SECRET_PREVIOUS": "p" * 24,
    }
    done = one_migration.confiture("migrate", "up", env=env)
    assert done.returncode == 0
    (request,) = receiver.requests
    assert request.headers["X-Confiture-Event"] == "run_success"
    assert request.headers["X-Team"] == "data base"
    assert len(request.headers["webhook-signature"].split()) == 2
    assert "attachments" in json.loads(request.body)


@pytest.mark.survived("A misspelt variable", "said")
def test_a_misspelt_variable_is_named_with_the_one_that_was_meant(
    one_migration: Any, receiver: Any
) -> None:
    """It is a warning: the run and what is configured go on."""
    misspelt = {
        "CONFITURE_WEBHOOK_SECRT": "CONFITURE_WEBHOOK_SECRET",
        "CONFITURE_WEBHOOK_OUTBX": "CONFITURE_WEBHOOK_OUTBOX",
        "CONFITURE_WEBHOK_URL": "CONFITURE_WEBHOOK_URL",
        "CONFITURE_ENVIROMENT": "CONFITURE_ENVIRONMENT",
    }
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, **dict.fromkeys(misspelt, "x")}
    done = one_migration.confiture("migrate", "up", env=env)
    assert done.returncode == 0
    assert len(receiver.requests) == 1
    for name, meant in misspelt.items():
        assert f"{name}: is a variable that nothing reads. Did you mean {meant}?" in done.stderr


@pytest.mark.parametrize(
    "name", ["CONFITURE_WEBHOOK_ULR", "CONFITURE_WEBHOOKS_URL", "CONFITURE_WEBHOK_URL"]
)
def test_a_misspelt_variable_alone_is_named(one_migration: Any, name: str) -> None:
    """Also when it was the only one."""
    done = one_migration.confiture("migrate", "up", env={name: "https://x/"})
    assert done.returncode == 0
    assert f"{name}: is a variable that nothing reads" in done.stderr


@pytest.mark.parametrize("key", ["webhook", "webhoks", "Webhooks", "web-hooks", "'hooks'"])
def test_a_misspelt_block_alone_is_named(one_migration: Any, key: str) -> None:
    """A run sends nothing by it, and says so as check does."""
    path = one_migration.environment_file()
    block = f"{key}: {{endpoints: [{{name: a, url: 'https://a.invalid/'}}]}}\n"
    path.write_text(path.read_text() + block)
    done = one_migration.confiture("migrate", "up")
    assert done.returncode == 0
    assert "that nothing reads. Did you mean `webhooks`?" in done.stderr
    assert one_migration.confiture("webhooks", "check").returncode == 5


def test_a_file_without_end_is_no_configuration(one_migration: Any) -> None:
    """A device in the file's place is a fault, and is not read."""
    env = {"CONFITURE_WEBHOOK_CONFIG": "/dev/zero"}
    done = one_migration.confiture("migrate", "up", env=env)
    assert done.returncode == 0
    assert "CONFITURE_WEBHOOK_CONFIG: names a file that is not a plain file" in done.stderr
    assert one_migration.confiture("webhooks", "check", env=env).returncode == 5


@pytest.mark.survived("An alias bomb in the file", "unharmed", "said")
@pytest.mark.parametrize("marks", ["[{}]", "{{<<: [{}]}}"])
def test_an_alias_bomb_is_a_fault_at_once(one_migration: Any, marks: str) -> None:
    """Nothing is expanded beyond a bound, in lists and in merged mappings."""
    path = one_migration.environment_file()
    lines = ["webhooks:", "  x0: &x0 {name: a, url: 'https://x/'}"]
    for level in range(1, 10):
        many = ", ".join([f"*x{level - 1}"] * 9)
        lines.append(f"  x{level}: &x{level} {marks.format(many)}")
    lines.append("  endpoints: [*x9, *x9]")
    path.write_text(path.read_text() + "\n".join(lines) + "\n")
    started = time.monotonic()
    done = one_migration.confiture("webhooks", "check")
    assert done.returncode == 5
    assert time.monotonic() - started < 60


def test_an_empty_only_secret_is_a_fault_and_an_empty_further_one_is_skipped(
    one_migration: Any, receiver: Any
) -> None:
    """Nothing is sent unsigned that was meant to be signed."""
    env = {"CONFITURE_WEBHOOK_URL": receiver.url, "CONFITURE_WEBHOOK_SECRET": ""}
    done = one_migration.confiture("migrate", "up", env=env)
    assert done.returncode == 0
    assert receiver.requests == ()
    assert "CONFITURE_WEBHOOK_SECRET: is blank" in done.stderr
    env |= {"CONFITURE_WEBHOOK_SECRET": "x" * 24, "CONFITURE_WEBHOOK_SECRET_PREVIOUS": ""}
    assert one_migration.confiture("webhooks", "deliver", env=env).returncode == 0
    (request,) = receiver.requests
    assert len(request.headers["webhook-signature"].split()) == 1


def test_a_command_in_a_message_names_the_file_that_was_given(one_migration: Any) -> None:
    """Also the usual one, here beside a DSN, which Confiture refuses: without it, none is read."""
    down = {"name": "down", "url": "http://127.0.0.1:9/"}
    file = one_migration.environment_file(webhooks={"endpoints": [down], "flush_timeout": 1})
    env = {"CONFITURE_DATABASE_URL": one_migration.database_url}
    named = ("--config", str(file.relative_to(one_migration.path)))
    done = one_migration.confiture("migrate", "up", *named, env=env)
    assert done.returncode == 5, done.stderr
    printed = "`confiture webhooks redeliver --pending --yes --config db/environments/local.yaml`"
    assert printed in done.stderr
    words = printed.strip("`").split()[1:]
    again = one_migration.confiture(*words, "--later", env=env)
    assert (again.returncode, again.stdout.splitlines()[0]) == (
        0,
        "Due again: 1 delivery (local 1)",
    )


@pytest.mark.parametrize(
    "scheme", ["sqlite://", "sqlite:mysql://", "postgres:mysql://", "redis://"]
)
@pytest.mark.parametrize("place", ["variable", "block"])
def test_an_address_that_is_no_outbox_is_a_fault_and_its_password_is_not_shown(
    one_migration: Any, receiver: Any, scheme: str, place: str
) -> None:
    """Taken as a path it would be shown whole; the run goes on in memory, the commands end."""
    outbox = f"{scheme}user:CANARY@h/x?a=b"
    block: dict[str, Any] = {"endpoints": [{"name": "a", "url": receiver.url}]}
    env = {"CONFITURE_WEBHOOK_OUTBOX": outbox} if place == "variable" else {}
    one_migration.environment_file(webhooks={**block, **({} if env else {"outbox": outbox})})
    name = "CONFITURE_WEBHOOK_OUTBOX" if env else "webhooks.outbox"
    done = one_migration.confiture("migrate", "up", env=env)
    assert done.returncode == 0, done.stderr
    assert _targets(receiver) == ["a"]
    assert f"{name}: " in done.stderr
    assert "events are kept in memory" in done.stderr
    shown = [done]
    for words in (["check"], ["status"], ["doctor"]):
        refused = one_migration.confiture("webhooks", *words, env=env)
        assert refused.returncode == 5
        assert f"{name}: " in refused.stdout + refused.stderr
        shown.append(refused)
    assert not [one for one in shown if "CANARY" in one.stdout + one.stderr]
    assert "sqlite:<path>" in shown[1].stderr or "postgres:postgresql://" in shown[1].stderr
    assert not list(one_migration.path.rglob("*CANARY*"))


def test_every_payload_leads_to_the_ci_run_and_the_trace(one_migration: Any, receiver: Any) -> None:
    """The command, the CI run's address and the link to the trace are in each event of a run."""
    block = {
        "trace_url": "https://jaeger.example/trace/{trace_id}",
        "endpoints": [
            {"name": "a", "url": receiver.url, "events": ["migration_started", "run_success"]},
            {"name": "b", "url": receiver.url},
        ],
    }
    one_migration.environment_file(webhooks=block)
    env = {
        "GITHUB_ACTIONS": "true",
        "GITHUB_RUN_ID": "7",
        "GITHUB_REPOSITORY": "o/shop",
        "GITHUB_SERVER_URL": "https://github.example",
    }
    done = one_migration.confiture("migrate", "up", env=env)
    assert done.returncode == 0, done.stderr
    bodies = [json.loads(request.body) for request in receiver.requests]
    assert len(bodies) == 3
    for body in bodies:
        url = "https://github.example/o/shop/actions/runs/7"
        assert body["run"] == {"command": "confiture migrate up", "url": url}
        assert body["trace_url"] == f"https://jaeger.example/trace/{body['trace_id']}"
