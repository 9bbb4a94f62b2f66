"""Who produces this telemetry: service, environment, and the CI run it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from . import names
from .text import clean


def describe(environ: Mapping[str, str], environment: str | None) -> dict[str, str]:
    """Resource attributes of ours; whatever ``OTEL_RESOURCE_ATTRIBUTES`` says comes before them."""
    about = {"deployment.environment.name": environment or "", **_ci(environ)}
    return {key: str(clean(value)) for key, value in about.items() if value}


def service_name(environ: Mapping[str, str]) -> str | None:
    """Our default, unless the environment names the service."""
    named = "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "").replace(" ", "")
    return None if named or environ.get("OTEL_SERVICE_NAME", "").strip() else names.SERVICE_NAME


def _ci(environ: Mapping[str, str]) -> dict[str, str]:
    """``cicd.pipeline.*`` and ``vcs.ref.head.revision`` from GitHub, GitLab or Jenkins."""
    get = environ.get
    if get("GITHUB_ACTIONS"):
        run_id = get("GITHUB_RUN_ID", "")
        server, repository = get("GITHUB_SERVER_URL", ""), get("GITHUB_REPOSITORY", "")
        url = f"{server}/{repository}/actions/runs/{run_id}" if server and run_id else ""
        return _pipeline(get("GITHUB_WORKFLOW", ""), run_id, url, get("GITHUB_SHA", ""))
    if get("GITLAB_CI"):
        name = get("CI_PIPELINE_NAME") or get("CI_PROJECT_PATH", "")
        run_id, url = get("CI_PIPELINE_ID", ""), get("CI_PIPELINE_URL", "")
        return _pipeline(name, run_id, url, get("CI_COMMIT_SHA", ""))
    if get("JENKINS_URL"):
        run_id, url = get("BUILD_NUMBER", ""), get("BUILD_URL", "")
        return _pipeline(get("JOB_NAME", ""), run_id, url, get("GIT_COMMIT", ""))
    return {}


def _pipeline(name: str, run_id: str, url: str, revision: str) -> dict[str, str]:
    return {
        "cicd.pipeline.name": name,
        "cicd.pipeline.run.id": run_id,
        "cicd.pipeline.run.url.full": url if _is_plain(url) else "",
        "vcs.ref.head.revision": revision,
    }


def _is_plain(url: str) -> bool:
    """Whether *url* carries no user or password."""
    try:
        return "@" not in urlsplit(url).netloc
    except ValueError:
        return False
