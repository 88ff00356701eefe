"""
National ids of the countries that are switched on: a shape, and the check digits of python-stdnum.

Some have one check digit only, so every tenth number of that shape is one. That is why no country is on by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Final

from openrouter_audit.errors import ConfigError, ExtraMissing

IDS: Final = {
    "AR": (("ar.cuit", r"\d{2}-?\d{8}-?\d"),),
    "AT": (("at.vnr", r"\d{4} ?\d{6}"),),
    "AU": (("au.tfn", r"\d{3} ?\d{3} ?\d{2,3}"), ("au.abn", r"\d{2} ?\d{3} ?\d{3} ?\d{3}")),
    "BE": (("be.nn", r"\d{2}\.?\d{2}\.?\d{2}[- ]?\d{3}\.?\d{2}"),),
    "BR": (("br.cpf", r"\d{3}\.?\d{3}\.?\d{3}-?\d{2}"),),
    "CA": (("ca.sin", r"\d{3}[ -]?\d{3}[ -]?\d{3}"),),
    "CH": (("ch.ssn", r"756\.?\d{4}\.?\d{4}\.?\d{2}"),),
    "CN": (("cn.ric", r"\d{17}[\dXx]"),),
    "DE": (("de.idnr", r"\d{2} ?\d{3} ?\d{3} ?\d{3}"),),
    "DK": (("dk.cpr", r"\d{6}-?\d{4}"),),
    "ES": (("es.dni", r"\d{8}-?[A-Za-z]"), ("es.nie", r"[XYZxyz]-?\d{7}-?[A-Za-z]")),
    "FI": (("fi.hetu", r"\d{6}[-+A-Fa-fU-Yu-y]\d{3}[0-9A-Za-z]"),),
    "FR": (("fr.nir", r"[12] ?\d{2} ?\d{2} ?\d[\dABab] ?\d{3} ?\d{3} ?\d{2}"),),
    "GB": (("gb.nhs", r"\d{3}[ -]?\d{3}[ -]?\d{4}"),),
    "IN": (("in_.aadhaar", r"\d{4} ?\d{4} ?\d{4}"), ("in_.pan", r"[A-Z]{5}\d{4}[A-Z]")),
    "IT": (("it.codicefiscale", r"[A-Za-z]{6}\d{2}[A-Za-z]\d{2}[A-Za-z]\d{3}[A-Za-z]"),),
    "KR": (("kr.rrn", r"\d{6}-?\d{7}"),),
    "MX": (("mx.curp", r"[A-Z]{4}\d{6}[A-Z]{6}[0-9A-Z]\d"),),
    "NL": (("nl.bsn", r"\d{4}\.?\d{2}\.?\d{3}"),),
    "NO": (("no.fodselsnummer", r"\d{6} ?\d{5}"),),
    "PL": (("pl.pesel", r"\d{11}"),),
    "PT": (("pt.cc", r"\d{8} ?\d ?[0-9A-Z]{2}\d"),),
    "SE": (("se.personnummer", r"(?:\d{2})?\d{6}[-+]?\d{4}"),),
    "TR": (("tr.tckimlik", r"\d{11}"),),
    "US": (("us.itin", r"9\d{2}-\d{2}-\d{4}"),),
    "ZA": (("za.idnr", r"\d{13}"),),
}
"""By country: modules of the library, and the shapes in which people write the number."""


def finders(countries: tuple[str, ...], library: Any) -> tuple[tuple[str, Any, Callable[[bytes], bool]], ...]:
    """
    Patterns and checks, as the engine takes own ones.

    Raises:
        ConfigError: No ids of a country are known.
        ExtraMissing: python-stdnum is not installed.
    """
    found = []
    options = library.Options()
    options.log_errors, options.never_nl = False, True
    for country in countries:
        if country.upper() not in IDS:
            raise ConfigError(
                f"no ids of {country!r} are known; there are {', '.join(IDS)}", setting="redact.national_ids"
            )
        for module, shape in IDS[country.upper()]:
            found.append(
                ("NATIONAL_ID", library.compile(rf"\b{shape}\b", options), partial(_is_valid, _check_of(module)))
            )
    return tuple(found)


def _check_of(module: str) -> Callable[[str], bool]:
    try:
        check: Callable[[str], bool] = import_module(f"stdnum.{module}").is_valid
    except ImportError as error:
        raise ExtraMissing(extra="redaction", library="python-stdnum") from error
    return check


def _is_valid(check: Callable[[str], bool], value: bytes) -> bool:
    try:
        return bool(check(value.decode()))
    except Exception:  # a check that stumbles over a number has not found it right
        return False
