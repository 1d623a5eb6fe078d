"""Recordings as messages: the audio that the service accepts (https://api.amigo.ai/v1/openapi.json)."""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

from attrs import field

from nairi_async._core.records import frozen
from nairi_async._core.sources import inspect_source
from nairi_async._core.upload import MAX_ATTACHMENT_BYTES
from nairi_async.errors import InvalidArgumentError

_LOWEST_RATE: Final = 4000
_HIGHEST_RATE: Final = 44100
_WIDTHS: Final = (2, 4)
# An MPEG frame begins with eleven bits set, layer III, and a bit rate and a sample rate that are not reserved.
_SYNC: Final = 0xFF
_MP3_HEADERS: Final = frozenset({0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2})


@frozen
class Recording:
    """A recording of a format that the service accepts."""

    data: bytes = field(repr=False)
    """The file, unchanged."""
    content_type: str
    """`audio/wav` or `audio/mpeg`."""
    config: Mapping[str, Any]
    """The value of `request_audio_config`."""

    @property
    def filename(self) -> str:
        """The file name that it is sent with."""
        return "audio.mp3" if self.content_type == "audio/mpeg" else "audio.wav"


async def read_recording(source: object) -> Recording:
    """Read a recording from bytes, a path or an open file, and recognise its format.

    Raises:
        InvalidArgumentError: it cannot be read, is empty or too large, or is neither MP3 nor WAV with one channel,
            samples of 2 or 4 bytes, and 4,000 to 44,100 samples a second.
    """
    content = await inspect_source(source)
    pieces: list[bytes] = []
    size = 0
    async with aclosing(content.read()) as chunks:
        async for chunk in chunks:
            pieces.append(chunk)
            size += len(chunk)
            if size > MAX_ATTACHMENT_BYTES:
                raise InvalidArgumentError(f"the recording has more than {MAX_ATTACHMENT_BYTES} bytes")
    return recognise(b"".join(pieces))


def recognise(data: bytes) -> Recording:
    """Recognise the format of a recording from its bytes."""
    if not data:
        raise InvalidArgumentError("the recording is empty")
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return Recording(data, "audio/wav", _pcm(data))
    if data[:3] == b"ID3" or (len(data) > 1 and data[0] == _SYNC and data[1] in _MP3_HEADERS):
        return Recording(data, "audio/mpeg", {"type": "mp3"})
    raise InvalidArgumentError(
        "the recording is neither WAV nor MP3, and the service accepts no other audio; convert it first"
    )


def _pcm(data: bytes) -> dict[str, Any]:
    try:
        with wave.open(io.BytesIO(data)) as audio:
            rate, channels, width = audio.getframerate(), audio.getnchannels(), audio.getsampwidth()
    except (wave.Error, EOFError) as error:
        raise InvalidArgumentError(f"the recording is a WAV file without plain PCM samples: {error}") from error
    if channels != 1 or width not in _WIDTHS or not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        raise InvalidArgumentError(
            f"the recording has {channels} channels of {width} bytes at {rate} Hz; the service accepts one channel of "
            f"2 or 4 bytes at {_LOWEST_RATE} to {_HIGHEST_RATE} Hz"
        )
    return {"type": "pcm", "frame_rate": rate, "n_channels": channels, "sample_width": width}
