"""What was killed, and what that cost: the ledger's own history against what a receiver received."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from confiture_webhooks.receiver import Received

HISTORY = """
    CREATE SCHEMA siege;
    CREATE TABLE siege.history (n bigserial, did text, version text);
    CREATE FUNCTION siege.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO siege.history (did, version) VALUES (TG_OP, coalesce(NEW.version, OLD.version));
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER INSERT OR DELETE ON tb_confiture
    FOR EACH ROW EXECUTE FUNCTION siege.note();
"""
"""Has the ledger note what is done to it."""
_COMMITTED = {"INSERT": "migration_success", "DELETE": "migration_rollback"}


@dataclass
class Toll:
    """What the kills cost; ``details`` says which."""

    kills: Counter[str] = field(default_factory=Counter)
    events: int = 0
    lost: int = 0
    invented: int = 0
    duplicated: int = 0
    """Webhooks accepted more than once, under the same webhook-id."""
    reworded: int = 0
    """Of those, failures reported first from memory, as the server was away, and then settled."""
    details: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kills = ", ".join(f"{count} x {what}" for what, count in sorted(self.kills.items()))
        return (
            f"{self.kills.total()} kills ({kills}), {self.events} events: {self.lost} lost, "
            f"{self.invented} invented, {self.duplicated} duplicated (same webhook-id), "
            f"{self.reworded} of them with another text of the same failure"
        )

    def count(
        self,
        history: Iterable[tuple[str, str]],
        requests: Iterable[Received],
        status: Mapping[str, Any],
    ) -> None:
        """Compare what the ledger did with what the receiver accepted and what is left."""
        reported = self._accepted(requests)
        committed = Counter((_COMMITTED[did], version) for did, version in history)
        received = Counter(kind for kind in reported.values() if not kind[0].endswith("error"))
        self.events = len(reported)
        for kind in committed.keys() | received.keys():
            missing = committed[kind] - received[kind]
            self.lost += max(0, missing)
            self.invented += max(0, -missing)
            if missing:
                self.details.append(
                    f"{kind}: {committed[kind]} happened, {received[kind]} were reported"
                )
        waiting = {name: count for name, count in status["counts"].items() if name != "delivered"}
        left = sum(waiting.values()) + status["unsettled"]
        self.lost += left
        if left:
            self.details.append(f"left: {waiting}, unsettled {status['intents']}")

    def _accepted(self, requests: Iterable[Received]) -> Mapping[str, tuple[str, str]]:
        """Event type and version by webhook-id; one id that says two things is an invention."""
        bodies: defaultdict[str, list[bytes]] = defaultdict(list)
        reported: dict[str, tuple[str, str]] = {}
        said: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        for request in requests:
            if request.answer.is_success:
                event_id = request.headers["webhook-id"]
                payload: Any = request.payload
                bodies[event_id].append(request.body)
                version = payload.get("migration", {}).get("version", "")  # none: of a whole run
                reported[event_id] = (payload["event_type"], version)
                said[event_id].add(reported[event_id])
        for event_id, received in bodies.items():
            self.duplicated += len(received) - 1
            if len(set(received)) > 1:
                is_one_failure = (
                    reported[event_id][0].endswith("_error") and len(said[event_id]) == 1
                )
                self.reworded += is_one_failure
                self.invented += not is_one_failure
                texts = " and ".join(sorted({body.decode() for body in received}))
                self.details.append(f"{event_id} came with {len(set(received))} bodies: {texts}")
        return reported
