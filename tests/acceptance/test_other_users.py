"""Commands that are really run as other users: by number, as in a container. Needs root."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import forked
from confiture_webhooks.outbox.sqlite_file import default_path
from project import Project

if TYPE_CHECKING:
    from collections.abc import Iterator

ADA, BOB, ROOT, GROUP = 4242, 4243, 0, 4244
"""Numbers that have no name here."""
HOOK = """
from confiture_webhooks.hooks import register_hook

@register_hook("post_execute")
def greet(context):
    print("the hook ran")
"""


class Place(Project):
    """A project that any user can enter, and commands run there as any user."""

    def run(
        self,
        *arguments: str,
        uid: int,
        gid: int | None = None,
        groups: tuple[int, ...] = (),
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``confiture`` to its end, without a home directory unless *env* has one."""
        return forked.run(
            [*arguments],
            cwd=self.path,
            env={"PATH": os.defpath, **forked.FIXED, **env},
            user=uid,
            group=uid if gid is None else gid,
            extra_groups=groups,
            timeout=120,
        )

    def give(self, uid: int, gid: int | None = None, mode: int = 0o755) -> None:
        """Give every directory and file of the project to *uid*."""
        for one in (self.path, *self.path.rglob("*")):
            os.chown(one, uid, uid if gid is None else gid)
            one.chmod(mode if one.is_dir() else mode & 0o664)

    @property
    def outbox(self) -> Path:
        """Where the outbox of its runs lies."""
        return self.path / ".confiture" / "webhooks.db"


@pytest.fixture
def place(database: str, receiver: Any) -> Iterator[Place]:
    """A project of root with a migration, a hook and an endpoint."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can run commands as other users")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        place = Place(Path(directory) / "project", database)
        place.environment_file(webhooks={"endpoints": [{"name": "one", "url": receiver.url}]})
        place.migration("001", "a", up="CREATE TABLE a (id int)", down="DROP TABLE a")
        hooks = place.path / "confiture_hooks"
        hooks.mkdir()
        (hooks / "greet.py").write_text(HOOK)
        place.give(ROOT)
        yield place


@pytest.mark.survived(
    "An outbox of another user, or one that others may write", "unharmed", "private", "said"
)
def test_another_users_outbox_is_named_and_left_alone(place: Place, receiver: Any) -> None:
    """The run goes on in memory, and says whose the outbox is and what to do; commands as well."""
    place.give(ADA)
    assert place.run("migrate", "up", uid=ADA).returncode == 0
    before = place.outbox.stat()
    for uid, command in ((BOB, "down"), (ROOT, "up")):
        done = place.run("migrate", command, uid=uid)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Run this as uid 4242") == 1, done.stderr
        status = place.run("webhooks", "status", uid=uid)
        assert status.returncode == 1
        assert "uid 4242" in status.stderr
        check = place.run("webhooks", "check", uid=uid)
        assert check.returncode == 5
        assert "uid 4242" in check.stderr
    assert len(receiver.requests) == 3
    assert place.outbox.stat() == before


@pytest.mark.survived("Hook files of another user", "unharmed", "private", "said")
def test_root_runs_no_hook_of_another_user(place: Place, receiver: Any) -> None:
    """A line says whose it is; the migration and its webhook are as without it."""
    place.give(ADA)
    done = place.run("migrate", "up", uid=ROOT)
    assert done.returncode == 0, done.stderr
    assert "the hook ran" not in done.stderr
    assert done.stderr.count("belongs to another user") == 1
    assert len(receiver.requests) == 1


def test_hooks_that_are_closed_to_this_user_are_not_passed_over(place: Place) -> None:
    """A line says so, in a run and in ``check``."""
    (place.path / "confiture_hooks").chmod(0o700)
    done = place.run("migrate", "up", uid=ADA)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("confiture_hooks: is closed to this user") == 1
    assert "`ls -ld confiture_hooks`" in done.stderr
    assert place.run("webhooks", "check", uid=ADA).returncode == 5


def test_an_environment_file_that_is_closed_is_named(place: Place) -> None:
    """In a directory that this user may not enter, too: no traceback."""
    place.environments.chmod(0o700)
    for command in ("check", "status", "deliver"):
        done = place.run("webhooks", command, uid=ADA)
        assert done.returncode == 5, done.stderr
        assert "local.yaml: cannot be read (PermissionError)" in done.stderr


def test_a_user_without_a_name_or_a_home_loses_nothing(place: Place, receiver: Any) -> None:
    """No passwd entry, no HOME, a project of root's: everything is delivered, from memory."""
    done = place.run("migrate", "up", uid=ADA)
    assert done.returncode == 0, done.stderr
    assert "the hook ran" in done.stderr
    assert "may be missing" not in done.stderr
    assert done.stderr.count("Make it writable") == 1
    assert len(receiver.requests) == 1
    assert not place.outbox.exists()
    assert not (place.path / "~").exists()


def test_a_random_user_of_the_root_group_is_served(place: Place, receiver: Any) -> None:
    """As OpenShift runs it: the project belongs to root, and its group may write it."""
    place.give(ROOT, mode=0o775)
    done = place.run("migrate", "up", uid=ADA, gid=0, groups=(0, ADA), HOME="/")
    assert done.returncode == 0, done.stderr
    assert "the hook ran" in done.stderr
    assert len(receiver.requests) == 1
    found = place.outbox.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (ADA, 0o600)
    status = place.run("webhooks", "status", uid=ADA, gid=0, groups=(0, ADA), HOME="/")
    assert status.returncode == 0, status.stderr


def test_a_volume_of_the_pods_group_is_used(place: Place, receiver: Any) -> None:
    """As Kubernetes mounts one with fsGroup: root's, and a group without a name may write it."""
    volume = place.path.parent / "volume"
    volume.mkdir()
    os.chown(volume, ROOT, GROUP)
    volume.chmod(0o2775)
    outbox = f"sqlite:{volume}/webhooks.db"
    for gid, files in ((GROUP, ["webhooks.db"]), (BOB, [])):
        done = place.run(
            "migrate", "up", uid=ADA, groups=(gid,), HOME="/", CONFITURE_WEBHOOK_OUTBOX=outbox
        )
        assert done.returncode == 0, done.stderr
        assert [one.name for one in volume.iterdir()] == files
        assert ("others may write" in done.stderr) is (gid != GROUP)
        place.run("migrate", "down", uid=ADA, CONFITURE_WEBHOOK_OUTBOX="memory")
        for one in volume.iterdir():
            one.unlink()
    assert len(receiver.requests) == 4


def test_root_makes_nothing_in_the_home_of_another(place: Place) -> None:
    """As where sudo keeps HOME: root's own is used."""
    place.home.chmod(0o777)
    os.chown(place.home, ADA, ADA)
    nowhere = place.path / "missing"
    path = default_path(nowhere, {"HOME": str(place.home)})
    assert not path.is_relative_to(place.home)
    assert path.is_relative_to(Path("~root").expanduser())
