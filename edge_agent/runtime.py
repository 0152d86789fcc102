"""The shell around the pure agent: one queue of inputs, the journal before every effect, and threads that do what takes time.

It decides one thing alone: what to do when the journal can't be written (forget the step, tell the agent, go on in memory, try again). All
else is `agent`'s. Run by `fleetward-agent run`; one a state directory, which a lock makes sure of.
"""

import fcntl
import logging
import os
import queue
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from broker.messages import ErrorCode
from edge_agent import VERSION, agent, journal
from edge_agent import identity as identities
from edge_agent.appliers import Applier, registry
from edge_agent.executor import Executor
from edge_agent.identity import JOURNAL_FILE, SETTINGS_FILE, Identity
from edge_agent.journal import Journal, JournalCorrupt, JournalError
from edge_agent.keeper import Keeper
from edge_agent.lock import Lock
from edge_agent.lookout import Device, Eyes, Lookout
from edge_agent.session import Session
from edge_agent.settings import Settings
from edge_agent.signals import (
    Adopt,
    Booted,
    CertificateJob,
    Clock,
    Connect,
    Disconnect,
    Effect,
    Governed,
    Input,
    JournalFailed,
    JournalLost,
    JournalMended,
    Note,
    Publish,
    Run,
    Scan,
    Stop,
    Stopping,
    Tick,
)
from edge_agent.state import VERBS, Durable, Profile, Rule, State, fresh
from edge_agent.trust import Ring

log = logging.getLogger(__name__)

MEND_S = 5.0
"""How often a journal that can't be written is tried again: it costs a write, and until then nothing is run."""
LOCK_S = 5.0
"""How soon a maintenance lock is reported while nothing else happens; before a command it is always looked at."""
GOODBYE_S = 3.0
"""How long the last message may take."""


class AlreadyRunning(Exception):
    """Another agent runs on this state directory."""


class Runtime:
    """An agent on this machine. `eyes`: what it discovers with; `appliers` and `verbs`: what it can do, and how each is run."""

    def __init__(
        self,
        identity: Identity,
        settings: Settings,
        eyes: Eyes | None = None,
        appliers: tuple[Applier, ...] | None = None,
        verbs: Mapping[str, Rule] = VERBS,
    ) -> None:
        """Raises AlreadyRunning, OSError."""
        self._identity = identity
        self._held = hold(identity.state_dir)
        self._lock = Lock(identity.state_dir / SETTINGS_FILE, settings)
        self._inputs: queue.SimpleQueue[Input] = queue.SimpleQueue()
        self._path = identity.state_dir / JOURNAL_FILE
        self._journal: Journal | None = None
        self._saved: Durable | None = None
        self._mend_at = 0.0
        self._session: Session | None = None
        self._me = profile(identity, settings, verbs)
        hands = registry.appliers(identity.state_dir, settings) if appliers is None else appliers
        self._executor = Executor(hands, self._inputs.put)
        self._keeper = Keeper(identity.state_dir, self._inputs.put)
        self._lookout = Lookout(eyes or Device(), hands, settings, self._inputs.put)
        durable, first = self._open()
        self._state: State = agent.begin(durable, os.urandom(32))
        for entry in (*first, Governed(self._lock.policy), Booted()):
            self._take(entry)

    def stop(self) -> None:
        """Say goodbye and end `run`; safe in a signal handler."""
        self._inputs.put(Stopping())

    def run(self) -> None:
        """Until `stop`."""
        while True:
            signal_ = self._next()
            self._take(signal_)
            if isinstance(signal_, Stopping):
                break
        if self._session is not None:
            self._session.join(GOODBYE_S)
        if self._journal is not None:
            self._journal.close()
        os.close(self._held)

    def handle_signals(self) -> None:
        """SIGTERM and SIGINT end it."""

        def handler(number: int, frame: FrameType | None) -> None:
            self.stop()

        signal.signal(signal.SIGTERM, handler)
        signal.signal(signal.SIGINT, handler)

    def _next(self) -> Input:
        now = clock().mono
        times = [agent.wake_at(self._state), self._mend_at if self._state.broken is not None else None, now + LOCK_S]
        at = min(at for at in times if at is not None)
        try:
            return self._inputs.get(timeout=max(0.0, at - now))
        except queue.Empty:
            return Tick()

    def _take(self, signal_: Input) -> None:
        """Decide on one input, by the lock as it stands at this moment."""
        policy = self._lock.look()
        if policy is not None:
            self._decide(Governed(policy))
        self._decide(signal_)

    def _decide(self, signal_: Input) -> None:
        now = clock()
        if self._state.broken is not None and now.mono >= self._mend_at:
            self._mend(now)
        state, effects = agent.step(self._me, self._state, now, signal_)
        if state.broken is None and not self._save(state.durable, now):
            state, effects = agent.step(self._me, self._state, now, signal_)
        self._state = state
        self._perform(effects)

    def _save(self, durable: Durable, now: Clock) -> bool:
        """Whether it is on disk. If not, the state is already that of an agent that knows."""
        if self._journal is None:
            return False
        try:
            self._journal.save(self._saved, durable)
            self._saved = durable
            return True
        except (JournalError, JournalCorrupt) as error:
            self._fail(error, now)
            return False

    def _fail(self, error: JournalError | JournalCorrupt, now: Clock) -> None:
        code = error.code if isinstance(error, JournalError) else ErrorCode.INTERNAL
        self._mend_at = now.mono + MEND_S
        self._state, effects = agent.step(self._me, self._state, now, JournalFailed(code, str(error)))
        self._perform(effects)

    def _mend(self, now: Clock) -> None:
        """Write everything anew, into this journal or, where it is beyond that, another."""
        self._mend_at = now.mono + MEND_S
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        try:
            self._journal, _, _ = journal.open_journal(self._path, self._me.device)
            self._journal.save(None, self._state.durable)
        except (JournalError, JournalCorrupt) as error:
            log.warning("journal still can't be written", extra={"error": str(error)})
            return
        self._saved = self._state.durable
        state, effects = agent.step(self._me, self._state, now, JournalMended())
        if self._save(state.durable, now):
            self._state = state
            self._perform(effects)

    def _open(self) -> tuple[Durable, tuple[Input, ...]]:
        """The durable state to begin with, and what has to be said about it."""
        try:
            self._journal, found, lost = journal.open_journal(self._path, self._me.device)
        except (JournalError, JournalCorrupt) as error:
            code = error.code if isinstance(error, JournalError) else ErrorCode.INTERNAL
            self._mend_at = clock().mono + MEND_S
            found = journal.read_only(self._path)
            return found or fresh(new_epoch()), (JournalFailed(code, str(error)), JournalLost("it can't be opened"))
        self._saved = found
        return found or fresh(new_epoch()), (JournalLost(lost),) if lost else ()

    def _perform(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case Connect():
                    self._session = Session(self._identity, effect, self._inputs.put)
                case Disconnect(session, clean):
                    if self._session is not None and self._session.name == session:
                        self._session.close(clean)
                case Publish():
                    if self._session is not None:
                        self._session.publish(effect)
                case Run():
                    self._executor.run(effect)
                case Stop():
                    self._executor.stop(effect)
                case Scan():
                    self._lookout.scan(effect)
                case Note(level, message, fields):
                    log.log(level, message, extra={"device": self._me.device, **fields})
                case _:
                    self._renew(effect)

    def _renew(self, effect: CertificateJob | Adopt) -> None:
        match effect:
            case Adopt(ring):
                self._adopt(ring)
            case _:
                self._keeper.do(effect)

    def _adopt(self, ring: Ring) -> None:
        """What can't be written now is trusted until the next start, and then sent again."""
        try:
            identities.adopt(self._identity.state_dir, ring)
        except OSError as error:
            log.error("other keys can't be written down", extra={"device": self._me.device, "error": str(error)})


def profile(identity: Identity, settings: Settings, verbs: Mapping[str, Rule] = VERBS) -> Profile:
    return Profile(
        device=identity.device,
        topics=identity.topics,
        ring=identity.ring,
        channel_key=identity.channel_key,
        boot_id=boot_id(),
        agent_version=VERSION,
        keepalive_s=settings.keepalive_s,
        heartbeat_s=settings.heartbeat_s,
        verbs=verbs,
    )


def clock() -> Clock:
    return Clock(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


def boot_id() -> str:
    """The kernel's; a container that hides it gets one a process."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or os.urandom(16).hex()
    except OSError:
        return os.urandom(16).hex()


def new_epoch() -> str:
    """A ULID in lower case."""
    number = (time.time_ns() // 1_000_000 % 2**48) << 80 | int.from_bytes(os.urandom(10), "big")
    return "".join("0123456789abcdefghjkmnpqrstvwxyz"[number >> shift & 31] for shift in range(125, -1, -5))


def hold(state_dir: Path) -> int:
    """A descriptor that holds the state directory as long as it is open. Raises AlreadyRunning, OSError."""
    descriptor = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyRunning(f"another agent runs on {state_dir}") from None
    return descriptor
