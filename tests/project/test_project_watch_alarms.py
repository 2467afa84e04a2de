"""Alarms: when they begin and end, and that they arrive; rates, room on disk, when pooled steps run again."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emflow.project.watch import space
from emflow.project.watch.alarms import Alarms
from emflow.project.watch.cadence import Cadence
from emflow.project.watch.channels import Mail, Webhook, channels
from emflow.project.watch.command import watch
from emflow.project.watch.config import Watch
from emflow.project.watch.figures import compare
from emflow.project.watch.judge import Facts, Reading, readings
from emflow.project.watch.pace import Pace
from emflow.project.watch.space import Space
from emflow.project.watch.status import catching_up
from emflow.step import EmflowError

CFG = Watch(stall_minutes=30, disk_free_gb=50, disk_hours=6)


class Receiver(HTTPServer):
    """A server on loopback that keeps what is posted."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[dict[str, Any]] = []
        self.answer = 200
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook/secret"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Receiver)
        if self.server.answer == 200:
            self.server.got.append(json.loads(body))
        self.send_response(self.server.answer)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Receiver()
    yield server
    server.shutdown()
    server.server_close()


def judged(cfg: Watch = CFG, **known: Any) -> dict[str, Reading]:
    facts: dict[str, Any] = {
        "quiet_s": None, "problem": "", "problem_s": 0.0, "figures": {}, "spaces": [], "failed": {}, "log": "log",
    }  # fmt: skip
    return {reading.alarm: reading for reading in readings(cfg, Facts(**{**facts, **known}))}


def test_an_alarm_is_told_once_and_its_end_too(receiver: Receiver) -> None:
    alarms = Alarms("p", [Webhook(receiver.url)], {})
    for quiet_s, now in (
        (60, 0.0),
        (1800, 1.0),
        (1900, 2.0),
        (90_000, 3.0),
        (5, 4.0),
        (20, 5.0),
        (1801, 6.0),
    ):
        reading = judged(quiet_s=quiet_s)["acquisition stalled"]
        alarms.judge(reading.alarm, reading.on, reading.off, reading.text, "now")
        alarms.deliver(now)
    assert [message["event"] for message in receiver.got] == ["alarm", "recovered", "alarm"]
    assert receiver.got[0]["project"] == "p"
    assert "no new micrograph for 30 min" in receiver.got[0]["text"], "what chat programs show"
    alarms.judge("acquisition stalled", True, False, "for an hour", "later")
    assert alarms.stored()["acquisition stalled"] == {"since": "now", "text": "for an hour"}
    assert "acquisition stalled" not in judged(quiet_s=None), "before anything has come it is no stall"


def test_between_the_two_limits_an_alarm_stays_as_it_is() -> None:
    alarms = Alarms("p", [], {})
    disk = Space("results", Path())
    events = []
    for free in (100, 49, 51, 49, 54, 56, 51, 49):
        disk.free_gb = float(free)
        reading = judged(spaces=[disk])["disk of the results nearly full"]
        events.append(alarms.judge(reading.alarm, reading.on, reading.off, reading.text, "now"))
    assert events == [False, True, False, False, False, True, False, True]


def test_an_episode_outlives_its_watcher(receiver: Receiver) -> None:
    first = Alarms("p", [Webhook(receiver.url)], {})
    first.judge("a step failed", True, False, "failed", "then")
    first.deliver(0.0)
    stored = json.loads(json.dumps(first.stored()))
    second = Alarms(
        "p", [Webhook(receiver.url)], {name: type(e)(**stored[name]) for name, e in first.active.items()}
    )
    second.judge("a step failed", True, False, "failed", "later")
    second.deliver(0.0)
    assert len(receiver.got) == 1
    second.judge("a step failed", False, True, "well", "later")
    second.deliver(0.0)
    assert [message["event"] for message in receiver.got] == ["alarm", "recovered"]


@pytest.mark.parametrize("answer", [500, 404, 302])
def test_what_was_not_delivered_is_tried_again_and_stops_nothing(receiver: Receiver, answer: int) -> None:
    receiver.answer = answer
    alarms = Alarms("p", [Webhook(receiver.url)], {})
    alarms.judge("a step failed", True, False, "failed", "now")
    alarms.deliver(0.0)
    assert str(answer) in alarms.undelivered["webhook"]
    assert "secret" not in alarms.undelivered["webhook"]
    receiver.answer = 200
    alarms.deliver(30.0)
    assert receiver.got == [], "not before a minute has passed"
    alarms.deliver(61.0)
    assert [message["alarm"] for message in receiver.got] == ["a step failed"]
    assert alarms.undelivered == {}


def test_a_server_that_is_not_there(receiver: Receiver) -> None:
    receiver.shutdown()
    receiver.server_close()
    alarms = Alarms("p", [Webhook(receiver.url)], {})
    alarms.judge("a step failed", True, False, "failed", "now")
    alarms.deliver(0.0)
    assert "refused" in alarms.undelivered["webhook"]


def test_mail_goes_through_a_command_without_a_shell(tmp_path: Path) -> None:
    write = "import sys; open(sys.argv[1], 'w').write(sys.argv[2] + sys.stdin.read())"
    out = tmp_path / "mail; touch pwned"
    cfg = Watch(mail=[sys.executable, "-c", write, str(out), "{subject}"])
    (channel,) = channels(cfg)
    alarms = Alarms("p", [channel], {})
    alarms.judge("fewer picks", True, False, "3 picks; $(touch pwned)", "now")
    alarms.deliver(0.0)
    assert out.read_text().startswith(
        "emflow p: fewer picks alarmemflow p: fewer picks alarm\n3 picks; $(touch pwned)"
    )
    assert not list(tmp_path.rglob("pwned"))
    alarms.judge("fewer picks", False, True, "again", "now")
    failing = Mail((sys.executable, "-c", "import sys; sys.exit('no route')"))
    assert "no route" in Alarms("p", [failing], {})._channels[0].send(alarms._unsent["mail"][0])
    assert "FileNotFoundError" in Mail(("no-such-program",)).send(alarms._unsent["mail"][0])


def test_trying_the_channels(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(f"project: p\nwatch: {{webhook: '{receiver.url}'}}\n")
    watch("run.yaml", test_alarm=True)
    assert [message["event"] for message in receiver.got] == ["test"]
    assert "webhook: sent" in capsys.readouterr().out
    receiver.answer = 500
    with pytest.raises(EmflowError, match="does not work"):
        watch("run.yaml", test_alarm=True)
    Path("run.yaml").write_text("project: p\n")
    with pytest.raises(EmflowError, match=r"watch\.webhook"):
        watch("run.yaml", test_alarm=True)
    assert not Path("results").exists(), "nothing but the message"


def test_drops_are_robust() -> None:
    rng = np.random.default_rng(0)
    good = rng.normal(4.0, 0.3, 300)
    outliers = np.where(rng.random(300) < 0.3, 100.0, good)

    def ctf(values: np.ndarray) -> Reading:
        return judged(figures={"ctf": compare(values, 30)})["CTF fits worse"]

    assert ctf(outliers).off, "three of ten fits that fail all the time are no drop"
    assert ctf(np.r_[outliers, np.full(30, 5.5)]).on
    assert ctf(np.r_[good, np.full(14, 100.0), good[:16]]).off, "fewer than half of the last ones"
    middling = ctf(np.r_[good, np.full(30, 4.9)])
    assert (middling.on, middling.off) == (False, False), "neither an alarm nor the end of one"
    assert compare(good[:89], 30) is None, "the beginning of a session is no drop"

    def picks(values: np.ndarray) -> Reading:
        return judged(figures={"picks": compare(values, 30)})["fewer picks"]

    assert picks(np.r_[rng.poisson(100, 200), rng.poisson(40, 30)]).on
    assert picks(np.r_[rng.poisson(100, 200), rng.poisson(80, 30)]).off
    assert not picks(np.r_[np.tile([1, 9, 2, 30, 3], 20), np.tile([1, 2, 1, 3, 9], 6)]).on, (
        "within the scatter"
    )


def test_a_disk_that_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Space("results", Path())

    def look(now: float, free: float) -> dict[str, Reading]:
        monkeypatch.setattr(space.shutil, "disk_usage", lambda _: type("U", (), {"free": int(free * 1e9)}))
        disk.look(now)
        return judged(spaces=[disk])

    look(0, 1000)
    assert disk.full_in_hours is None, "one look tells no rate"
    assert not look(1000, 900)["disk of the results fills"].on, "nor do a few minutes"
    found = look(3600, 700)["disk of the results fills"]
    assert disk.full_in_hours == pytest.approx(700 / 300)
    assert found.on
    assert "2.3 h" in found.text
    for hour in range(2, 9):
        found = look(3600.0 * hour, 700)["disk of the results fills"]
    assert found.off, "what filled it is over six hours ago"


def test_a_failed_step_and_a_source_out_of_sight() -> None:
    found = judged(failed={"live": ["ctf_fit"], "whole": ["ctf_fit", "reconstruct_refine"]})["a step failed"]
    assert found.on
    assert "ctf_fit, reconstruct_refine; see log" in found.text
    assert not judged(problem="gone", problem_s=60)["micrographs out of sight"].on, "a hiccup"
    assert judged(problem="gone", problem_s=400)["micrographs out of sight"].on


def test_how_far_behind() -> None:
    pace = Pace()
    for minute in range(121):
        pace.look(60.0 * minute, 2 * minute, minute)
    assert pace.per_hour() == (pytest.approx(120), pytest.approx(60))
    assert len(pace._samples) <= 241
    pace.cycle(50, 600)
    assert pace.capacity_per_hour == pytest.approx(300)
    assert pace.catch_up_s(90) == pytest.approx(90 / 180 * 3600), "what comes meanwhile counts"
    slow = Pace()
    slow.look(0, 0, 0), slow.look(3600, 100, 0)
    assert slow.catch_up_s(5) is None
    slow.cycle(10, 3600)
    assert slow.catch_up_s(5) is None, "never: more comes than is processed"
    status = {"micrographs": {"behind": 5}, "catch_up_s": None, "capacity_per_hour": 10.0}
    assert "falling behind" in catching_up(status)


@pytest.mark.parametrize(
    ("changes", "state", "particles", "hours", "quiet_s", "why"),
    [
        ({}, Cadence(), 4999, 0.0, 0, ""),
        ({}, Cadence(), 5000, 0.0, 0, "there are 5000 particles"),
        ({}, Cadence(6000), 8999, 0.0, 0, ""),
        ({}, Cadence(6000), 9000, 0.0, 0, "grown from 6000 to 9000"),
        ({}, Cadence(6000, unfinished=True), 6000, 0.0, 0, "interrupted"),
        ({}, Cadence(6000), 6001, 0.0, 7200, "nothing has come"),
        ({}, Cadence(6000), 6000, 0.0, 1e6, ""),
        ({"pooled_hours": 4}, Cadence(6000, 3600.0), 6001, 4.9, 0, ""),
        ({"pooled_hours": 4}, Cadence(6000, 3600.0), 6001, 5.1, 0, "4 h have passed"),
        ({"pooled_hours": 4}, Cadence(6000, 3600.0), 6000, 99.0, 0, ""),
        ({"pooled_new_particles": 100}, Cadence(6000), 6100, 0.0, 0, "100 new particles"),
        ({"pooled_growth": None, "pooled_idle_minutes": None}, Cadence(), 10**9, 99.0, 1e9, ""),
    ],
)  # fmt: skip
def test_when_pooled_steps_run(
    changes: dict[str, Any], state: Cadence, particles: int, hours: float, quiet_s: float, why: str
) -> None:
    found = state.due(Watch(**changes), particles, 3600 * hours, quiet_s)
    assert (why in found) if why else found == ""
