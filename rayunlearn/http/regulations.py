"""Deadlines that a regulation sets: so long after the receipt of a request."""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from rayunlearn.errors import BadInput, nearest

_ENTRY = re.compile(r"([a-z][a-z0-9_-]{0,31})=([1-9][0-9]{0,2})(d|m)")


@dataclass(frozen=True)
class Period:
    """A number of calendar months, or of days."""

    number: int
    months: bool

    def after(self, moment: datetime) -> datetime:
        """The end of the period that begins with a moment.

        A month ends on the same day of a later month; where that has no such day, on its last.

        >>> str(Period(1, months=True).after(datetime(2027, 1, 31, 9)))
        '2027-02-28 09:00:00'
        >>> str(Period(45, months=False).after(datetime(2027, 1, 31, 9)))
        '2027-03-17 09:00:00'
        """
        if not self.months:
            return moment + timedelta(days=self.number)
        years, month = divmod(moment.month - 1 + self.number, 12)
        year = moment.year + years
        day = min(moment.day, calendar.monthrange(year, month + 1)[1])
        return moment.replace(year=year, month=month + 1, day=day)


Regulations = Mapping[str, Period]


def parse_regulations(entries: Iterable[str]) -> Regulations:
    """Regulations by name, from entries such as `gdpr=1m` and `ccpa=45d`.

    Raises:
        BadInput: an entry is not of this form, or a name is there twice.
    """
    found: dict[str, Period] = {}
    for entry in entries:
        match = _ENTRY.fullmatch(entry)
        if match is None or match[1] in found:
            allowed = "NAME=NUMBERd or NAME=NUMBERm, days or months, each name once: gdpr=1m, ccpa=45d"
            raise BadInput("--regulations", entry, allowed)
        found[match[1]] = Period(int(match[2]), match[3] == "m")
    return found


def require_regulation(regulations: Regulations, name: object) -> str:
    """The name of a regulation that there is.

    Raises:
        BadInput: naming the nearest.
    """
    if not isinstance(name, str) or name not in regulations:
        raise BadInput("regulation", name, nearest(str(name), regulations) or "none, no regulation is set")
    return name
