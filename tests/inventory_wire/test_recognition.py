"""What tells machines apart, and whose host one is: pure."""

import pytest

from inventory.recognition import Candidate, Expected, Known, Stranger, Verdict, recognise, serial_key, uuid_key

PLACEHOLDERS = [
    *("To Be Filled By O.E.M.", "to be filled by o.e.m", "To be filled by O.E.M. ", "TO BE FILLED BY OEM", "Filled By OEM"),
    *("Default string", "System Serial Number", "Chassis Serial Number", "Base Board Serial Number", "Type2 - Board Serial Number"),
    *("System manufacturer", "Serial Number", "SerNum0", "PartNum1", "AssetTagNum2", "BSN12345678901234567", "OEM", "O.E.M."),
    *("None", "N/A", "NA", "Not Specified", "NotSpecified", "Not Available", "Not Applicable", "No Asset Tag", "No Serial Number"),
    *("INVALID", "Unknown", "Undefined", "Unspecified", "Empty", "Standard", "TBD", "test", "xxxxxxxx", "XXX123"),
    *("0", "00000000", "FFFFFFFF", "11111111", "1", "12", "123456789", "0123456789", "1234567890", "987654321", "abcdef", "1234"),
    *("...", "-", "", "   ", "0000-0000", "_"),
]


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_placeholders_tell_nothing(text: str) -> None:
    """What makers leave in the field is no serial number, however it is written."""
    for spelled in (text, text.upper(), text.lower(), f"  {text}  "):
        assert serial_key(spelled) is None, spelled


@pytest.mark.parametrize("text", ["5CG1234ABC", "PF2ABCDE", "VMware-56 4d 1a b2", "CZC1234567", "7XK3J93", "SN1", "none-4711", "S-0001"])
def test_serial_numbers_tell(text: str) -> None:
    """Real ones do, whatever the case and the blanks around them."""
    assert serial_key(text) == serial_key(f" {text.lower()} ") == serial_key(text.upper()) is not None


def test_uuids_that_many_share_tell_nothing() -> None:
    """All zeros, all ones, a pattern, what firmware is delivered with, and what is no UUID."""
    for text in (
        *("03000200-0400-0500-0006-000700080009", "00020003-0004-0005-0006-000700080009", "12345678-1234-5678-90AB-CDDEEFAABBCC"),
        *("00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "fefefefe-fefe-fefe-fefe-fefefefefefe"),
        *("Not Settable", "", None, "4c4c4544"),
    ):
        assert uuid_key(text) is None, text
    assert uuid_key(" 4C4C4544-004B-5210-8051-B4C04F4A4D32 ") == "4c4c4544-004b-5210-8051-b4c04f4a4d32"


A, B = Candidate("host-a", True, None, None), Candidate("host-b", True, None, None)
BY_SERIAL = Candidate("host-s", False, "s1", None)
BY_UUID = Candidate("host-u", False, None, "u1")
BY_BOTH = Candidate("host-x", False, "s1", "u1")

VERDICTS: list[tuple[str, tuple[str | None, str | None], list[Candidate], Verdict]] = [
    ("nobody has it", ("s1", "u1"), [], Stranger()),
    ("a device has it", ("s1", None), [A], Known(("host-a",))),
    ("two have it, the likelier first", ("s1", "u1"), [B, A], Known(("host-b", "host-a"))),
    ("it is expected by serial", ("s1", "u9"), [BY_SERIAL], Expected("host-s")),
    ("it is expected by UUID", (None, "u1"), [BY_UUID], Expected("host-u")),
    ("it is expected by both, and both fit", ("s1", "u1"), [BY_BOTH], Expected("host-x")),
    ("it is expected by both, and one does not fit", ("s1", "u9"), [BY_BOTH], Stranger()),
    ("it is expected by both, and tells only one", ("s1", None), [BY_BOTH], Stranger()),
    ("it is expected, but a device has it already", ("s1", None), [BY_SERIAL, A], Known(("host-a",))),
    ("two hosts expect it", ("s1", "u1"), [BY_SERIAL, BY_UUID], Stranger()),
]


@pytest.mark.parametrize(("what", "keys", "candidates", "verdict"), VERDICTS, ids=[row[0] for row in VERDICTS])
def test_whose_host_it_is(what: str, keys: tuple[str | None, str | None], candidates: list[Candidate], verdict: Verdict) -> None:
    """The verdict over hosts that share a key with the machine."""
    assert recognise(*keys, candidates) == verdict
