"""The README's recipe for any dialogue, on the other service: `uvicorn amigo_dialogue:app`."""

from __future__ import annotations

from dialogue_app import application

from nairi_async.amigo import AmigoSession

SERVICE = "67d871c23eb91293ecfae8b0"

app = application(AmigoSession, SERVICE)
