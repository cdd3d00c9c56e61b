"""What ends a run before its time: a signal, or the death of one of its processes.

A process that is busy for an hour must not pass for dead, nor one that is dead for busy. So nobody waits for signs of
life: each process keeps a connection to the first, and the kernel closes those of a dead process, whatever it was
doing. A machine that is lost is noticed by TCP's own probes, in half a minute.

A process that is stopped (SIGSTOP, a debugger, a file system that never answers) keeps its connection. So the watches
greet each other, too, and end the run where one has been silent for half an hour, longer than any call of compiled
code here keeps a watch from running; the environment variable ATTNREID_SILENCE sets the seconds, 0 waits for ever.

torchrun's agent does not do instead. With `record` and a finite timeout it ends the others as soon, 2 to 3 s after a
death, but says in 67 lines and two tracebacks what is one sentence here, and not how to go on; and the timeout, after
which it takes a stopped process for dead (25 s: all over after 61), would end a longer clustering too.
"""

import json
import math
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

import torch.distributed as dist

from reference_pipelines.errors import Stopped, UserError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_MEETING_SECONDS = 120.0
# A machine's processes die one after another; and where one died, torchrun's signal to the others follows at once.
_GRACE_SECONDS = 0.25
_POLL_SECONDS = 0.5
_NOTICING_SECONDS = 3.0
_LEAVING_SECONDS = 20.0
SILENCE = "ATTNREID_SILENCE"
_SILENT_SECONDS = 1800.0
_WORDS = _BYE, _END, _ERROR, _SIGNAL, _DIED = "bye", "end", "error", "signal", "died"
_HELLO, _GREETING_SECONDS = "hello", 10.0


def silent_seconds(who: str = "train") -> float:
    """Return for how long a process may be silent before the others take it for stopped; infinity for no limit.

    Raises:
        UserError: the environment variable is no number of seconds.
    """
    text = os.environ.get(SILENCE, str(_SILENT_SECONDS))
    try:
        seconds = float(text)
        if not 0 <= seconds < math.inf:
            raise ValueError
    except ValueError:
        raise UserError(
            f"{who}: {SILENCE} must be a number of seconds, after which a silent process is taken for stopped, or 0 to "
            f"wait for ever, got {text!r}; set another or none"
        ) from None
    return seconds or math.inf


@contextmanager
def stop_by_signal(how_to_go_on: Callable[[], str]) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into Stopped, in a process that is alone; only the main thread can.

    Raises:
        Stopped: a signal came; whatever was under way is left as it is, which is safe at any moment.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    before = {number: signal.signal(number, _stop_main_thread) for number in _SIGNALS}
    try:
        yield
    except _SignalCame as came:
        number = int(came.args[0])
        raise Stopped(f"stopped by {signal.Signals(number).name}; {how_to_go_on()}", 128 + number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _SignalCame(BaseException):
    pass


def _stop_main_thread(number: int, frame: FrameType | None) -> NoReturn:
    raise _SignalCame(number)


def _leave_to_watch(number: int, frame: FrameType | None) -> None:
    """Do nothing: the watch reads the signal's number from the wake-up descriptor, also while this cannot run."""


def _forget_signals() -> None:
    """Have a forked worker end at a signal like any process."""
    if signal.getsignal(signal.SIGTERM) in (_stop_main_thread, _leave_to_watch):
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_signals)


@contextmanager
def meeting_within(seconds: float, rank: int, count: int, who: str = "train") -> Iterator[None]:
    """End this process where the processes have not met after some seconds; who is missing is not known yet."""

    def give_up() -> None:
        _say(
            f"error: {who}: {count} processes must meet within {seconds:g} s, and rank {rank} (process {os.getpid()} "
            f"on {socket.gethostname()}) waits in vain for another; start them again ({SILENCE}=SECONDS waits longer, "
            "and 0 for ever)"
        )
        os._exit(1)

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Watch:
    """Ends this process, whatever it is doing, when another of the run dies or a signal asks to stop.

    The main thread may be inside a collective, which no exception interrupts; so a thread of its own watches, and
    ends the process where it stands. That is safe at any moment, as the run's files are.

    Args:
        rank: of this process.
        count: of all processes.
        how_to_go_on: returns the end of the sentence that says why the run stopped, when it does.
        who: complains.
        silent: seconds after which a silent process is taken for stopped.
    """

    def __init__(
        self,
        rank: int,
        count: int,
        how_to_go_on: Callable[[], str],
        who: str = "train",
        silent: float = math.inf,
    ) -> None:
        self.rank = rank
        self.who = who
        self.how_to_go_on = how_to_go_on
        self.silent = silent
        self._names, self._hosts = _names_of_all(count)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._peers = self._meet(count)  # the first process's: all others; another's: the first
        self._silence = dict.fromkeys(self._peers, 0.0)
        self._unheard = dict.fromkeys(self._peers, b"")  # the beginning of a line
        self._wake, self._signals = socket.socketpair()
        os.register_at_fork(after_in_child=self._forget)
        for end in (self._wake, self._signals):
            end.setblocking(False)
        signal.set_wakeup_fd(self._signals.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, _leave_to_watch)
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def _meet(self, count: int) -> dict[int, socket.socket]:
        """Connect every process with the first; a stranger who does not know the word is left standing."""
        if self.rank == 0:
            # Where there is IPv6 it takes IPv4 too.
            six = socket.has_dualstack_ipv6()
            server = socket.create_server(
                ("", 0), family=socket.AF_INET6 if six else socket.AF_INET, backlog=count, dualstack_ipv6=six
            )
            invitation = [server.getsockname()[1], secrets.token_hex(16)]
            dist.broadcast_object_list(invitation, src=0)
            with server:
                return _welcome(server, count, invitation[1])
        invitation = [0, ""]
        dist.broadcast_object_list(invitation, src=0)
        peer = socket.create_connection((os.environ["MASTER_ADDR"], invitation[0]))
        peer.sendall(f"{invitation[1]} {self.rank}\n".encode())
        peer.settimeout(None)
        _probe(peer)
        return {0: peer}

    def _forget(self) -> None:
        """Close the connections; a forked worker would keep those of its dead parent open."""
        for end in (*self._peers.values(), self._wake, self._signals):
            with suppress(OSError):
                end.close()

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ, self.rank)
            for rank, peer in self._peers.items():
                selector.register(peer, selectors.EVENT_READ, rank)
            looked = greeted = time.monotonic()
            while not self._ended.is_set():
                ready = selector.select(timeout=_POLL_SECONDS)
                with self._lock:
                    if self._ended.is_set():
                        return
                    if ready:
                        self._look(selector)
                    now = time.monotonic()
                    self._end_if_silent(now - looked)
                    looked = now
                    if now - greeted > min(self.silent / 4, _GREETING_SECONDS):
                        self._tell(_HELLO)
                        greeted = now

    def _look(self, selector: selectors.BaseSelector) -> None:
        """Hear who has something to say, and end the process where that ends the run."""
        heard = self._hear(selector)
        if any(word in (_DIED, _SIGNAL) for word, _ in heard.values()):
            time.sleep(_GRACE_SECONDS)
            heard |= {rank: said for rank, said in self._hear(selector).items() if rank not in heard}
        by_word = {word: {rank: text for rank, (said, text) in heard.items() if said == word} for word in _WORDS}
        if by_word[_END]:
            self._end(int(min(by_word[_END].items())[1]))
        if by_word[_ERROR]:
            _say(f"error: {json.loads(min(by_word[_ERROR].items())[1])}")
            self._end(2)
        if by_word[_DIED]:
            self._say_who_is_missing(list(by_word[_DIED]), "died")
        if by_word[_SIGNAL]:
            self._stop(by_word[_SIGNAL])

    def _hear(self, selector: selectors.BaseSelector) -> dict[int, tuple[str, str]]:
        """Return what each process says, this one's signals among it; silence without a farewell is a death."""
        heard: dict[int, tuple[str, str]] = {}
        for key, _ in selector.select(timeout=0):
            if key.data == self.rank:
                asked = [number for number in self._wake.recv(1024) if number in _SIGNALS]  # SIGCHLD comes here too
                heard |= {self.rank: (_SIGNAL, str(asked[-1]))} if asked else {}
                continue
            said = self._said_by(key.data)
            if said is None:
                continue
            word, _, text = said.partition(" ")
            heard[key.data] = (word, text)
            if word in (_DIED, _BYE):
                selector.unregister(key.fileobj)
                del self._silence[key.data]
        return heard

    def _said_by(self, rank: int) -> str | None:
        """Return the line that a process has sent, unless it only greets."""
        self._silence[rank] = 0.0
        try:
            received = self._peers[rank].recv(65536)
        except OSError:
            received = b""
        if not received:
            return _DIED
        *lines, self._unheard[rank] = (self._unheard[rank] + received).split(b"\n")
        return next((line.decode() for line in lines if line != _HELLO.encode()), None)

    def _end_if_silent(self, seconds: float) -> None:
        """Count the silence of each process, and end the run where it was too long."""
        for rank in self._silence:
            # Time in which this process was stopped itself, or its watch held up, is nobody's silence.
            self._silence[rank] += min(seconds, 2 * _POLL_SECONDS)
        silent = [rank for rank, silence in self._silence.items() if silence > self.silent]
        if silent:
            if self.rank != 0:
                self._tell(f"{_END} 1")  # should the first go on later, it knows that all is over
            self._say_who_is_missing(
                silent,
                f"did not answer for {self.silent:g} s, as if stopped",
                f"{SILENCE}=SECONDS waits longer, and 0 for ever; ",
            )

    def _say_who_is_missing(self, missing: list[int], what: str, advice: str = "") -> None:
        """Name them, once: the first process tells the others; where it is missing, one on each machine speaks."""
        neighbours = [rank for rank in range(len(self._hosts)) if self._hosts[rank] == self._hosts[self.rank]]
        if self.rank == min(rank for rank in neighbours if rank not in missing):
            names = ", ".join(self._names[rank] for rank in sorted(missing))
            _say(f"error: {self.who}: {names} {what}; the run stops; {advice}{self.how_to_go_on()}")
        self._end(1)

    def _stop(self, signals: dict[int, str]) -> None:
        """Stop by a signal; another process than the first asks that one to, so that its end is no death."""
        number = int(min(signals.items())[1])
        if self.rank != 0:
            self._tell(f"{_SIGNAL} {number}")
            return
        whom = "" if 0 in signals else f"{self._names[min(signals)]} was "
        _say(f"{whom}stopped by {signal.Signals(number).name}; {self.how_to_go_on()}")
        self._end(128 + number)

    def _end(self, status: int) -> NoReturn:
        if self.rank == 0:
            self._tell(f"{_END} {status}")
        sys.stdout.flush()
        os._exit(status)

    def _tell(self, line: str) -> None:
        for peer in self._peers.values():
            with suppress(OSError):
                peer.sendall(f"{line}\n".encode())

    def leave_with(self, error: str | None) -> None:
        """Leave because of a user's mistake; what only this process knows of, the first one prints."""
        if self.rank == 0:
            self._close(f"{_END} 2")
            return
        if error is not None:
            _sleep(_NOTICING_SECONDS)  # most mistakes are every process's, and then the first one tells it
            self._tell(f"{_ERROR} {json.dumps(error)}")
        _sleep(_LEAVING_SECONDS)  # the first process ends this one

    def wait_for_the_end(self) -> None:
        """Give the watch time to notice that another process died, which ends this one; return where none did."""
        _sleep(_NOTICING_SECONDS)

    def close(self) -> None:
        """Stop watching, without the others taking it for a death."""
        self._close(_BYE)

    def _close(self, farewell: str) -> None:
        with self._lock:
            self._ended.set()
        self._thread.join()
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # there is nothing left to stop
        self._tell(farewell)
        self._forget()


def _names_of_all(count: int) -> tuple[list[str], list[str]]:
    """Return what to call each process, and its machine."""
    own = (socket.gethostname(), os.getpid())
    everyone = [own] * count
    dist.all_gather_object(everyone, own)
    names = [f"rank {rank} (process {pid} on {host})" for rank, (host, pid) in enumerate(everyone)]
    return names, [host for host, _ in everyone]


def _welcome(server: socket.socket, count: int, word: str) -> dict[int, socket.socket]:
    """Return a connection for every other rank."""
    peers: dict[int, socket.socket] = {}
    while len(peers) < count - 1:
        peer, _ = server.accept()
        peer.settimeout(_MEETING_SECONDS)
        with peer.makefile("r") as lines:
            said, _, rank = lines.readline(100).strip().partition(" ")
        if secrets.compare_digest(said, word):
            peer.settimeout(None)
            _probe(peer)
            peers[int(rank)] = peer
        else:
            peer.close()
    return peers


def _probe(peer: socket.socket) -> None:
    """Have TCP ask whether the other machine is still there: after 10 s of silence, every 5 s, four times."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _sleep(seconds: float) -> None:
    """Wait, whatever is raised meanwhile: torchrun ends a process's workers too, and their ends may raise here."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(Exception):
            time.sleep(0.05)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
