"""Adapts libsndfile: a decoder that does not seek without need, and names and sentences for libsndfile's errors."""

from __future__ import annotations

import os

import soundfile

from pipeline.records import ErrorName

# Codes of libsndfile (src/common.h) for contents that it has no decoder for.
_UNSUPPORTED_CODES = frozenset((1, 4, 18, 78, 92, 100, 106, 110, 123, 159))
# "Internal error", which libsndfile reports for Ogg files with Speex.
_OGG_UNSUPPORTED_CODE = 29
# Codes for a file that ends too early.
_ENDED_CODES = frozenset((39, 158))
_MEMORY_CODE = 17
# libsndfile's own messages for these codes help nobody ("Unspecified internal error.", "Internal psf_fseek() failed.").
_CLEAR_MESSAGES = {
    29: "libsndfile cannot decode what is there",
    39: "the file ends where its header says that more follows",
    43: "the file ends where its header says that more follows",
}


class SndfileDecoder(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]  # soundfile is not typed
    """Decodes a file from start to end without seeking in between.

    `soundfile.SoundFile` seeks to its own position after every read. libsndfile then restarts lossy codecs, which
    costs time and precision and prints lines on stderr.
    """

    def seek(self, frames: int, whence: int = os.SEEK_SET) -> int:
        """Move to a sample, as `soundfile.SoundFile.seek` does; does nothing if the decoder is already there."""
        if whence == os.SEEK_SET and frames == self.tell():
            return frames
        return int(super().seek(frames, whence))

    def next_sample(self) -> int:
        """Return the index of the next sample; 0 if the codec cannot tell."""
        return int(self.tell()) if self.seekable() else 0


def has_no_decoder(error: soundfile.LibsndfileError, *, is_ogg: bool) -> bool:
    """Whether libsndfile failed to open a file because it has no decoder for the content."""
    return error.code in _UNSUPPORTED_CODES or (is_ogg and error.code == _OGG_UNSUPPORTED_CODE)


def error_name(error: soundfile.LibsndfileError) -> ErrorName:
    """Return the name of the failure that an error of libsndfile means."""
    if error.code == _MEMORY_CODE:
        return "out_of_memory"
    return "truncated" if error.code in _ENDED_CODES else "unreadable"


def error_message(error: soundfile.LibsndfileError) -> str:
    """Return libsndfile's message, or a clearer one."""
    message: str = _CLEAR_MESSAGES.get(error.code, error.error_string)
    return message
