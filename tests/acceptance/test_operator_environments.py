"""Environments that share an outbox, ids that people have, and commands that do what they say."""

from __future__ import annotations

import json
import shlex
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from confiture_webhooks.config import Settings
from confiture_webhooks.delivery import Decision, Outcome
from confiture_webhooks.outbox.sqlite import SqliteOutbox
from confiture_webhooks.receiver import LocalReceiver
from outbox_databases import emptied
from project import Project
from samples import attempt, delivery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from confiture_webhooks.outbox import Outbox

NOW = datetime.now(UTC)
TRACES = {"production": "a" * 32, "staging": "b" * 32}


class Shared(Project):
    """A project whose environments share *outbox*: how it is opened, and the setting's value."""

    def __init__(self, path: Path, opening: Callable[[], Outbox], outbox: str) -> None:
        self.opening, self.outbox = opening, outbox
        super().__init__(path, "postgresql://nobody@127.0.0.1:1/none")

    @property
    def place(self) -> str:
        """Where commands say that the outbox lies."""
        is_file = self.outbox == "sqlite"
        return f"sqlite:{self.file}" if is_file else Settings(outbox=self.outbox).place.shown

    @property
    def file(self) -> Path:
        """The SQLite outbox's."""
        return self.path / ".confiture" / "webhooks.db"

    def environment_file(
        self, name: str = "local", webhooks: Mapping[str, Any] | None = None, **settings: Any
    ) -> Path:
        """Write it with the outbox in it."""
        block = {"outbox": self.outbox, **(webhooks or {})}
        return super().environment_file(name, webhooks=block, **settings)


def opened(project: Shared) -> Any:
    """The project's outbox, to close."""
    return closing(project.opening())


def put(project: Shared, name: str, outcome: Outcome, **facts: Any) -> None:
    """A delivery whose only attempt led to *outcome*."""
    one = delivery(id=f"dlv_{name}", event_id=f"evt_{name}", **{"endpoint": "ops", **facts})
    with opened(project) as outbox:
        outbox.release(one.event_id, [one])
        (claim,) = outbox.claim(
            one.endpoint, environment=one.environment, now=NOW, lease=timedelta(seconds=40)
        )
        next_at = NOW + timedelta(hours=1) if outcome is Outcome.RETRY else None
        decision = Decision(outcome=outcome, next_attempt_at=next_at)
        outbox.record(claim, attempt(status_code=503), decision)


def states(project: Shared) -> dict[str, str]:
    """The state of each delivery by its id."""
    with opened(project) as outbox:
        return {row.delivery.id: row.state.value for row in outbox.deliveries()}


@pytest.fixture
def down() -> Iterator[LocalReceiver]:
    """A receiver for every environment."""
    with LocalReceiver() as receiver:
        yield receiver


@pytest.fixture(params=["sqlite", "postgres"])
def shared(request: pytest.FixtureRequest, tmp_path: Path, down: LocalReceiver) -> Iterator[Shared]:
    """A project with two dead letters of production and two of staging, on each outbox."""
    path = tmp_path / "project"
    if request.param == "postgres":
        dsn = request.getfixturevalue("outbox_database")
        project = Shared(path, emptied(dsn), f"postgres:{dsn}")
    else:
        project = Shared(path, partial(SqliteOutbox, path / ".confiture" / "webhooks.db"), "sqlite")
    for environment in TRACES:
        endpoint = {"name": "ops", "url": down.url, "retry": {"schedule": []}}
        project.environment_file(environment, webhooks={"endpoints": [endpoint]})
    for environment, trace in TRACES.items():
        for number in (1, 2):
            put(
                project,
                f"{environment}_0000{number}",
                Outcome.DEAD_LETTER,
                environment=environment,
                correlation_id=trace,
                created_at=NOW - timedelta(minutes=number),
            )
    yield project
    project.close()


on_sqlite = pytest.mark.parametrize("shared", ["sqlite"], indirect=True)
"""For a test that is not about the outbox."""


def of(environment: str) -> tuple[str, str]:
    """The options that name the file of *environment*."""
    return "--config", f"db/environments/{environment}.yaml"


@pytest.mark.parametrize("words", [("discard", "--endpoint", "ops"), ("redeliver", "--dead")])
def test_an_acting_command_keeps_to_its_environment(
    shared: Shared, down: LocalReceiver, words: tuple[str, ...]
) -> None:
    """It leaves other environments alone; the question and the answer count by environment."""
    asked = shared.confiture("webhooks", *words, *of("production"))
    assert asked.returncode == 1
    assert "2 de" in asked.stderr
    assert "(production 2)" in asked.stderr
    assert "No terminal to confirm on. Add --yes" in asked.stderr
    assert set(states(shared).values()) == {"dead_letter"}
    done = shared.confiture("webhooks", *words, "--yes", *of("production"))
    assert done.returncode == 0, done.stderr
    assert "production 2" in done.stdout
    left = states(shared)
    assert {left[f"dlv_staging_0000{n}"] for n in (1, 2)} == {"dead_letter"}
    assert "dead_letter" not in {v for k, v in left.items() if "production" in k}
    assert {r.headers["X-Environment"] for r in down.requests} <= {"production"}


def test_all_environments_are_meant_only_when_named(shared: Shared) -> None:
    """With --all-environments every environment is counted in the question and changed."""
    done = shared.confiture(
        "webhooks", "discard", "--endpoint", "ops", "--all-environments", *of("staging"), "--yes"
    )
    assert "Discard 4 deliveries (production 2, staging 2)" in done.stderr.replace(
        "staging 2, production 2", "production 2, staging 2"
    )
    assert states(shared) == {}


def test_an_id_of_another_environment_is_refused(shared: Shared) -> None:
    """The refusal names the environment and what to add; nothing is changed."""
    words = ("redeliver", "evt_staging_00001", "--yes")
    done = shared.confiture("webhooks", *words, *of("production"))
    assert done.returncode == 1
    command = f"`confiture {shlex.join(('webhooks', *words, *of('staging')))}`"
    said = f"of environment staging: use {command}, or add --all-environments --later"
    assert said in done.stderr
    everywhere = (*words, "--all-environments", *of("production"))
    unsent = shared.confiture("webhooks", *everywhere)
    assert unsent.returncode == 1
    nothing = "Nothing can be sent from environment production, so nothing was changed: 1 delivery (staging 1)"
    assert nothing in unsent.stdout
    assert "Other environments" not in unsent.stdout  # nothing waits that was asked for
    document = json.loads(shared.confiture("webhooks", *everywhere, "-f", "json").stdout)
    assert (document["ok"], document["elsewhere"]) == (False, {"staging": 1})
    assert document["error"].startswith(nothing)
    assert set(states(shared).values()) == {"dead_letter"}
    assert shared.confiture("webhooks", *everywhere, "--later").returncode == 0
    assert states(shared)["dlv_staging_00001"] == "pending"


@on_sqlite
def test_a_delivered_one_stays_so_if_it_cannot_be_sent(shared: Shared) -> None:
    """With a wrong configuration, or without any, redeliver fails before it changes anything."""
    put(shared, "done", Outcome.DELIVERED, environment="staging")
    for endpoints in ([{"name": "ops", "url": "${NOT_SET}"}], []):
        shared.environment_file("staging", webhooks={"endpoints": endpoints})
        done = shared.confiture("webhooks", "redeliver", "evt_done", "--yes", *of("staging"))
        assert done.returncode == 5
        assert states(shared)["dlv_done"] == "delivered"
    assert "CONFITURE_WEBHOOK_URL: no endpoint is configured" in done.stderr


def test_a_delivery_is_found_by_what_people_have(shared: Shared) -> None:
    """The id of the delivery or of its event, which is a receiver's webhook-id, shows it.

    A trace id, or its beginning, shows each delivery of the run.
    """
    for given in ("dlv_staging_00001", "evt_staging_00001"):
        done = shared.confiture("webhooks", "show", given, "--format", "json")
        document = json.loads(done.stdout)
        assert (document["ok"], document["id"]) == (True, "dlv_staging_00001")
        assert (document["environment"], document["last_answer"]) == ("staging", "503")
        assert [one["status_code"] for one in document["timeline"]] == [503]
    for given in (TRACES["staging"], TRACES["staging"][:9]):
        done = shared.confiture("webhooks", "show", given, "-f", "json")
        shown = json.loads(done.stdout)["deliveries"]
        assert {one["id"] for one in shown} == {"dlv_staging_00001", "dlv_staging_00002"}


def test_an_ambiguous_beginning_lists_the_candidates(shared: Shared) -> None:
    """Nothing is guessed: each delivery that may be meant is on a line."""
    done = shared.confiture("webhooks", "show", "evt_staging")
    assert done.returncode == 1
    assert "2 ids begin with evt_staging" in done.stderr
    assert "dlv_staging_00001" in done.stderr
    assert "dlv_staging_00002" in done.stderr
    ids = {"dlv_staging_00001", "dlv_staging_00002"}
    as_json = shared.confiture("webhooks", "show", "evt_staging", "-f", "json")
    assert {one["id"] for one in json.loads(as_json.stdout)["candidates"]} == ids
    words = ("discard", "evt_staging_0", "--yes", *of("staging"))
    assert shared.confiture("webhooks", *words).returncode == 1
    assert len(states(shared)) == 4


def test_list_is_narrowed(shared: Shared) -> None:
    """By environment, migration and trace, of every environment at once."""
    for filters, found in (
        (("--environment", "staging"), {"dlv_staging_00001", "dlv_staging_00002"}),
        (("--trace", "a" * 32), {"dlv_production_00001", "dlv_production_00002"}),
        (("--trace", "A" * 32), {"dlv_production_00001", "dlv_production_00002"}),
        (("--environment", "(none)"), set()),
        (("--migration", "999"), set()),
        (
            ("--migration", "005", "--environment", "production"),
            {"dlv_production_00001", "dlv_production_00002"},
        ),
    ):
        done = shared.confiture("webhooks", "list", "--format", "json", *filters, *of("production"))
        document = json.loads(done.stdout)
        assert document["ok"] is True
        assert {row["id"] for row in document["deliveries"]} == found, filters


def test_redeliver_sends_and_later_only_makes_due(shared: Shared, down: LocalReceiver) -> None:
    """One command is enough to send again; --later leaves that to a worker."""
    later = shared.confiture(
        "webhooks", "redeliver", "evt_staging_00001", "--later", "--yes", *of("staging")
    )
    assert later.returncode == 0
    advised = later.stdout.splitlines()[-1]
    assert advised == f"Send now: `confiture webhooks deliver {' '.join(of('staging'))}`"
    assert not down.requests
    words = shlex.split(advised.partition("`")[2].rstrip("`"))[1:]
    assert shared.confiture(*words).returncode == 0
    now = shared.confiture("webhooks", "redeliver", "--dead", "--yes", *of("staging"))
    assert now.returncode == 0
    assert "1 delivered, 0 dead letters" in now.stdout
    ids = [request.headers["webhook-id"] for request in down.requests]
    assert ids == ["evt_staging_00001", "evt_staging_00002"]


@on_sqlite
def test_redeliver_counts_no_delivery_that_another_worker_sends(
    shared: Shared, down: LocalReceiver
) -> None:
    """Those of other environments are due again, and not among those left here."""
    words = ("redeliver", "--dead", "--all-environments", "--yes", *of("staging"), "-f", "json")
    found = json.loads(shared.confiture("webhooks", *words).stdout)
    assert (found["delivered"], found["left"]) == (len(down.requests), 0)
    assert found["redelivered"] == found["delivered"] + sum(found["elsewhere"].values())
    assert found["elsewhere"]["production"] > 0


@on_sqlite
def test_redeliver_that_fails_says_so(shared: Shared, down: LocalReceiver) -> None:
    """Exit 1 when the receiver still refuses."""
    down.script("/", [500])
    done = shared.confiture(
        "webhooks", "redeliver", "evt_staging_00001", "--yes", *of("staging"), "-f", "json"
    )
    document = json.loads(done.stdout)
    assert (done.returncode, document["ok"]) == (1, False)
    assert document["failures"] == {"ops": "500"}


def test_what_a_410_ended_is_sent_again_as_the_command_says(
    shared: Shared, down: LocalReceiver
) -> None:
    """deliver names the command for a 410, not that for dead letters, and it works as printed."""
    shared.confiture("webhooks", "discard", "--endpoint", "ops", "--yes", *of("staging"))
    with opened(shared) as outbox:
        one = delivery(id="dlv_gone", event_id="evt_gone", endpoint="ops", environment="staging")
        outbox.release(one.event_id, [one])
    down.script("/", [410])
    done = shared.confiture("webhooks", "deliver", *of("staging"))
    assert done.returncode == 1
    assert "redeliver --dead" not in done.stdout
    *_, advised = done.stdout.splitlines()
    start = "Deliveries answered with 410 are not retried. Send them again: "
    assert (
        advised == f"{start}`confiture webhooks redeliver --gone --yes {' '.join(of('staging'))}`"
    )
    assert shared.confiture("webhooks", "enable", "ops", *of("staging")).returncode == 0
    words = shlex.split(advised.partition("`")[2].rstrip("`"))[1:]
    assert shared.confiture(*words).returncode == 0
    assert states(shared)["dlv_gone"] == "delivered"


def test_an_endpoint_is_switched_off_and_on(shared: Shared) -> None:
    """disable keeps deliveries waiting and names the command that ends it."""
    put(shared, "waiting_1", Outcome.RETRY, environment="staging")
    off = shared.confiture("webhooks", "disable", "ops", *of("staging"))
    assert off.returncode == 0
    assert f"`confiture webhooks enable ops {' '.join(of('staging'))}`" in off.stdout
    assert shared.confiture("webhooks", "disable", "ops", *of("staging")).returncode == 1
    kept = shared.confiture("webhooks", "redeliver", "--pending", "--yes", *of("staging"))
    assert kept.returncode == 1
    assert "ops: switched off since" in kept.stdout
    assert shared.confiture("webhooks", "enable", "ops", *of("staging")).returncode == 0
    sent = shared.confiture("webhooks", "redeliver", "--pending", "--yes", *of("staging"))
    assert sent.returncode == 0, sent.stdout


def test_events_that_no_worker_serves_are_named(shared: Shared) -> None:
    """A run without CONFITURE_ENVIRONMENT: the status of production fails and says what to set."""
    with opened(shared) as outbox:
        made_at = NOW - timedelta(minutes=20)
        one = delivery(id="dlv_n", event_id="evt_n", environment=None, created_at=made_at)
        outbox.release(one.event_id, [one])
    shared.confiture("webhooks", "discard", "--endpoint", "ops", "--yes", *of("production"))
    done = shared.confiture("webhooks", "status", *of("production"))
    assert done.returncode == 1
    assert "\nother environments: (none) 1\n" in done.stdout
    assert "environment (none): no worker serves it, 1 due since" in done.stdout
    assert "Set CONFITURE_ENVIRONMENT=production for the run that recorded them" in done.stdout
    document = shared.confiture("webhooks", "status", *of("production"), "-f", "json")
    assert json.loads(document.stdout)["unserved"]["(none)"]["due"] == 1


def test_status_names_the_dead_letters_of_other_environments(shared: Shared) -> None:
    """Without --config they are not taken for none; the exit code is of the environment alone."""
    done = shared.confiture("webhooks", "status")
    assert done.returncode == 0, done.stderr
    for name in TRACES:
        again = f"`confiture webhooks redeliver --dead --yes --config db/environments/{name}.yaml`"
        said = f"dead letters of {name}: 2. Send again: {again}"
        assert said in done.stdout
    document = json.loads(shared.confiture("webhooks", "status", "-f", "json").stdout)
    assert document["dead_elsewhere"] == {"production": 2, "staging": 2}


@on_sqlite
def test_a_command_without_endpoints_names_the_files_that_have_some(shared: Shared) -> None:
    """local.yaml has none: the remedy is the file that has."""
    for words in (("deliver",), ("list", "--endpoint", "opps")):
        shared.environment_file("local")
        done = shared.confiture("webhooks", *words)
        assert done.returncode == 5
        assert "db/environments/production.yaml, db/environments/staging.yaml" in done.stderr


def test_reading_needs_no_endpoint_and_no_secret(shared: Shared) -> None:
    """list, show and status read the outbox although an address is not set."""
    broken = {"endpoints": [{"name": "ops", "url": "${NOT_SET}", "secret": "${NOR_THIS}"}]}
    shared.environment_file("staging", webhooks=broken)
    for words in (("list",), ("show", "dlv_staging_00001")):
        done = shared.confiture("webhooks", *words, *of("staging"))
        assert (done.returncode, done.stderr) == (0, "")
    done = shared.confiture("webhooks", "status", *of("staging"))
    assert done.returncode == 1
    assert shared.place in done.stdout


def test_a_directory_without_an_outbox_says_so(tmp_path: Path) -> None:
    """No zeros, where it would lie, and no file is made."""
    project = Project(tmp_path / "project", "postgresql://nobody@127.0.0.1:1/none")
    env = {"CONFITURE_WEBHOOK_URL": "http://127.0.0.1:9/"}
    for words in (("status",), ("list",), ("deliver",), ("redeliver", "--dead")):
        done = project.confiture("webhooks", *words, env=env)
        assert f"sqlite:{project.path}/.confiture/webhooks.db" in done.stdout + done.stderr
        assert done.returncode == 0
    assert not (project.path / ".confiture").exists()


@pytest.mark.survived("Control characters, line breaks and forged log lines in names", "private")
def test_what_others_named_cannot_steer_a_terminal_or_a_shell(shared: Shared) -> None:
    """Escapes, line ends and directions are shown escaped; commands are quoted."""
    name = "x\x1b[31m\n\u202e$(date)"
    with opened(shared) as outbox:
        one = delivery(
            id="dlv_evil",
            event_id="evt_evil",
            endpoint=name,
            environment="staging",
            migration_name=name,
        )
        outbox.release(one.event_id, [one])
    for words in (("list",), ("show", "dlv_evil"), ("status",)):
        done = shared.confiture("webhooks", *words, *of("staging"))
        shown = done.stdout + done.stderr
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert not any(line.startswith("\u202e") for line in shown.splitlines())
    assert "--endpoint $'x\\x1b[31m\\x0a" in shown


@pytest.mark.survived("A terminal that cannot encode the text", "unharmed")
@on_sqlite
def test_output_degrades_where_a_terminal_cannot_show_it(shared: Shared) -> None:
    """Nothing ends in a traceback on a terminal that knows ASCII only."""
    env = {"PYTHONIOENCODING": "ascii"}
    for words in (("check",), ("status",), ("list",), ("deliver",), ("redeliver", "--dead")):
        done = shared.confiture("webhooks", *words, *of("staging"), env=env)
        assert "Traceback" not in done.stderr
        assert done.stdout.isascii()


@on_sqlite
def test_the_version_is_shown(shared: Shared) -> None:
    """`confiture webhooks --version` prints it."""
    done = shared.confiture("webhooks", "--version")
    assert done.stdout.startswith("confiture-webhooks ")


def test_the_outbox_is_removed_after_a_question(shared: Shared) -> None:
    """outbox drop says how many deliveries of which environment it removes, and needs a yes."""
    asked = shared.confiture("webhooks", "outbox", "drop", *of("staging"))
    assert asked.returncode == 1
    assert f"Add --yes to remove the outbox {shared.place} with 4 deliv" in asked.stderr
    assert len(states(shared)) == 4
    done = shared.confiture("webhooks", "outbox", "drop", "--yes", *of("staging"))
    assert (done.returncode, done.stdout) == (0, f"Removed the outbox {shared.place}\n")
    assert not shared.file.parent.exists()
    again = shared.confiture("webhooks", "outbox", "drop", "--yes", *of("staging"))
    assert (again.returncode, again.stdout) == (0, "")
    made = ": the first `confiture migrate up` that has an endpoint creates it"
    advice = ". If one has run, start the command in its directory, or set "
    advice += "CONFITURE_WEBHOOK_OUTBOX=sqlite:<path>"
    is_default = shared.outbox == "sqlite"
    assert again.stderr == f"There is no outbox at {shared.place}{made}{advice * is_default}\n"


def test_doctor_knows_who_needs_no_secret_and_which_format(tmp_path: Path) -> None:
    """Headers and chat addresses authenticate by themselves; a chat host reads its own format."""
    project = Project(tmp_path / "project", "postgresql://nobody@127.0.0.1:1/none")
    here = "http://127.0.0.1:9/"
    slack = "https://hooks.slack.com/services/T0/B0/x"
    project.environment_file(
        webhooks={
            "deny_networks": ["0.0.0.0/0", "::/0"],
            "endpoints": [
                {"name": "open", "url": here},
                {"name": "header", "url": here, "headers": {"Authorization": "Bearer x"}},
                {"name": "slack", "url": slack, "format": "slack"},
                {"name": "slip", "url": slack},
            ],
        }
    )
    env = {"RES_OPTIONS": "timeout:1 attempts:1"}
    done = project.confiture("webhooks", "doctor", "-f", "json", env=env)
    rows = {row["check"]: row for row in json.loads(done.stdout)["checks"]}
    signs = {name: rows[f"{name}: signs"]["status"] for name in ("open", "header", "slack")}
    assert signs == {"open": "warning", "header": "ok", "slack": "ok"}
    slip = "webhooks.endpoints[3].format (slip): is `confiture`, which the service of this `url`"
    assert f"{slip} does not read" == rows["settings"]["detail"]
    assert rows["settings"]["remedy"] == "Set it to `slack`"
    checked = project.confiture("webhooks", "check", env={"CONFITURE_WEBHOOK_URL": slack})
    assert f"{slip} does not read. Set it to `slack`\n" in checked.stdout
    assert "CONFITURE_WEBHOOK_FORMAT: is `confiture`" in checked.stdout
    assert checked.stdout.count("does not read") == 2
    assert rows["commands"]["status"] == "ok"
    tried = project.confiture("webhooks", "test", "open")
    shown = " ".join(str(row["remedy"]) for row in rows.values())
    for text in (shown, tried.stdout):
        assert "deny_networks has 0.0.0.0/0" in text
        assert "Change allow_networks or deny_networks" in text


@on_sqlite
def test_a_sample_of_any_event_is_sent(shared: Shared, down: LocalReceiver) -> None:
    """test --event sends it although the endpoint does not subscribe, and names no real migration."""
    words = ("test", "ops", "--event", "run_error", *of("staging"))
    assert shared.confiture("webhooks", *words).returncode == 0
    (request,) = down.requests
    assert request.payload["event_type"] == "run_error"
    (row,) = request.payload["migrations"]
    assert (row["name"], row["status"]) == ("000_confiture_webhooks_test", "error")
    wrong = shared.confiture("webhooks", "test", "--event", "nosuch", *of("staging"))
    assert wrong.returncode == 2


@on_sqlite
def test_a_test_says_that_a_run_sends_nothing(shared: Shared, down: LocalReceiver) -> None:
    """An endpoint of other environments is tested all the same, so the success says too little."""
    endpoint = {"name": "ops", "url": down.url, "environments": ["production"]}
    other = {**endpoint, "name": "other"}
    shared.environment_file("staging", webhooks={"endpoints": [endpoint, other]})
    done = shared.confiture("webhooks", "test", "ops", *of("staging"))
    said = "Endpoint ops: this test is sent, events are not, because its `environments` "
    assert f"{said}leave staging out\n" in done.stderr
    assert "Endpoint other" not in done.stderr
    assert len(down.requests) == 1


@on_sqlite
def test_a_failed_test_is_not_deferred_and_has_a_remedy(
    shared: Shared, down: LocalReceiver
) -> None:
    """Nothing is sent later, so no line says so; the remedy is doctor's."""
    endpoint = {"name": "ops", "url": "http://127.0.0.1:9/"}
    shared.environment_file("staging", webhooks={"endpoints": [endpoint], "flush_timeout": 0.5})
    done = shared.confiture("webhooks", "test", *of("staging"))
    assert done.returncode == 1
    assert "webhook.attempt_failed" in done.stderr
    assert "webhook.deferred" not in done.stderr
    assert "remedy: Start the receiver, or correct host and port in `url`" in done.stdout


def test_other_environments_are_left_to_their_own_job(shared: Shared) -> None:
    """The command for it names its file, and says whose variables it needs."""
    put(shared, "waits", Outcome.RETRY, environment="staging")
    done = shared.confiture("webhooks", "deliver", *of("production"))
    command = "`confiture webhooks deliver --config db/environments/staging.yaml`"
    job = (
        f"The job of staging sends them: {command}, with the variables that its migrations run with"
    )
    assert f"deliveries that wait: staging 1. {job}" in done.stdout


@on_sqlite
def test_what_waits_elsewhere_is_sent_by_the_command_that_is_printed(shared: Shared) -> None:
    """status, doctor and deliver name it: with the variable, or with the file that was used."""
    with opened(shared) as outbox:
        made_at = NOW - timedelta(minutes=20)
        one = delivery(id="dlv_late", event_id="evt_late", environment="staging", endpoint="ops")
        outbox.release(one.event_id, [replace(one, created_at=made_at)])
    env = {
        "CONFITURE_DATABASE_URL": shared.database_url,
        "CONFITURE_ENVIRONMENT": "production",
        "CONFITURE_WEBHOOK_OUTBOX": "sqlite",
    }
    variable = "`CONFITURE_ENVIRONMENT=staging confiture webhooks deliver`, with the variables that its migrations run with"
    file = f"`confiture webhooks deliver {' '.join(of('staging'))}`, with the variables that its migrations run with"
    for words in (("status",), ("doctor",), ("deliver",)):
        done = shared.confiture("webhooks", *words, env=env).stdout
        assert variable in done
        done = shared.confiture("webhooks", *words, *of("production")).stdout
        assert file in done
    assert "environment staging: no worker serves it, 1 due since" in (
        shared.confiture("webhooks", "status", env=env).stdout
    )
    sent = shared.confiture("webhooks", "deliver", env={**env, "CONFITURE_ENVIRONMENT": "staging"})
    assert sent.returncode == 0, sent.stdout
    assert states(shared)["dlv_late"] == "delivered"


@on_sqlite
def test_a_hint_for_another_environment_works_as_printed(shared: Shared) -> None:
    """Where no file is read, a variable names it; if no file here is its own, the words say so."""
    env = {
        "CONFITURE_DATABASE_URL": shared.database_url,
        "CONFITURE_ENVIRONMENT": "production",
        "CONFITURE_WEBHOOK_OUTBOX": "sqlite",
    }
    prefix = "`CONFITURE_ENVIRONMENT=staging confiture webhooks"
    put(shared, "late", Outcome.DEAD_LETTER, environment="nowhere")
    put(shared, "unset", Outcome.RETRY, environment="production", endpoint="default")
    unset = "is configured (1 waiting). Set CONFITURE_WEBHOOK_URL, or discard its deliveries: "
    assert unset in shared.confiture("webhooks", "status", env=env).stdout
    assert (
        f"{prefix} redeliver --dead --yes`"
        in shared.confiture("webhooks", "status", env=env).stdout
    )
    assert "--config db/environments/nowhere" not in (
        file_mode := shared.confiture("webhooks", "status", *of("production")).stdout
    )
    unknown = "--config FILE` (FILE: the one whose `name:` is nowhere), with the variables"
    assert (
        f"dead letters of nowhere: 1. Send again: `confiture webhooks redeliver --dead --yes {unknown}"
        in file_mode
    )
    shown = shared.confiture("webhooks", "show", "dlv_staging_00001", env=env).stdout
    assert f"Send it again: {prefix} redeliver dlv_staging_00001 --yes`" in shown
    shown = shared.confiture("webhooks", "show", "dlv_staging_00001", *of("production")).stdout
    assert f"redeliver dlv_staging_00001 --yes {' '.join(of('staging'))}`" in shown
    words = ("discard", "dlv_staging_00001", "--yes")
    other = shared.confiture("webhooks", *words, env=env)
    assert f"of environment staging: use {prefix} discard dlv_staging_00001`" in other.stderr
    shared.confiture("webhooks", "discard", "--endpoint", "ops", "--yes", env=env)
    nothing = shared.confiture("webhooks", "redeliver", "--dead", "--yes", env=env).stdout
    assert f"use {prefix} redeliver --dead --yes`" in nothing
    printed = shlex.split(nothing.partition(prefix)[2].partition("`")[0])
    of_staging = {**env, "CONFITURE_ENVIRONMENT": "staging"}
    again = shared.confiture("webhooks", *printed, env=of_staging)
    assert again.returncode == 0, again.stderr
    assert {name for name, state in states(shared).items() if state == "delivered"} == {
        "dlv_staging_00001",
        "dlv_staging_00002",
    }


def test_a_question_counts_what_is_done(shared: Shared) -> None:
    """An event to two endpoints is two deliveries; with --endpoint it is one."""
    two = [
        delivery(id=f"dlv_{name}", event_id="evt_two", endpoint=name, environment="staging")
        for name in ("ops", "second")
    ]
    with opened(shared) as outbox:
        outbox.release("evt_two", two)
    words = ("evt_two", *of("staging"))
    asked = shared.confiture("webhooks", "redeliver", *words).stderr
    assert "redeliver 2 deliveries (staging 2)" in asked
    asked = shared.confiture("webhooks", "redeliver", *words, "--endpoint", "ops").stderr
    assert "redeliver 1 delivery (staging 1)" in asked
    asked = shared.confiture("webhooks", "discard", *words).stderr
    assert "discard 2 deliveries (staging 2)" in asked


@pytest.mark.parametrize("command", ["redeliver", "discard"])
@on_sqlite
def test_a_beginning_that_is_too_short_says_so(shared: Shared, command: str) -> None:
    """It is known, and show takes it: the refusal says how much an acting command needs."""
    put(shared, "x1y2z3_and_more", Outcome.DEAD_LETTER, environment="staging")
    done = shared.confiture("webhooks", command, "evt_x1y2", "--yes", *of("staging"))
    assert done.returncode == 1
    whole = "evt_x1y2z3_and_more"
    assert (
        f"evt_x1y2 (too short: give 8 characters of the id or more, as in {whole})" in done.stderr
    )
    done = shared.confiture("webhooks", command, "evt_x1y2z3_a", "--yes", *of("staging"))
    assert done.returncode == 0, done.stderr


def test_an_id_that_is_not_here_says_why_it_may_be(shared: Shared) -> None:
    """Where it was looked for, the reasons, and what to search instead."""
    done = shared.confiture("webhooks", "show", "evt_nowhere", *of("staging"))
    assert done.returncode == 1
    for words in (
        f"There is no delivery evt_nowhere in {shared.place}",
        "Another --config, or another directory, may have another outbox",
        "forgotten after 30 days",
        "the trace id: search for either",
    ):
        assert words in done.stderr


def test_show_says_what_an_error_event_says(shared: Shared) -> None:
    """Error, database, command and CI run, as the receiver has them; other formats are left out."""
    payload = {
        "database": {"host": "db.internal", "name": "shop", "schema": "public"},
        "error": {"message": "relation does not exist", "sqlstate": "42P01", "type": "Undefined"},
        "event_id": "evt_failed",
        "event_type": "migration_error",
        "run": {"command": "confiture migrate up", "url": "https://ci.example/4711"},
    }
    body = json.dumps(payload).encode()
    put(shared, "failed", Outcome.DEAD_LETTER, body=body, environment="staging")
    put(shared, "chat", Outcome.DEAD_LETTER, body=b'{"text": "x"}', environment="staging")
    put(shared, "deep", Outcome.DEAD_LETTER, body=b"[" * 100_000, environment="staging")
    put(shared, "list", Outcome.DEAD_LETTER, body=b"[1]", environment="staging")
    shown = shared.confiture("webhooks", "show", "evt_failed", *of("staging")).stdout
    for fact in (
        "Undefined: relation does not exist",
        "42P01",
        "shop on db.internal",
        "confiture migrate up",
        "https://ci.example/4711",
    ):
        assert fact in shown
    done = shared.confiture("webhooks", "show", "evt_failed", *of("staging"), "-f", "json")
    assert json.loads(done.stdout)["payload"] == payload
    for event_id in ("evt_chat", "evt_deep", "evt_list"):
        done = shared.confiture("webhooks", "show", event_id, *of("staging"), "-f", "json")
        assert "payload" not in json.loads(done.stdout)


@pytest.mark.parametrize("words", [("discard", "--endpoint", "ops"), ("redeliver", "--dead")])
def test_nothing_here_names_the_environments_that_have_something(
    shared: Shared, words: tuple[str, ...]
) -> None:
    """Without the file of production, its dead letters are not taken for none at all."""
    done = shared.confiture("webhooks", *words, "--yes")
    assert done.returncode == 0
    start, rest = f"Nothing to {words[0]} in environment local. Others have some (", done.stdout
    assert rest.startswith(start)
    assert {"production 2", "staging 2"} == set(
        rest.removeprefix(start).partition(")")[0].split(", ")
    )
    agreed = " --yes" if words[0] == "redeliver" else ""
    for name in TRACES:
        command = (
            f"confiture webhooks {' '.join(words)}{agreed} --config db/environments/{name}.yaml"
        )
        assert f"use `{command}`, or " in rest
    assert "add --all-environments" in rest
    found = json.loads(shared.confiture("webhooks", *words, "--yes", "-f", "json").stdout)
    assert (found["ok"], found["elsewhere"]) == (True, {"production": 2, "staging": 2})
    assert set(states(shared).values()) == {"dead_letter"}


@on_sqlite
def test_a_wrong_argument_is_named_with_what_is_right(shared: Shared, down: LocalReceiver) -> None:
    """One sentence, exit code 2, and nothing is acted on, not even in part."""
    for words, said in (
        (("show", ""), "'ID': it is empty"),
        (("redeliver", "dlv_staging_00001", "", "--yes"), "it is empty"),
        (("discard", "", "--yes"), "it is empty"),
        (("list", "--trace", ""), "'--trace': it is empty"),
        (("list", "--migration", ""), "'--migration': it is empty"),
        (("list", "--environment", ""), "'--environment': it is empty"),
        (("check", "--explain", "run_error", "--migration", ""), "'--migration': it is empty"),
        (("check", "--explain", "run_error", "--environment", ""), "'--environment': it is empty"),
        (("outbox", "init", "--role", ""), "'--role': it is empty"),
        (("outbox", "init", "--role", "x", "--environment", ""), "'--environment': it is empty"),
        (("outbox", "init", "--environment", "x"), "--environment: needs --role"),
        (("outbox", "init", "--replace"), "--replace: needs --role, and --environment with"),
        (("outbox", "init", "--role", "x", "--replace"), "--replace: needs --role, and"),
        (
            ("redeliver", "--dead", "--pending"),
            "give ids, or only one of --dead, --pending and --gone",
        ),
        (("discard", "dlv_staging_00001", "--endpoint", "ops"), "either ids, or --endpoint"),
        (("list", "--trace", "bbbbbbbb"), "a trace id has 32 hexadecimal digits"),
        (("list", "--trace", "z" * 32), "a trace id has 32 hexadecimal digits"),
        (("list", "--event", "nosuch"), "'nosuch' is not one of: migration_success"),
        (
            ("list", "--event-type", "error"),
            "Invalid value for '--event-type' / '--event': 'error'",
        ),
        (("test", "--event", "ping"), "'ping' is not one of: migration_success"),
        (("check", "--explain", "nosuch"), "'nosuch' is not one of: migration_success"),
        (("check", "--migration", "001"), "needs --explain with an event"),
        (("list", "--event", "ping"), "'ping' is not one of: migration_success"),
    ):
        done = shared.confiture("webhooks", *words, *of("staging"))
        assert done.returncode == 2, words
        assert said in " ".join(done.stderr.replace("│", "").split())
    assert set(states(shared).values()) == {"dead_letter"}
    assert not down.requests


@on_sqlite
@pytest.mark.parametrize("command", ["status", "list", "deliver"])
def test_a_block_that_names_no_outbox_is_not_read_as_an_empty_one(
    shared: Shared, command: str
) -> None:
    """A block that is no mapping may mean another outbox: it is a fault, not zeros."""
    file = shared.path / "block.yaml"
    file.write_text("name: staging\nwebhooks: 3\n", encoding="utf-8")
    done = shared.confiture("webhooks", command, "--config", str(file))
    assert (done.returncode, done.stdout) == (5, "")
    assert "webhooks: must be a mapping" in done.stderr


@on_sqlite
@pytest.mark.parametrize("command", ["check", "list", "deliver"])
def test_a_directory_is_no_configuration(shared: Shared, command: str) -> None:
    """A path that is no file is a fault of --config, as one that is not there."""
    done = shared.confiture("webhooks", command, "--config", "db/environments")
    assert (done.returncode, done.stdout) == (5, "")
    assert "--config: db/environments is no file\n   Check the path" in done.stderr


@on_sqlite
@pytest.mark.parametrize("given", ["staging", "staging.yaml"])
def test_the_name_of_an_environment_in_place_of_its_file_gets_the_file(
    shared: Shared, given: str
) -> None:
    """``--config staging``: the remedy is the path of that environment's file."""
    done = shared.confiture("webhooks", "status", "--config", given)
    assert (done.returncode, done.stdout) == (5, "")
    usual = "db/environments/staging.yaml"
    assert f"--config: {given} is no file\n   Write {usual}" in done.stderr


@on_sqlite
def test_two_dashes_in_place_of_a_file_are_no_file(shared: Shared) -> None:
    """With ``--config $FILE -- ID`` and no FILE, nothing is done to another file's deliveries."""
    words = ("discard", "--yes", "--config", "--", "dlv_staging_00001")
    done = shared.confiture("webhooks", *words)
    assert (done.returncode, done.stdout) == (5, "")
    assert "--config: -- is no file" in done.stderr
