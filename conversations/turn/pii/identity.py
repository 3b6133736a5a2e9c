"""What a state knows somebody by: numbers of persons, and the date of birth."""

import re
from collections.abc import Callable, Iterator

from stdnum.at import vnr
from stdnum.au import tfn
from stdnum.be import nn
from stdnum.br import cpf
from stdnum.ca import sin
from stdnum.ch import ssn as ahv
from stdnum.de import idnr
from stdnum.dk import cpr
from stdnum.es import dni, nie
from stdnum.fi import hetu
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.in_ import aadhaar
from stdnum.it import codicefiscale
from stdnum.mx import curp
from stdnum.nl import bsn
from stdnum.no import fodselsnummer
from stdnum.pl import pesel
from stdnum.pt import nif
from stdnum.se import personnummer
from stdnum.us import ssn

from conversations.turn.pii.plain import Finding, Plain, found, pattern

# --- numbers of persons ----------------------------------------------------------------------


def _is_nino(text: str) -> bool:
    """A British National Insurance number: it has no check digit, but impossible prefixes."""
    number = text.replace(" ", "").upper()
    shape = re.fullmatch(r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][0-9]{6}[A-D]", number)
    return bool(shape) and number[:2] not in {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"}


def _is_german_pension_number(text: str) -> bool:
    """Versicherungsnummer: area, birth date, letter, serial number and check digit."""
    number = re.sub(r"[ -]", "", text).upper()
    if not re.fullmatch(r"[0-9]{8}[A-Z][0-9]{3}", number):
        return False
    letter = f"{ord(number[8]) - 64:02}"
    digits = number[:8] + letter + number[9:11]
    products = (
        int(d) * f for d, f in zip(digits, (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1), strict=True)
    )
    return sum(product // 10 + product % 10 for product in products) % 10 == int(number[11])


def _is_ssn(text: str) -> bool:
    return bool(ssn.is_valid(text.replace(" ", "")))


# Shapes that tell by themselves, each with what its check digits or rules say.
_SHAPED: tuple[tuple[str, Callable[[str], bool]], ...] = (
    (
        r"[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]",
        codicefiscale.is_valid,
    ),
    (r"[A-Z][AEIOUX][A-Z]{2}[0-9]{6}[HM][A-Z]{5}[0-9A-Z][0-9]", curp.is_valid),
    (r"[12] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", nir.is_valid),
    (r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}", ahv.is_valid),
    (r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}", nn.is_valid),
    (r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", cpf.is_valid),
    (r"[0-9]{3}-[0-9]{2}-[0-9]{4}", ssn.is_valid),
    (r"[0-9]{6}[-+][0-9]{4}", personnummer.is_valid),
    (r"[0-9]{6}[-+A][0-9]{3}[0-9A-Z]", hetu.is_valid),
    (r"[0-9]{8}-?[A-Z]", dni.is_valid),
    (r"[XYZ]-?[0-9]{7}-?[A-Z]", nie.is_valid),
    (r"[A-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]", _is_nino),
    (r"[0-9]{2} [0-9]{3} [0-9]{3} [0-9]{3}", idnr.is_valid),
)  # fmt: skip
_RULES = tuple((re.compile(shape), is_valid) for shape, is_valid in _SHAPED)
_ANY_SHAPE = pattern(rb"\b(?:" + "|".join(shape for shape, _ in _SHAPED).encode() + rb")\b")

# Plain digits, which are somebody's number only beside a word that says so.
_SAID: tuple[tuple[str, tuple[Callable[[str], bool], ...]], ...] = (
    (r"ssn|social security", (_is_ssn,)),
    (r"steuer-?id\w*|idnr|steueridentifikationsnummer|tax id", (idnr.is_valid,)),
    (r"renten\w*|rvnr|sozialversicherung\w*|svnr|sv-nummer|versicherungsnummer",
     (_is_german_pension_number, vnr.is_valid, ahv.is_valid)),
    ("nir|s\xe9curit\xe9 sociale", (nir.is_valid,)),
    (r"dni|documento", (dni.is_valid,)),
    (r"nif|contribuinte", (nif.is_valid, dni.is_valid)),
    (r"bsn|burgerservicenummer|sofinummer", (bsn.is_valid,)),
    (r"ahv|avs", (ahv.is_valid,)),
    (r"pesel", (pesel.is_valid,)),
    ("rijksregister\\w*|num\xe9ro national|insz|niss", (nn.is_valid,)),
    (r"personnummer|personnr|f\xf8dselsnummer", (personnummer.is_valid, fodselsnummer.is_valid)),
    (r"cpr", (cpr.is_valid,)),
    (r"cpf", (cpf.is_valid,)),
    (r"nhs", (nhs.is_valid,)),
    (r"aadhaar|aadhar", (aadhaar.is_valid,)),
    (r"sin|social insurance", (sin.is_valid,)),
    (r"tfn|tax file", (tfn.is_valid,)),
)  # fmt: skip
_WORDS = tuple((re.compile(words, re.IGNORECASE), valid) for words, valid in _SAID)
_NAMED = pattern(
    rb"(?i)\b(" + "|".join(words for words, _ in _SAID).encode("latin-1") + rb")"
    rb"[^0-9A-Za-z\n]{1,3}(?:[^0-9\n]{0,20}[^0-9A-Za-z\n])?([0-9][0-9A-Z .\-/]{5,20}[0-9A-Z])",
    captures=True,
)
_PART = re.compile(r"[0-9A-Za-z]+")
_MOST_PARTS = 7


def named_numbers(seen: Plain) -> Iterator[Finding]:
    """Numbers of persons beside a word that says so."""
    for match in _NAMED.finditer(seen.coded):
        word, (start, end) = match.group(1).decode("latin-1"), match.span(2)
        validators = next(valid for words, valid in _WORDS if words.fullmatch(word))
        ends = [part.end() for part in _PART.finditer(seen.text, start, end)][:_MOST_PARTS]
        for last in reversed(ends):
            number = seen.text[start:last].replace("/", " ")
            if seen.is_apart(start, last) and any(is_valid(number) for is_valid in validators):
                yield Finding("NATIONAL_ID", start, last)
                break


def shaped_numbers(seen: Plain) -> Iterator[Finding]:
    """Numbers of persons that tell by their shape and check digits."""
    for finding in found("NATIONAL_ID", _ANY_SHAPE, seen):
        text = seen.text[finding.start : finding.end]
        is_inner = re.search(r"\w[-.]\Z", seen.text[max(0, finding.start - 2) : finding.start])
        goes_on = re.match(r"[-.]\w", seen.text[finding.end : finding.end + 2])
        if is_inner or goes_on or not seen.is_apart(finding.start, finding.end):
            continue
        if any(shape.fullmatch(text) and is_valid(text) for shape, is_valid in _RULES):
            yield finding


# --- dates of birth --------------------------------------------------------------------------

_BORN = (
    "born|birth ?date|date of birth|birth ?day|d\\.?o\\.?b\\.?|geboren|geb\\.|geburtsdatum"
    "|geburtstag|n\xe9e?|naissance|nacid[oa]|nacimiento|nat[oa] il|data di nascita|geboortedatum"
    "|nascid[oa]|nascimento|urodzon\\w*|data urodzenia|f\xf6dd|f\xf8dt|f\xf8dselsdato"
)
_MONTH = (
    "(?:jan|ene|gen|feb|f\xe9v|fev|mar|m\xe4r|maa|mrt|apr|avr|abr|may|mai|maj|mag|mei|jun|jui|giu|jul"
    "|lug|aug|ao\xfb|ago|sep|set|okt|oct|out|ott|nov|dec|dez|d\xe9c|dic)[a-z\xe0-\xff]*\\.?"
)
_DATE = (
    "[0-9]{4}[./-][0-9]{1,2}[./-][0-9]{1,2}"
    "|[0-9]{1,2}(?:[./-] ?)[0-9]{1,2}(?:[./-] ?)(?:[0-9]{4}|[0-9]{2})"
    f"|[0-9]{{1,2}}(?:st|nd|rd|th|er|\\.|\xba)?,? (?:of |de )?{_MONTH},? (?:de )?[0-9]{{4}}"
    f"|[0-9]{{1,2}}-{_MONTH}-[0-9]{{4}}"
    f"|{_MONTH} [0-9]{{1,2}}(?:st|nd|rd|th)?,? [0-9]{{4}}"
)
_BIRTH = pattern(
    f"(?i)\\b(?:{_BORN})(?:[^0-9A-Za-z\n][^0-9\n]{{0,23}})?(?:\\b|[^0-9A-Za-z])({_DATE})\\b".encode(
        "latin-1"
    ),
    captures=True,
)
_BIRTH_AFTER = pattern(f"(?i)\\b({_DATE}),? [(*]?(?:{_BORN})\\b".encode("latin-1"), captures=True)


def birth_dates(seen: Plain) -> Iterator[Finding]:
    """Dates beside a word for birth, in the languages of most of Europe."""
    for compiled in (_BIRTH, _BIRTH_AFTER):
        for match in compiled.finditer(seen.coded):
            yield Finding("BIRTH_DATE", *match.span(1))
