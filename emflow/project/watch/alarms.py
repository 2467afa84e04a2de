"""Alarms: each once per episode, its end told, and what was not delivered tried again."""

from __future__ import annotations

import logging
import platform
from collections import deque
from dataclasses import asdict, dataclass

from emflow.project.watch.channels import Channel, Message

log = logging.getLogger("emflow")

_RETRY_S = 60.0
_MOST_UNDELIVERED = 100


@dataclass
class Episode:
    """An alarm that is on."""

    since: str
    text: str


class Alarms:
    """Which alarms are on, and what is still to be told of them."""

    def __init__(self, project: str, channels: list[Channel], active: dict[str, Episode]) -> None:
        """Go on with the episodes of an earlier watcher."""
        self.active = active
        self._project, self._channels = project, channels
        self._unsent: dict[str, deque[Message]] = {c.name: deque(maxlen=_MOST_UNDELIVERED) for c in channels}
        self._not_before = dict.fromkeys(self._unsent, float("-inf"))
        self.undelivered: dict[str, str] = {}
        """Channel → why it does not work."""

    def judge(self, name: str, on: bool, off: bool, text: str, when: str) -> bool:
        """Begin an episode where ``on``, end one where ``off``; between the two it stays as it is.

        Parameters
        ----------
        name
            The alarm, such as ``stalled``.
        text
            What is the matter, or how it ended.
        when
            Time of day, for people.

        Returns
        -------
        Whether an episode began or ended.
        """
        if on and name not in self.active:
            self.active[name] = Episode(when, text)
            self._tell("alarm", name, text, when)
        elif off and name in self.active:
            del self.active[name]
            self._tell("recovered", name, text, when)
        else:
            if on:
                self.active[name].text = text  # as it is now, for the page
            return False
        return True

    def _tell(self, event: str, name: str, text: str, when: str) -> None:
        log.warning("%s: %s: %s", event, name, text)
        subject = f"emflow {self._project}: {name} {'alarm' if event == 'alarm' else 'over'}"
        message = Message(self._project, event, name, subject, text, when, platform.node())
        for waiting in self._unsent.values():
            waiting.append(message)

    def deliver(self, now: float) -> None:
        """Send what is waiting; a channel that fails is tried again a minute later."""
        for channel in self._channels:
            waiting = self._unsent[channel.name]
            if not waiting or now < self._not_before[channel.name]:
                continue
            problem = channel.send(waiting[0])
            if problem:
                log.warning("%s: an alarm was not delivered: %s", channel.name, problem)
                self.undelivered[channel.name] = problem
                self._not_before[channel.name] = now + _RETRY_S
            else:
                waiting.popleft()
                self.undelivered.pop(channel.name, None)

    def stored(self) -> dict[str, dict[str, str]]:
        """The episodes, as JSON holds them."""
        return {name: asdict(episode) for name, episode in self.active.items()}
