"""ELAN's EAF: a tier of utterances, and a tier of words within them, for each speaker if there are several.

The format is described at https://www.mpi.nl/tools/elan/EAF_Annotation_Format_3.0_and_ELAN.pdf.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

from pipeline.audio.archives.members import unpacked
from pipeline.export.formats import write_each
from pipeline.export.material import Exported, Recording
from pipeline.export.tiers import tiers_of

DESCRIPTION = "tiers for ELAN, a file for each recording"
SUFFIX = ""
NEEDS_WORDS = False
_TYPES = """\
    <LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="utterances" TIME_ALIGNABLE="true"/>
    <LINGUISTIC_TYPE CONSTRAINTS="Included_In" GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="words" \
TIME_ALIGNABLE="true"/>
    <CONSTRAINT \
DESCRIPTION="Time alignable annotations within the parent annotation's time interval, gaps are allowed" \
STEREOTYPE="Included_In"/>
"""


def write(recordings: Iterable[Recording], path: Path, exported: Exported) -> None:
    """Write a folder. See `Format.write`."""
    write_each(recordings, path, ".eaf", _content)


def _content(recording: Recording) -> str:
    slots: list[tuple[int, str]] = []
    tiers: list[str] = []
    annotations = 0

    def slot(milliseconds: int) -> str:
        slots.append((milliseconds, f"ts{len(slots) + 1}"))
        return slots[-1][1]

    for tier in tiers_of(recording):
        parent = f" PARENT_REF={_attribute(tier.parent)}" if tier.parent else ""
        kind = "words" if tier.parent else "utterances"
        tiers.append(f'    <TIER LINGUISTIC_TYPE_REF="{kind}"{parent} TIER_ID={_attribute(tier.name)}>\n')
        for each in tier.intervals:
            annotations += 1
            start = round(each.start_s * 1000)
            first, last = slot(start), slot(max(round(each.end_s * 1000), start + 1))
            tiers.append(
                f'        <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{annotations}" TIME_SLOT_REF1="{first}" '
                f'TIME_SLOT_REF2="{last}"><ANNOTATION_VALUE>{escape(_allowed(each.text))}</ANNOTATION_VALUE>'
                "</ALIGNABLE_ANNOTATION></ANNOTATION>\n"
            )
        tiers.append("    </TIER>\n")
    order = [
        f'        <TIME_SLOT TIME_SLOT_ID="{name}" TIME_VALUE="{milliseconds}"/>\n'
        for milliseconds, name in sorted(slots, key=lambda slot: slot[0])
    ]
    file = unpacked(recording.path)
    kind = "audio/x-wav" if file.lower().endswith(".wav") else "audio/*"
    url = "file://" + quote(file)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<ANNOTATION_DOCUMENT AUTHOR="" DATE="1970-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">\n'
        '    <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">\n'
        f'        <MEDIA_DESCRIPTOR MEDIA_URL={_attribute(url)} MIME_TYPE="{kind}"/>\n'
        "    </HEADER>\n    <TIME_ORDER>\n" + "".join(order) + "    </TIME_ORDER>\n" + "".join(tiers) + _TYPES
        + "</ANNOTATION_DOCUMENT>\n"
    )  # fmt: skip


def _attribute(text: str | None) -> str:
    return quoteattr(_allowed(text or ""))


def _allowed(text: str) -> str:
    """Return a text without the control characters that XML cannot hold."""
    return "".join(char for char in text if char >= " ")
