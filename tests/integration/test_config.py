"""Settings: where they come from, what they may be, and how faults are reported."""

from __future__ import annotations

import cProfile
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from confiture_webhooks.command_watch import names_block
from confiture_webhooks.config import (
    Settings,
    load,
    read,
    redacted,
    rules,
    variables,
)
from confiture_webhooks.config.block import ENDPOINT
from confiture_webhooks.endpoint import Endpoint
from confiture_webhooks.errors import ConfigError, Fault
from confiture_webhooks.event import DEFAULT_SUBSCRIPTION, SUBSCRIBABLE, EventType
from confiture_webhooks.formats import FORMATS
from confiture_webhooks.networks import origin
from confiture_webhooks.plugin import may_be_configured
from confiture_webhooks.retry import RetryPolicy

URL = "https://hooks.example.com/migrations"
DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"


class Project:
    """A directory with an environment file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "staging.yaml"

    def load(self, block: Any, environ: dict[str, str] | None = None, **top: Any) -> Settings:
        """The settings with *block* as the file's ``webhooks:``."""
        self.path.write_text(yaml.safe_dump({**top, "webhooks": block}))
        return load(environ or {}, self.path)

    def endpoint(self, environ: dict[str, str] | None = None, **keys: Any) -> Endpoint:
        """The one endpoint made of *keys*."""
        block = {"endpoints": [{"name": "a", "url": URL, **keys}]}
        return self.load(block, environ).endpoints[0]

    def faults(self, block: Any, environ: dict[str, str] | None = None) -> dict[str, Fault]:
        """The faults of *block* by setting."""
        with pytest.raises(ConfigError) as caught:
            self.load(block, environ)
        return {fault.setting: fault for fault in caught.value.faults}

    def endpoint_fault(self, setting: str, **keys: Any) -> Fault:
        """The only fault of an endpoint made of *keys*, which must be at *setting*."""
        keys = {"name": "a", "url": URL, **keys}
        found = self.faults({"endpoints": [keys]})
        assert list(found) == [f"webhooks.endpoints[0].{setting}"]
        return found[f"webhooks.endpoints[0].{setting}"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project without a file yet."""
    return Project(tmp_path)


def faults_of(environ: dict[str, str], path: Path | None = None) -> list[Fault]:
    """Every fault of these settings."""
    with pytest.raises(ConfigError) as caught:
        load(environ, path)
    return list(caught.value.faults)


# The environment


def test_url_alone_makes_the_default_endpoint() -> None:
    """One variable is a whole configuration, with the documented defaults."""
    settings = load({"CONFITURE_WEBHOOK_URL": URL}, None)
    assert settings.endpoints == (Endpoint(name="default", url=URL),)
    assert settings == Settings(
        endpoints=settings.endpoints, sources=("variables: CONFITURE_WEBHOOK_URL",)
    )


def test_nothing_set_is_no_endpoint() -> None:
    """Without settings no webhook is sent, and that is not a fault."""
    assert load({}, None) == Settings()


def test_environment_sets_everything_it_documents() -> None:
    """Each variable reaches its setting."""
    settings = load(
        {
            "CONFITURE_WEBHOOK_URL": "http://hooks.internal/x",
            "CONFITURE_WEBHOOK_SECRET": "s3cret",
            "CONFITURE_WEBHOOK_ALLOW_HTTP": "true",
            "CONFITURE_WEBHOOK_OUTBOX": "memory",
            "CONFITURE_WEBHOOK_FLUSH_TIMEOUT": "2.5",
            "CONFITURE_WEBHOOK_LOG": "console",
            "CONFITURE_WEBHOOK_LOG_LEVEL": "Warning",
            "CONFITURE_ENVIRONMENT": "production",
        },
        None,
    )
    assert settings.endpoints[0].secrets == ("s3cret",)
    assert settings.outbox == "memory"
    assert settings.flush_timeout == timedelta(seconds=2.5)
    assert (settings.log, settings.log_level) == ("console", "warning")
    assert settings.environment == "production"


def test_a_variable_with_more_events_than_there_are_is_a_fault() -> None:
    """However many names a variable holds: one fault, in no time."""
    environ = {variables.URL: URL, variables.EVENTS: "x," * 10_001}
    (fault,) = faults_of(environ)
    assert (fault.setting, fault.problem) == (variables.EVENTS, "has too many items")


def test_empty_variables_are_unset() -> None:
    """A variable set to nothing is as if it were not there."""
    assert load(dict.fromkeys(variables.ALL, ""), None) == Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (variables.URL, "ftp://example.com"),
        (variables.URL, "http://hooks.internal/x"),
        (variables.URL, "https://example.com/\udcff"),
        (variables.SECRET, "whsec_not base64"),
        (variables.SECRET, "   "),
        (variables.ALLOW_HTTP, "perhaps"),
        (variables.OUTBOX, "redis"),
        (variables.HEADERS, "X-A=1,X-A=2"),
        (variables.FLUSH_TIMEOUT, "soon"),
        (variables.FLUSH_TIMEOUT, "3601"),
        (variables.LOG, "xml"),
        (variables.LOG_LEVEL, "loud"),
        (variables.SWITCH, "of"),
        (variables.ENVIRONMENT, "  "),
    ],
)
def test_wrong_variable_is_named(variable: str, value: str) -> None:
    """A wrong variable is one fault with that variable's name."""
    faults = faults_of({variables.URL: URL, variable: value})
    assert [fault.setting for fault in faults] == [variable]


def test_all_wrong_variables_are_reported_at_once() -> None:
    """No fault hides another."""
    wrong = dict.fromkeys(set(variables.ALL) - {variables.ENVIRONMENT}, " ")
    assert {fault.setting for fault in faults_of(wrong)} == set(wrong)


def test_secret_without_endpoint_is_a_fault(project: Project) -> None:
    """A secret that nothing uses means an endpoint was forgotten."""
    assert [f.setting for f in faults_of({variables.SECRET: "s"})] == [variables.SECRET]
    block = {"endpoints": [{"name": "a", "url": URL}]}
    assert project.load(block, {variables.SECRET: "s"}).endpoints[0].secrets == ()


def test_environment_wins_over_block(project: Project) -> None:
    """Outbox and flush timeout of the environment replace the block's."""
    environ = {variables.OUTBOX: "sqlite:/tmp/x.db", variables.FLUSH_TIMEOUT: "0"}
    settings = project.load({"outbox": "memory", "flush_timeout": 3}, environ)
    assert (settings.outbox, settings.flush_timeout) == ("sqlite:/tmp/x.db", timedelta(0))
    settings = project.load({"outbox": "memory", "flush_timeout": 3})
    assert (settings.outbox, settings.flush_timeout) == ("memory", timedelta(seconds=3))


def test_default_endpoint_stands_before_those_of_the_block(project: Project) -> None:
    """Both sources together give both endpoints."""
    block = {"endpoints": [{"name": "a", "url": URL}]}
    settings = project.load(block, {variables.URL: "https://example.com/env"})
    assert [endpoint.name for endpoint in settings.endpoints] == ["default", "a"]


def test_name_default_is_taken_only_with_the_url_variable(project: Project) -> None:
    """Two endpoints cannot both be ``default``."""
    block = {"endpoints": [{"name": "default", "url": URL}]}
    assert project.load(block).endpoints[0].name == "default"
    found = project.faults(block, {variables.URL: URL})
    assert list(found) == ["webhooks.endpoints[0].name"]
    assert variables.URL in found["webhooks.endpoints[0].name"].problem


def test_off_keeps_settings_and_says_so() -> None:
    """What is switched off can still be checked."""
    settings = load({variables.URL: URL, variables.SWITCH: "off"}, None)
    assert settings.endpoints
    assert any("off" in source for source in settings.sources)


# The environment's name


def test_environment_name_is_the_files_name_then_its_stem(project: Project) -> None:
    """``name:``, else the stem, whatever the variable says."""
    environ = {variables.ENVIRONMENT: "other"}
    assert project.load({}, environ, name="production").environment == "production"
    assert project.load({}, environ).environment == "staging"
    assert project.load({}, environ, name="  ").environment == "staging"


# Whole block


def test_every_setting_of_an_endpoint_arrives(project: Project) -> None:
    """The block of the design becomes the endpoint it describes."""
    endpoint = project.endpoint(
        {"TOKEN": "t0ken", "NEW": "new"},
        secret=["${NEW}", "old"],
        send_secret=True,
        events=["migration_success", "run_error"],
        environments=["production", "staging"],
        format="confiture",
        headers={"Authorization": "Bearer ${TOKEN}", "X-Team": "données"},
        timeout=2.5,
        retry={"schedule": [1, "2.5"], "jitter": 0},
        include_sql=True,
    )
    assert endpoint == Endpoint(
        name="a",
        url=URL,
        secrets=("new", "old"),
        send_secret=True,
        events=frozenset({EventType.MIGRATION_SUCCESS, EventType.RUN_ERROR}),
        environments=frozenset({"production", "staging"}),
        headers={"Authorization": "Bearer t0ken", "X-Team": "données"},
        timeout=timedelta(seconds=2.5),
        retry=RetryPolicy(schedule=(timedelta(seconds=1), timedelta(seconds=2.5)), jitter=0.0),
        include_sql=True,
    )


def test_endpoint_of_name_and_url_has_the_defaults(project: Project) -> None:
    """What is left out is as on a plain ``Endpoint``."""
    assert project.endpoint() == Endpoint(name="a", url=URL)


def test_empty_schedule_is_one_attempt(project: Project) -> None:
    """``schedule: []`` means no retries."""
    assert project.endpoint(retry={"schedule": []}).retry.max_attempts == 1


def test_hooks_are_kept(project: Project) -> None:
    """Hook modules are listed in the settings."""
    assert project.load({"hooks": ["hooks", "a.b"]}).hooks == ("hooks", "a.b")
    assert list(project.faults({"hooks": ["a/b.py", "import"]})) == [
        "webhooks.hooks[0]",
        "webhooks.hooks[1]",
    ]


def test_every_fault_is_reported_at_once(project: Project) -> None:
    """Faults of unlike kinds, in several endpoints and in the environment, come together."""
    block = {
        "endpoint": [],
        "endpoints": [
            {"name": "a", "ulr": URL, "retry": {"shedule": []}},
            {"name": "a", "url": "http://10.0.0.1/", "send_secret": True, "timeout": 0},
            "https://example.com",
            {"name": "b", "url": "${MISSING}", "events": ["ping"], "headers": {"Host": "x"}},
        ],
        "flush_timeout": -1,
    }
    found = project.faults(block, {variables.LOG: "x"})
    assert set(found) == {
        "webhooks.endpoint",
        "webhooks.endpoints[0].ulr",
        "webhooks.endpoints[0].url",
        "webhooks.endpoints[0].retry.shedule",
        "webhooks.endpoints[1].name",
        "webhooks.endpoints[1].url",
        "webhooks.endpoints[1].send_secret",
        "webhooks.endpoints[1].timeout",
        "webhooks.endpoints[2]",
        "webhooks.endpoints[3].url",
        "webhooks.endpoints[3].events[0]",
        "webhooks.endpoints[3].headers.Host",
        "webhooks.flush_timeout",
        variables.LOG,
    }


@pytest.mark.parametrize(
    ("block", "setting", "suggestion"),
    [
        ({"endpoint": []}, "webhooks.endpoint", "endpoints"),
        ({"endpoints": [{"name": "a", "url": URL, "secrets": "x"}]}, "secrets", "secret"),
        (
            {"endpoints": [{"name": "a", "url": URL, "retry": {"Schedule": []}}]},
            "retry.Schedule",
            "schedule",
        ),
        (
            {"endpoints": [{"name": "a", "url": URL, "events": ["migration_sucess"]}]},
            "events[0]",
            "migration_success",
        ),
        (
            {"endpoints": [{"name": "a", "url": URL, "events": ["migration_failed"]}]},
            "events[0]",
            "migration_error",
        ),
        ({"endpoints": [{"name": "a", "url": URL, "format": "confitur"}]}, "format", "confiture"),
        ({"outbox": "postgre:x"}, "outbox", "postgres"),
    ],
)
def test_typo_gets_a_suggestion(
    project: Project, block: Any, setting: str, suggestion: str
) -> None:
    """At every level a near miss names what was probably meant."""
    found = project.faults(block)
    assert len(found) == 1
    fault = next(iter(found.values()))
    assert fault.setting.endswith(setting)
    assert f"`{suggestion}`" in fault.remedy


@pytest.mark.parametrize(
    ("block", "setting", "parent"),
    [
        ({"endpoints": None, "name": "a", "url": URL}, "webhooks.name", "endpoints"),
        ({"endpoints": [{"name": "a"}], "url": URL}, "webhooks.url", "endpoints"),
        (
            {"endpoints": [{"name": "a", "url": URL, "schedule": [1]}]},
            "webhooks.endpoints[0].schedule",
            "retry",
        ),
    ],
)
def test_setting_too_far_left_names_where_it_belongs(
    project: Project, block: Any, setting: str, parent: str
) -> None:
    """A list of what is known on that level would not help."""
    item = ", as part of an item (`- name: …`)" if parent == "endpoints" else ""
    assert project.faults(block)[setting].remedy == f"Indent it under `{parent}`{item}"


@pytest.mark.parametrize(
    ("keys", "setting", "level"),
    [
        ({"outbox": "postgres"}, "outbox", "endpoints"),
        ({"flush_timeout": 3}, "flush_timeout", "endpoints"),
        ({"retry": {"timeout": 3}}, "retry.timeout", "retry"),
        ({"retry": {"outbox": "postgres"}}, "retry.outbox", "endpoints"),
        ({"tls": {"deny_networks": ["private"]}}, "tls.deny_networks", "tls"),
    ],
)
def test_setting_too_far_right_names_its_level(
    project: Project, keys: dict[str, Any], setting: str, level: str
) -> None:
    """`flush_timeout` of an endpoint is not meant to be its `timeout`."""
    assert project.endpoint_fault(setting, **keys).remedy == f"Indent it less: as far as `{level}`"


@pytest.mark.parametrize(
    ("key", "value"),
    [("outbox", "postgres"), ("deny_networks", ["private"]), ("endpoints", [{"name": "b"}])],
)
@pytest.mark.parametrize("block", [{"hook_timeout": 3}, None, [{"name": "a"}]])
def test_setting_beside_the_block_is_a_fault(
    project: Project, block: Any, key: str, value: Any
) -> None:
    """Nothing would read it, and no event would be where its user expects it."""
    with pytest.raises(ConfigError) as caught:
        project.load(block, **{key: value})
    found = {fault.setting: fault.remedy for fault in caught.value.faults}
    assert found[f"webhooks.{key}"] == "Indent it under `webhooks`"


def test_setting_beside_the_block_that_the_block_has_is_of_others(project: Project) -> None:
    """As an anchor that the block uses is."""
    block = {"endpoints": [{"name": "a", "url": URL}], "hooks": ["ops"]}
    assert project.load(block, hooks=["ops"]).hooks == ("ops",)


def test_networks_beside_the_block_open_no_network(project: Project) -> None:
    """Nothing is sent where the list may deny it."""
    block = {"endpoints": [{"name": "a", "url": URL}]}
    project.path.write_text(yaml.safe_dump({"webhooks": block, "deny_networks": ["private"]}))
    settings = read({}, project.path)
    assert [(one.name, len(one.faults)) for one in settings.faulty] == [("a", 1)]


def test_unknown_setting_lists_the_known_ones(project: Project) -> None:
    """A key that is like no other still gets the list."""
    fault = project.endpoint_fault("zzz", zzz=1)
    for key in ENDPOINT:
        assert key in fault.remedy


def test_unknown_event_lists_the_known_ones(project: Project) -> None:
    """Every event but ``ping`` can be asked for, and is listed."""
    fault = project.endpoint_fault("events[0]", events=["ping"])
    assert all(event.value in fault.remedy for event in SUBSCRIBABLE)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("webhooks: {endpoints: [{name: a, url: 'https://a.example/', name: b}]}", 1),
        ("webhooks: {endpoints: []}\nx: 1\nwebhooks: {flush_timeout: 1}", 3),
        ("a: 1\na: 2\nb: &b {c: 1}\nwebhooks:\n  hooks: [{<<: *b, c: 2}, *b, *b]", None),
    ],
)
def test_a_key_that_stands_twice_is_named(project: Project, text: str, line: int | None) -> None:
    """YAML keeps the last in silence. What is not in the block is the host's."""
    project.path.write_text(text)
    found = [fault for fault in faults_of({}, project.path) if "twice" in fault.problem]
    expected = [f"{project.path}:{line}"] if line else []
    assert [fault.setting for fault in found] == expected


def test_duplicate_names_point_at_the_first(project: Project) -> None:
    """The later of two endpoints of one name is at fault."""
    row = {"name": "a", "url": URL}
    found = project.faults({"endpoints": [row, {**row, "name": "b"}, row]})
    assert list(found) == ["webhooks.endpoints[2].name"]
    assert "webhooks.endpoints[0]" in found["webhooks.endpoints[2].name"].problem


# One setting at a time


@pytest.mark.parametrize("name", ["", "-a", "a b", "é", "a/b", "x" * 65, 5, None, ["a"]])
def test_bad_name(project: Project, name: Any) -> None:
    """A name must be fit for a label and for a command line."""
    project.endpoint_fault("name", name=name)


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-9", "x" * 64])
def test_good_name(project: Project, name: str) -> None:
    """Letters, digits, dots, dashes and underscores make a name."""
    assert project.endpoint(name=name).name == name


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/x",
        "ftp://example.com",
        "https://",
        "https:///path",
        "https://:443/",
        "https://user@/",
        "https://example.com:port/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://[::1/",
        "https://[nonsense]/",
        "https://[v1.fe80]/",
        "https://[::1]x/",
        "https://[127.0.0.1]/",
        "https://\u2603.example/",
        "https://a\u00adb.example/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://localhost\u3002/",
        "https://exa,mple.com/",
        "https://a..b/",
        "https://-a.com/",
        "https://" + "a" * 64 + ".com/",
        "https://example.com/#x",
        "https://example.com/#",
        "https://example.com/a b",
        "https://example.com/\n",
        "https://example.com/\x00",
        "https://evil\\@example.com/",
        "https://a%3Ab:p@example.com/",
        "https://u:%0d%0a@example.com/",
        "https://u:%E9@example.com/",
        5,
        None,
        ["https://example.com"],
        {"a": "b"},
    ],
)
def test_bad_url(project: Project, url: Any) -> None:
    """A URL that cannot be asked, or not as written, is a fault."""
    project.endpoint_fault("url", url=url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com:8443/a/b?c=d&e=%20",
        "https://10.1.2.3/",
        "https://[2001:db8::1]:8443/",
        "https://bücher.example/",
        "https://BÜCHER.example./",
        "https://[fe80::1%25eth0]/",
        "https://my_host.internal./",
        "http://localhost:8000/x",
        "http://127.9.9.9/",
        "http://[::1]:1/",
        "http://127.1/",
        "http://localhost./",
        "http://a.localhost/",
        "http://[::ffff:127.0.0.1]/",
    ],
)
def test_good_url_is_kept_as_it_is(project: Project, url: str) -> None:
    """Any https address will do, and http on loopback."""
    assert project.endpoint(url=url).url == url


@pytest.mark.parametrize(
    "url",
    ["http://example.com/", "http://10.0.0.1/", "http://localhost.evil.com/"],
)
def test_plain_http_beyond_loopback_must_be_allowed(project: Project, url: str) -> None:
    """``allow_http`` is needed, and enough."""
    remedy = project.endpoint_fault("url", url=url).remedy
    assert remedy == "Use https, or allow it: `allow_http: true`"
    assert project.endpoint(url=url, allow_http=True).url == url


def test_plain_http_from_the_variable_is_allowed_by_a_variable() -> None:
    """The remedy names the way that is open there, and that way is enough."""
    environ = {variables.URL: "http://example.com/"}
    with pytest.raises(ConfigError) as refusal:
        load(environ, None)
    (fault,) = refusal.value.faults
    assert fault.remedy == "Use https, or allow it: `CONFITURE_WEBHOOK_ALLOW_HTTP=true`"
    assert load({**environ, variables.ALLOW_HTTP: "true"}, None).endpoints


def test_user_and_password_leave_the_url(project: Project) -> None:
    """They are decoded into ``basic_auth``."""
    endpoint = project.endpoint(url="https://us%40er:p%3A%2Fw%20d@example.com:8443/x?y=z")
    assert endpoint.url == "https://example.com:8443/x?y=z"
    assert endpoint.basic_auth == ("us@er", "p:/w d")
    assert project.endpoint(url="https://token@example.com/").basic_auth == ("token", "")
    assert project.endpoint(url="https://u:%E2%82%AC@example.com/").basic_auth == ("u", "\u20ac")
    assert project.endpoint(url="https://@example.com/").basic_auth is None


@pytest.mark.parametrize(
    "url",
    ["https://u:p@ss@h.example/", "https://u:@CANARY?@h.example/", "https://u:/CANARY@h.example/"],
)
def test_a_password_that_would_become_the_host_is_refused(project: Project, url: str) -> None:
    """Which part of such a URL is the host is a guess, and the host is shown."""
    assert "host" in project.endpoint_fault("url", url=url).remedy


@pytest.mark.parametrize(
    ("secret", "at"),
    [
        ("", "secret"),
        (" \t", "secret"),
        ("whsec_", "secret"),
        ("whsec_é", "secret"),
        ("whsec_a", "secret"),
        (5, "secret"),
        (None, "secret"),
        ({"a": "b"}, "secret"),
        ([], "secret"),
        (["good", ["x"]], "secret[1]"),
        (["good", "${NOT_SET}"], "secret[1]"),
    ],
)
def test_bad_secret(project: Project, secret: Any, at: str) -> None:
    """A secret that cannot sign is a fault, at its place in the list."""
    project.endpoint_fault(at, secret=secret)


def test_send_secret_needs_https_and_a_secret_that_a_header_carries(project: Project) -> None:
    """A secret is never sent in the clear, and never as a broken header."""
    keys: dict[str, Any] = {"send_secret": "yes", "secret": "s"}
    assert project.endpoint(**keys).send_secret
    in_the_clear = project.endpoint_fault("send_secret", url="http://localhost/", **keys)
    assert "https" in in_the_clear.problem
    project.endpoint_fault("send_secret", send_secret=True)
    project.endpoint_fault("send_secret", send_secret=True, secret="€")  # noqa: S106


@pytest.mark.parametrize(
    "name",
    [
        *rules.RESERVED_HEADERS,
        "X-Confiture-Anything",
        "CONTENT-TYPE",
        "Host",
    ],
)
def test_reserved_header(project: Project, name: str) -> None:
    """What confiture-webhooks sets itself cannot be set."""
    project.endpoint_fault(f"headers.{name}", headers={name: "x"})


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\x00", "€", " a", "a ", 5, None, ["a"]])
def test_bad_header_value(project: Project, value: Any) -> None:
    """A value that would break the request is a fault."""
    project.endpoint_fault("headers.X-A", headers={"X-A": value})


@pytest.mark.parametrize("name", ["", "A B", "A:", "é", "A\r\nB"])
def test_bad_header_name_is_not_shown(project: Project, name: str) -> None:
    """A key that is no name may be anything, so the fault does not repeat it."""
    project.endpoint_fault("headers.(unnamed)", headers={name: "x"})
    row = {"name": "a", "url": URL, "headers": {name: {"x": "y"}}}
    assert list(project.faults({"endpoints": [row]})) == ["webhooks.endpoints[0].headers.(unnamed)"]


def test_headers_must_not_repeat_or_contradict(project: Project) -> None:
    """Two spellings of one header, or two kinds of authorization, are a fault."""
    project.endpoint_fault("headers", headers={"X-A": "1", "x-a": "2"})
    project.endpoint_fault("headers", headers={"authorization": "x"}, url="https://u:p@h.example/")
    project.endpoint_fault("headers", headers=["X-A: 1"])


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, 300.1, 1e-9, 10**400, float("nan"), float("inf")),
        *("", "ten", "nan", ".inf", "1_0", "1e3", "9" * 400),
        *(True, None, [1]),
    ],
)
def test_bad_timeout(project: Project, value: Any) -> None:
    """A timeout is a number of seconds above 0, up to 300."""
    project.endpoint_fault("timeout", timeout=value)


@pytest.mark.parametrize("value", [10, 10.0, "10", " 10.0 ", "+10"])
def test_numbers_may_be_text(project: Project, value: Any) -> None:
    """What comes from a variable is text."""
    assert project.endpoint(timeout=value).timeout == timedelta(seconds=10)


def test_retry_limits(project: Project) -> None:
    """Waits are above 0 and up to a week, at most 100; jitter is a share."""
    week = 7 * 24 * 3600
    assert len(project.endpoint(retry={"schedule": [week] * 100}).retry.schedule) == 100
    project.endpoint_fault("retry.schedule", retry={"schedule": [1] * 101})
    project.endpoint_fault("retry.schedule[1]", retry={"schedule": [1, week + 1]})
    project.endpoint_fault("retry.schedule[0]", retry={"schedule": [0]})
    project.endpoint_fault("retry.schedule", retry={"schedule": 5})
    project.endpoint_fault("retry.jitter", retry={"jitter": 1.01})
    project.endpoint_fault("retry.jitter", retry={"jitter": True})
    project.endpoint_fault("retry", retry=[1, 2])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("events", []),
        ("events", "migration_success"),
        ("environments", []),
        ("environments", "production"),
        ("environments", None),
        ("format", "slak"),
        ("include_sql", "maybe"),
        ("include_sql", 1),
        ("allow_http", None),
        ("send_secret", []),
    ],
)
def test_wrong_kind_of_value(project: Project, key: str, value: Any) -> None:
    """A list for a list, a yes or no for a switch."""
    project.endpoint_fault(key, **{key: value})


@pytest.mark.parametrize("chosen", FORMATS)
def test_every_format_can_be_asked_for(project: Project, chosen: str) -> None:
    """Each format arrives; PagerDuty's with its routing key, which no ``repr`` shows."""
    keys = {"routing_key": "${KEY}"} if chosen == "pagerduty" else {}
    endpoint = project.endpoint({"KEY": "k3y" + "0" * 29}, format=chosen, **keys)
    assert endpoint.format == chosen
    assert endpoint.routing_key == ("k3y" + "0" * 29 if keys else None)
    assert "k3y" not in repr(endpoint)


def test_pagerduty_needs_its_key(project: Project) -> None:
    """Without a routing key every event would be refused, so it is a fault."""
    fault = project.endpoint_fault("format", format="pagerduty")
    assert "routing_key" in fault.problem
    [fault] = faults_of({"CONFITURE_WEBHOOK_URL": URL, "CONFITURE_WEBHOOK_FORMAT": "pagerduty"})
    assert fault.setting == "CONFITURE_WEBHOOK_FORMAT"
    assert fault.remedy == "No variable holds one: write the endpoint into a `webhooks:` block"


@pytest.mark.parametrize("chosen", ["confiture", "opsgenie"])
def test_a_routing_key_is_pagerdutys(project: Project, chosen: str) -> None:
    """A routing key that nothing would use is a fault."""
    project.endpoint_fault("routing_key", format=chosen, routing_key="0" * 32)
    project.endpoint_fault("routing_key", routing_key="0" * 32)


@pytest.mark.parametrize("key", ["", " ", "0" * 31, "0" * 33, "é" * 32, 12, None, "-" * 32])
def test_a_wrong_routing_key_is_the_only_fault(project: Project, key: Any) -> None:
    """A key that is none is reported at its own setting, and not shown."""
    project.endpoint_fault("routing_key", format="pagerduty", routing_key=key)


@pytest.mark.parametrize(
    "outbox",
    [
        *("sqlite", "sqlite:x/y.db", "sqlite:C:\\x.db", "memory"),
        *("postgres", "postgres:postgresql://u:p@h/db", "postgres:host=h dbname=d"),
    ],
)
def test_good_outbox(project: Project, outbox: str) -> None:
    """Every documented outbox is taken as written."""
    assert project.load({"outbox": outbox}).outbox == outbox


@pytest.mark.parametrize(
    "outbox",
    [
        *("", "sqlite:", "sqlite:\x00", "memory:", "memory:x"),
        *("sqlite:/", "sqlite:.", "sqlite:~", "sqlite:/var/lib/outbox/"),
        *("postgres: ", "postgresql://h/d", "postgres://h/d", "postgres:db"),
        *("sqlite://u:p@h/x", "sqlite:mysql://u:p@h/x", "sqlite:///x.db", "mysql://u:p@h/x"),
        *("postgres:mysql://u:p@h/x?y=z", "sqlite+aiosqlite://x"),
        *("postgres:postgresql://u:p@[h/d", "postgres:postgresql://u:p%@h/d"),
        "postgres:postgresql://u:%CA@h/d",
        *("postgres:postgresql://h/d?nosuch=1", "postgres:nosuch=1"),
        *(5, None, ["sqlite"]),
    ],
)
def test_bad_outbox(project: Project, outbox: Any) -> None:
    """An outbox that does not exist, or a DSN in the wrong place or that is none, is a fault."""
    assert list(project.faults({"outbox": outbox})) == ["webhooks.outbox"]


# ${VAR}


def test_missing_variable_names_variable_and_setting(project: Project) -> None:
    """The fault says which variable to set, and where it is needed; nothing else is wrong."""
    fault = project.endpoint_fault("secret", secret="${NOT_SET}")  # noqa: S106
    assert "NOT_SET" in fault.problem


@pytest.mark.parametrize("value", ["${lower}", "${A:-b}", "${}", "${A", "${A} ${B", "${NESTED}"])
def test_reference_of_another_form(project: Project, value: str) -> None:
    """Only ``${NAME}`` is expanded, and only once."""
    row = {"name": "a", "url": URL, "environments": ["x", value]}
    found = project.faults({"endpoints": [row]}, {"A": "a", "NESTED": "${A}"})
    assert list(found) == ["webhooks.endpoints[0].environments[1]"]


@pytest.mark.parametrize("form", ["$CI_TOKEN", "$(CI_TOKEN)", "${CI_TOKEN}", "Bearer $CI_TOKEN"])
def test_a_variable_that_nothing_replaced_is_no_value(project: Project, form: str) -> None:
    """A CI system can leave ``$NAME`` if NAME is not defined: everybody knows that secret."""
    environ = {variables.URL: URL, variables.SECRET: form}
    assert [fault.setting for fault in faults_of(environ)] == [variables.SECRET]
    if "{" not in form:
        project.endpoint_fault("secret", secret=form)
        project.endpoint_fault("headers.Authorization", headers={"Authorization": form})


@pytest.mark.parametrize("good", ["pa$$WORD", "$A", "$word", "US$20", "x$WORD", "$WORD and more"])
def test_a_dollar_in_a_secret_is_kept(project: Project, good: str) -> None:
    """Only a whole word at its end can be a variable."""
    assert project.endpoint(secret=good).secrets == (good,)


def test_variables_expand_everywhere(project: Project) -> None:
    """Names, numbers and switches can come from variables, alone or within text."""
    environ = {"N": "a", "H": "example.com", "T": "3", "ON": "true", "E": "run_error"}
    endpoint = project.endpoint(
        environ,
        name="x-${N}",
        url="https://${H}/${N}/${N}",
        timeout="${T}",
        include_sql="${ON}",
        events=["${E}"],
    )
    assert (endpoint.name, endpoint.url) == ("x-a", "https://example.com/a/a")
    assert (endpoint.timeout, endpoint.include_sql) == (timedelta(seconds=3), True)


def test_expansion_agrees_with_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text expands as in Confiture's own blocks, or is refused where Confiture refuses it."""
    import confiture.core  # noqa: F401, PLC0415  first, or its imports go in a circle
    from confiture.config._env_vars import expand_env_vars  # noqa: PLC0415
    from confiture.exceptions import ConfigurationError  # noqa: PLC0415

    from confiture_webhooks.config.file import expand  # noqa: PLC0415

    environ = {"A": "1", "B_2": "x y", "NESTED": "${A}", "EMPTY": "", "DOLLAR": "$"}
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    good = ("", "a", "$A", "}", "${A}", "$${A}", "${A}}", "-${A}-${B_2}-", "${EMPTY}", "${DOLLAR}")
    bad = ("${NESTED}", "${a}", "${}", "${A:-x}", "${UNSET_1}", "${", "${ A }")
    for text in (*good, *bad):
        try:
            expected = expand_env_vars(text)
        except ConfigurationError:
            expected = None
        try:
            found = expand(text, os.environ)
        except rules.Invalid:
            found = None
        assert found == expected, text
        assert (expected is None) is (text in bad), text


# The file


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- a\n- b\n",
        b"just text",
        b"5",
        b"~",
        b"a: [",
        b"a: b: c",
        b"a: !!python/object:os.system x",
        b"when: 2026-99-99",
        b"\xff\xfe\x00",
        b"a: \x00",
        b"[" * 5000,
        b"a: " + b"9" * 5000,
    ],
)
def test_file_that_is_no_mapping_is_one_fault(project: Project, content: bytes) -> None:
    """Whatever the file holds, there is one fault, and it names the file."""
    project.path.write_bytes(content)
    assert [f.setting for f in faults_of({}, project.path)] == [str(project.path)]


def test_broken_yaml_is_placed_but_not_quoted(project: Project) -> None:
    """The fault says where the file breaks; the line itself may hold a password."""
    project.path.write_text("a: b\npassword: 'hunter2' x\n")
    fault = faults_of({}, project.path)[0]
    assert "line 2" in fault.problem
    assert "hunter2" not in str(fault)


def test_unreadable_file_is_one_fault(tmp_path: Path) -> None:
    """A missing file and a directory cannot be read."""
    for path in (tmp_path / "missing.yaml", tmp_path):
        assert [f.setting for f in faults_of({}, path)] == [str(path)]


@pytest.mark.parametrize("block", [None, [], "x", 5, True, "${UNSET}"])
def test_block_that_is_no_mapping_is_one_fault(project: Project, block: Any) -> None:
    """``webhooks:`` must be a mapping."""
    assert list(project.faults(block)) == ["webhooks"]


def test_file_without_block_is_fine(project: Project) -> None:
    """Most environment files have none."""
    project.path.write_text("database_url: postgresql://h/d\n")
    assert load({}, project.path).endpoints == ()


def test_nearly_webhooks_is_a_fault(project: Project) -> None:
    """A block under a misspelt key would be silently ignored; another's own key is left alone."""
    project.path.write_text("webhook:\n  endpoints: []\n")
    fault = faults_of({}, project.path)[0]
    assert fault.setting == "webhook"
    assert fault.problem == f"is a key of {project.path} that nothing reads"
    assert "`webhooks`" in fault.remedy
    project.path.write_text("webhook: {mine: 1}\n")
    assert load({}, project.path).endpoints == ()


def test_block_that_contains_itself_is_a_fault(project: Project) -> None:
    """An alias to its own parent ends in faults, not in a loop."""
    project.path.write_text("webhooks: &a\n  endpoints: [*a]\n  hooks: *a\n")
    assert {f.setting.partition("[")[0] for f in faults_of({}, project.path)} >= {"webhooks.hooks"}


def test_byte_order_mark_is_no_fault(project: Project) -> None:
    """Windows editors write one; the block is found and read all the same."""
    project.path.write_bytes(b"\xef\xbb\xbfwebhooks:\r\n  outbox: memory\r\n")
    assert names_block(project.path)
    assert load({}, project.path).outbox == "memory"


# names_block


@pytest.mark.parametrize("word", ["off", "OFF", " 0 ", "false", "no"])
def test_off_is_not_configured(word: str) -> None:
    """``CONFITURE_WEBHOOKS=off`` beats everything."""
    assert may_be_configured([], {variables.URL: URL})
    assert not may_be_configured([], {variables.URL: URL, variables.SWITCH: word})


@pytest.mark.parametrize(
    ("content", "is_expected"),
    [
        ("webhooks:\n", True),
        ("a: b\nwebhooks: {}\n", True),
        ("'webhooks' :\n", True),
        ('{"a": 1, "webhooks": {}}', True),
        ("  webhooks:\n", True),
        ("# webhooks: none\na: b\n", False),
        ("a: webhooks\n", False),
        ("my_webhooks:\n", False),
        ("webhooks_old:\n", False),
        ("", False),
    ],
)
def test_file_with_the_key_is_configured(
    project: Project,
    content: str,
    is_expected: bool,  # noqa: FBT001
) -> None:
    """The key is looked for, not the word."""
    project.path.write_text(content)
    assert names_block(project.path) is is_expected


def test_file_that_cannot_be_read_is_not_configured(tmp_path: Path) -> None:
    """No error comes out of the question."""
    assert not names_block(tmp_path / "missing.yaml")
    assert not names_block(tmp_path)
    assert not names_block(Path("nul\x00"))


# What is shown


SHOWN = {
    "endpoints": [
        {
            "name": "a",
            "url": "https://us3r:p4ss@hooks.example.com:8443/p4th?qu3ry=1",
            "secret": ["s3cret", "0ld"],
            "events": ["run_error", "migration_error"],
            "environments": ["production"],
            "headers": {"X-Team": "h3ader", "X-Key": "k3y"},
            "retry": {"schedule": [1, 2], "jitter": 0},
        }
    ],
    "outbox": "postgres:postgresql://us3r:p4ss@db.example.com:5433/outbox?passfile=f1le",
}
CANARIES = ("us3r", "p4ss", "p4th", "qu3ry", "s3cret", "0ld", "h3ader", "k3y", "f1le")


def test_redacted_settings_show_what_an_operator_needs(project: Project) -> None:
    """Names, hosts and counts are shown; nothing that opens a door."""
    document = redacted(project.load(SHOWN))
    assert document == {
        "endpoints": [
            {
                "name": "a",
                "url": "https://hooks.example.com:8443/…",
                "events": ["migration_error", "run_error"],
                "environments": ["production"],
                "migrations": None,
                "format": "confiture",
                "headers": ["X-Key", "X-Team"],
                "secrets": 2,
                "send_secret": False,
                "include_sql": False,
                "timeout_s": 10.0,
                "retry": {"schedule_s": [1.0, 2.0], "jitter": 0.0},
            }
        ],
        "outbox": "postgres:postgresql://db.example.com:5433/outbox",
        "flush_timeout_s": 10.0,
        "hook_timeout_s": 30.0,
        "hooks": [],
        "environment": "staging",
        "sources": [f"the webhooks: block of {project.path}"],
    }


def test_nothing_shown_holds_a_secret(project: Project) -> None:
    """Neither ``repr`` nor the redacted form holds any part of secrets, headers or addresses."""
    settings = project.load(SHOWN)
    shown = f"{settings!r} {settings} {redacted(settings)}"
    assert not [canary for canary in CANARIES if canary in shown]


@pytest.mark.parametrize(
    ("outbox", "shown"),
    [
        ("sqlite:/var/x.db", "sqlite:/var/x.db"),
        ("postgres", "postgres"),
        ("postgres:postgresql://h:1,k:2/db", "postgres:postgresql://h:1,k:2/db"),
        ("postgres:postgresql://u:p@[::1]:5432/db", "postgres:postgresql://[::1]:5432/db"),
        ("postgres:postgresql://h/db?password=p4ss", "postgres:postgresql://h/db"),
        ("postgres:host=h password=p4ss", "postgres:…"),
        ("postgres:postgresql://u:p4/ss@h/db", "postgres:…"),
        ("postgres:postgresql://u:p4?ss@h/db", "postgres:…"),
        ("postgres:postgresql://u:p4@ss@h/db", "postgres:…"),
        ("postgres:postgresql://u:1/p4ss@h", "postgres:…"),
    ],
)
def test_redacted_outbox(outbox: str, shown: str) -> None:
    """A DSN is cut down to host and database, and hidden whole when in doubt."""
    assert Settings(outbox=outbox).place.shown == shown


def test_what_is_shown_of_a_url() -> None:
    """Scheme, host and port remain."""
    assert origin("http://u:p@[::1]:80/a?b#c") == "http://[::1]:80"


# The documentation


def tables() -> dict[str, dict[str, list[str]]]:
    """The tables of docs/configuration.md: heading to first cell to the other cells."""
    found: dict[str, dict[str, list[str]]] = {}
    heading = ""
    for line in DOCS.read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ").strip("`")
        elif line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            found.setdefault(heading, {})[cells[0].strip("` ")] = cells[1:]
    return found


def test_documented_defaults_are_those_of_the_code(project: Project) -> None:
    """Writing a documented default down changes nothing."""
    found = tables()

    def documented(heading: str) -> dict[str, Any]:
        cells = {name: row[1] for name, row in found[heading].items()}
        return {
            name: yaml.safe_load(cell.strip("`")) for name, cell in cells.items() if "`" in cell
        }

    endpoint = documented("webhooks.endpoints[]") | {
        "retry": documented("webhooks.endpoints[].retry")
    }
    assert (
        len(endpoint) == len(ENDPOINT) - 10
    )  # name, url, secret, environments, migrations, routing_key, rate, tls, both networks
    assert project.endpoint(**endpoint) == project.endpoint()
    assert project.load(documented("webhooks")) == project.load({})


def test_documented_variables_are_those_of_the_code() -> None:
    """The table has every variable, and its defaults change nothing when set."""
    table = tables()["Environment variables"]
    assert set(table) == set(variables.ALL)
    values = {name: row[1].strip("`") for name, row in table.items() if "`" in row[1]}
    plain = load({variables.URL: URL}, None)
    written = load({variables.URL: URL, **values}, None)
    assert {**redacted(written), "sources": []} == {**redacted(plain), "sources": []}
    assert (written.log_level, plain.log_level) == (None, None)


def test_documented_example_is_a_configuration(project: Project) -> None:
    """The example of the documentation loads."""
    example = DOCS.read_text().partition("```yaml\n")[2].partition("```")[0]
    project.path.write_text(example)
    environ = {"WEBHOOK_ANALYTICS": URL, "WEBHOOK_SECRET": "s", "CHAT_TOKEN": "t"}
    settings = load(environ, project.path)
    assert [endpoint.name for endpoint in settings.endpoints] == ["analytics", "chat"]
    assert settings.environment == "production"
    assert settings.endpoints[0].events == DEFAULT_SUBSCRIPTION


def test_documented_reserved_headers_are_those_of_the_code() -> None:
    """The list of reserved headers is whole."""
    section = DOCS.read_text().partition("### Headers\n")[2].partition("`Authorization`")[0]
    named = {word.strip("`").lower() for word in section.split("`")[1::2]}
    assert named == rules.RESERVED_HEADERS | {"headers", rules.RESERVED_PREFIX}


def test_documented_formats_are_those_of_the_code() -> None:
    """The row of ``format`` names every format."""
    meaning = tables()["webhooks.endpoints[]"]["format"][2]
    assert set(meaning.partition("[payload]")[0].split("`")[1::2]) == set(FORMATS)


def test_a_number_out_of_range_is_named_with_the_range(project: Project) -> None:
    """The remedy for a time that is too long names no time that is refused, too."""
    assert "above 0, up to 300" in project.endpoint_fault("timeout", timeout=1000).remedy
    assert "above 0, up to 300" in project.endpoint_fault("timeout", timeout=0).remedy


@pytest.mark.parametrize("key", ["deny_network", "Deny-Networks", "allowed_networks"])
def test_a_misspelt_list_of_the_files_networks_opens_no_network(project: Project, key: str) -> None:
    """Endpoints wait that have not both lists of their own; another unknown key costs nothing."""
    own = {"name": "own", "url": URL, "deny_networks": ["private"], "allow_networks": ["metadata"]}
    block = {key: ["private"], "endpoints": [own, {"name": "other", "url": URL}], "zzz": 1}
    project.path.write_text(yaml.safe_dump({"webhooks": block}))
    settings = read({}, project.path)
    assert [one.name for one in settings.endpoints] == ["own"]
    [other] = settings.faulty
    assert [fault.setting for fault in other.faults] == [f"webhooks.{key}"]


@pytest.mark.parametrize("key", ["allow_networks", "deny_networks"])
@pytest.mark.parametrize("networks", [["privte"], ["private", "privte"], "private", None])
def test_a_wrong_list_of_the_files_networks_opens_no_network(
    project: Project, key: str, networks: Any
) -> None:
    """Endpoints that it is for wait until it is right; one with a list of its own delivers."""
    own = {"name": "own", "url": URL, key: ["private"]}
    block = {key: networks, "endpoints": [own, {"name": "other", "url": URL}]}
    project.path.write_text(yaml.safe_dump({"webhooks": block}))
    settings = read({variables.URL: URL}, project.path)
    assert [one.name for one in settings.endpoints] == ["own"]
    assert [one.name for one in settings.faulty] == ["default", "other"]
    [fault] = settings.faults
    assert {one.faults for one in settings.faulty} == {(fault,)}
    assert fault.setting.startswith(f"webhooks.{key}")


def test_faults_of_many_endpoints_are_found_one_by_one(project: Project) -> None:
    """Twice as many endpoints with faults are twice the work, and no more."""

    def calls(count: int) -> int:
        endpoints = [{"name": f"a{i}", "url": "x", "frmat": "z"} for i in range(count)]
        project.path.write_text(yaml.safe_dump({"webhooks": {"endpoints": endpoints, "zz": 1}}))
        with cProfile.Profile() as profile:
            read({}, project.path)
        return sum(one.callcount for one in profile.getstats())

    assert calls(100) < 2.2 * calls(50)


def test_a_file_with_many_keys_of_others_is_read(project: Project) -> None:
    """Only merge keys that multiply are refused."""
    others = "".join(f"key_{i}: 1\n" for i in range(10_001))
    shared = f"shared: &shared {{name: a, url: '{URL}', timeout: 5}}\n"
    project.path.write_text(f"{others}{shared}webhooks: {{endpoints: [{{<<: *shared}}]}}\n")
    assert [one.name for one in load({}, project.path).endpoints] == ["a"]


def test_a_misspelt_list_of_one_endpoint_costs_that_endpoint(project: Project) -> None:
    """The lists of the file are right, and protect the others."""
    endpoints = [{"name": "a", "url": URL, "deny_network": ["private"]}, {"name": "b", "url": URL}]
    block = {"deny_networks": ["metadata"], "endpoints": endpoints}
    project.path.write_text(yaml.safe_dump({"webhooks": block}))
    settings = read({variables.URL: URL}, project.path)
    assert [one.name for one in settings.endpoints] == ["default", "b"]
    assert [one.name for one in settings.faulty] == ["a"]


def test_nothing_is_sent_by_a_block_that_was_not_read_to_its_end(project: Project) -> None:
    """What was left may be a secret, a header or a list of networks, so its endpoints wait."""
    long = {"name": "long", "url": URL, "migrations": ["x"] * 10_000, "headers": {"A": "b"}}
    block = {"deny_networks": ["private"], "endpoints": [long, {"name": "late", "url": URL}]}
    project.path.write_text(yaml.safe_dump({"webhooks": block}))
    settings = read({variables.URL: URL}, project.path)
    assert settings.endpoints == ()
    assert [one.name for one in settings.faulty] == ["default", "long"]
    [fault] = settings.faults
    assert fault.problem == "holds more than 10000 values"


def test_a_setting_of_an_empty_variable_is_blank(project: Project) -> None:
    """The remedy names the likely reason: the variable is set, so it is not missing."""
    block = {"endpoints": [{"name": "a", "url": URL, "secret": "${EMPTY}"}]}
    (fault,) = project.faults(block, {"EMPTY": ""}).values()
    assert fault.problem == "is blank"
    assert fault.remedy.endswith("Its variable may be empty")


@pytest.mark.parametrize("headers", ["X-A=", "X-A=1, X-B= ,X-C=2", "X-A", "="])
def test_a_header_without_a_value_does_not_make_its_variable_blank(headers: str) -> None:
    """The fault is about a part of the variable, and shows how one is written."""
    [fault] = faults_of({variables.URL: URL, variables.HEADERS: headers})
    assert (fault.setting, fault.problem) == (
        variables.HEADERS,
        "has a part that is not `name=value`",
    )


def test_a_variable_that_the_block_names_is_no_slip(project: Project) -> None:
    """A variable of the user's own may begin as ours do; one that nothing names is a warning."""
    block = {"endpoints": [{"name": "a", "url": "${CONFITURE_WEBHOOK_STAGING}"}]}
    settings = project.load(block, {"CONFITURE_WEBHOOK_STAGING": URL})
    assert settings.warnings == ()
    settings = project.load({}, {"CONFITURE_WEBHOOK_STAGING": URL})
    assert [slip.setting for slip in settings.warnings] == ["CONFITURE_WEBHOOK_STAGING"]


def test_a_faulty_endpoint_keeps_what_is_right(project: Project) -> None:
    """Its events are recorded by its own filters; a filter that is wrong lets everything pass."""
    row = {"name": "a", "url": "${UNSET}", "events": ["run_error"], "environments": ["x", 5]}
    project.path.write_text(yaml.safe_dump({"webhooks": {"endpoints": [row]}}))
    settings = read({}, project.path)
    (faulty,) = settings.faulty
    assert (settings.endpoints, settings.recorded) == ((), (faulty,))
    assert faulty.events == {EventType.RUN_ERROR}
    assert [fault.setting for fault in faulty.faults] == [
        "webhooks.endpoints[0].url",
        "webhooks.endpoints[0].environments[1]",
    ]


@pytest.mark.parametrize(
    "filters",
    [
        {"events": ["run_success", "migration_sucess"]},
        {"environments": ["staging", "${UNSET}"]},
        {"migrations": ["9*", 5]},
    ],
)
def test_a_filter_with_a_wrong_item_loses_no_event(
    project: Project, filters: dict[str, list[object]]
) -> None:
    """What the wrong item was to choose is recorded, too, and what the right ones choose."""
    project.path.write_text(
        yaml.safe_dump({"webhooks": {"endpoints": [{"name": "a", "url": URL, **filters}]}})
    )
    (faulty,) = read({}, project.path).recorded
    assert faulty.faults
    assert faulty.events >= DEFAULT_SUBSCRIPTION
    assert faulty.refusal(EventType.MIGRATION_SUCCESS, "production", ["001_a"]) is None
    assert (EventType.RUN_SUCCESS in faulty.events) is ("events" in filters)


def test_a_wrong_outbox_is_memory_and_said(project: Project) -> None:
    """A run keeps its events as far as it can; what was meant is not guessed."""
    project.path.write_text("webhooks: {outbox: postgre, flush_timeout: -1}")
    settings = read({}, project.path)
    assert settings.outbox == "memory"
    assert settings.outbox_fault is not None
    assert settings.flush_timeout == timedelta(seconds=10)


@pytest.mark.parametrize("text", ["${" * 200_000, "${A" * 100_000, "{" * 400_000])
def test_a_text_of_references_is_read_at_once(project: Project, text: str) -> None:
    """Nothing is scanned again and again."""
    started = time.monotonic()
    assert project.faults({"trace_url": text})
    assert time.monotonic() - started < 20


def test_advice_is_for_secrets_that_could_be_guessed(project: Project) -> None:
    """24 bytes are enough; fewer are advice, and no fault."""
    rows = [{"name": n, "url": URL, "secret": n * size} for n, size in (("a", 23), ("b", 24))]
    settings = project.load({"endpoints": rows})
    assert [fault.setting for fault in settings.advice] == ["webhooks.endpoints[0].secret"]


@pytest.mark.parametrize(
    ("keys", "at"),
    [
        ({"rate": "1/y"}, "rate"),
        ({"rate": "0/s"}, "rate"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 1.5}, "concurrency"),
        ({"allow_networks": ["10.0.0.0/33"]}, "allow_networks[0]"),
        ({"deny_networks": ["privat"]}, "deny_networks[0]"),
        ({"signatures": ["hmac"]}, "signatures[0]"),
        ({"tls": {"client_key": "k.pem"}}, "tls"),
        ({"tls": {"cert": "k.pem"}}, "tls.cert"),
        ({"tls": {"ca_bundle": "c.pem"}, "url": "http://localhost/"}, "tls"),
    ],
)
def test_wrong_limits_and_files(project: Project, keys: dict[str, Any], at: str) -> None:
    """Each is a fault at its own place."""
    project.endpoint_fault(at, **keys)


def test_a_list_of_an_endpoint_takes_the_place_of_the_files(project: Project) -> None:
    """The file's networks hold for the endpoints that have none of their own."""
    rows = [{"name": "a", "url": URL}, {"name": "b", "url": URL, "deny_networks": ["metadata"]}]
    settings = project.load({"endpoints": rows, "deny_networks": ["private"]}, {variables.URL: URL})
    assert [one.networks.denied for one in settings.endpoints] == [
        ("private",),
        ("private",),
        ("metadata",),
    ]
