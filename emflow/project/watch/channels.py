"""Where alarms go: a webhook, a command that mails."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from http.client import HTTPException
from typing import Any

from emflow.project.watch.config import Watch

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Message:
    """What is told: alarm, recovered or test."""

    project: str
    event: str
    alarm: str
    subject: str
    detail: str
    time: str
    host: str

    @property
    def text(self) -> str:
        """All of it, in words."""
        return f"{self.subject}\n{self.detail}\n{self.time}, {self.host}"


@dataclass(frozen=True)
class Webhook:
    """POST of JSON: the message's fields and its text."""

    url: str
    name: str = "webhook"

    def send(self, message: Message) -> str:
        """Post; return what went wrong, empty if nothing. The address, often a secret, is not repeated."""
        body = json.dumps({**asdict(message), "text": message.text}).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "emflow"}
        request = urllib.request.Request(self.url, data=body, headers=headers, method="POST")
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT_S):
                return ""
        except urllib.error.HTTPError as error:
            error.close()
            return f"the server answered {error.code} {error.reason}"
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            return f"{type(error).__name__}: {reason}".replace(self.url, "(its address)")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive empty: it counts as refused."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(frozen=True)
class Mail:
    """A command that takes the text on its standard input; no shell."""

    command: tuple[str, ...]
    name: str = "mail"

    def send(self, message: Message) -> str:
        """Run the command; return what went wrong, empty if nothing."""
        words = [word.replace("{subject}", message.subject) for word in self.command]
        try:
            done = subprocess.run(
                words, input=message.text + "\n", capture_output=True, text=True, timeout=3 * _TIMEOUT_S,
                check=False, errors="replace",
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return f"exit code {done.returncode}: {done.stderr.strip()[-300:]}" if done.returncode else ""


Channel = Webhook | Mail


def channels(cfg: Watch) -> list[Channel]:
    """The channels that are set."""
    found: list[Channel] = []
    if cfg.webhook:
        found.append(Webhook(cfg.webhook))
    if cfg.mail:
        found.append(Mail(tuple(cfg.mail)))
    return found
