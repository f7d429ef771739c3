"""Reads the tiers of ELAN's EAF that have no parent."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from pipeline.datasets.formats.source import Source
from pipeline.results.recording_names import stem_of
from pipeline.stages.corrections.correction import Correction
from pipeline.stages.corrections.tiers import Tier, corrections_of


def read(source: Source) -> Iterator[Correction]:
    """Yield the annotations of a file. The recording is the one that has the name of the file.

    Raises:
        UserError: The file cannot be read, or is no EAF. One with a document type is refused, because its entities may
            fill the memory.
    """
    text = "".join(line for _, line in source.lines())
    if "<!DOCTYPE" in text:
        raise source.refusal("EAF", "has a document type, which ELAN does not write; save it again in ELAN")
    try:
        document = ElementTree.fromstring(text.partition("?>")[2] if text.startswith("<?xml") else text)
        tiers = [*_tiers(document)]
    except (ElementTree.ParseError, KeyError, ValueError, TypeError) as error:
        raise source.refusal("EAF", f"cannot be read ({error}); save it again in ELAN") from None
    yield from corrections_of(source.name, stem_of(source.path), tiers)


def _tiers(document: ElementTree.Element) -> Iterator[Tier]:
    times = {
        slot.attrib["TIME_SLOT_ID"]: int(slot.attrib["TIME_VALUE"]) / 1000
        for slot in document.iter("TIME_SLOT")
        if "TIME_VALUE" in slot.attrib
    }
    for tier in document.iter("TIER"):
        if "PARENT_REF" in tier.attrib:
            continue
        intervals = [
            (times[each.attrib["TIME_SLOT_REF1"]], times[each.attrib["TIME_SLOT_REF2"]], _text(each))
            for each in tier.iter("ALIGNABLE_ANNOTATION")
        ]
        yield Tier(tier.attrib["TIER_ID"], tuple(sorted(intervals)))


def _text(annotation: ElementTree.Element) -> str:
    return annotation.findtext("ANNOTATION_VALUE") or ""
