"""The command `footfall-backend import contacts|orders|catalogue FILE`; it asks the running backend."""

import os
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer

from backend.clock import unix_ms
from backend.ids import uuid7
from backend.imports import mapping as mappings
from backend.imports import reading
from backend.imports.mapping import ColumnMapping, Kind, MappingInvalid
from backend.imports.reading import Options, Read
from backend.imports.rows import Imported
from backend.imports.run import Batch, ImportRun, RunUnusable, Saved, batches, fingerprint
from backend.imports.sending import Backend, SendingStopped
from backend.imports.source import Source, feed_in_xml, is_xml, layout_of, proposal
from backend.imports.tables import FileUnreadable
from backend.imports.values import NO, YES, DateReader, DecimalMark, ValueUnreadable
from sdk_bridge.server.spelling import is_country

LINE_EVERY_S: Final = 5.0  # without a terminal: often enough to see that it goes on
SHOWN_ERRORS: Final = 20
SHOWN_ROWS: Final = 3
TOKEN_VARIABLE: Final = "FOOTFALL_API_TOKEN"  # noqa: S105 - its name
TOKEN_VARIABLE_TOO: Final = "FOOTFALL_TOKEN"  # noqa: S105 - what it was called here before
HERE: Final = "http://127.0.0.1:8080"

import_ = typer.Typer(
    no_args_is_help=True, help="Contacts, orders and products out of files, into the running backend."
)

FileArgument = Annotated[Path, typer.Argument(help="The file.", exists=True, dir_okay=False, readable=True)]
MapOption = Annotated[list[str] | None, typer.Option("--map", help="field=Column; may be repeated.")]
MappingOption = Annotated[
    Path | None, typer.Option("--mapping", help="Instead a file of [columns], as a proposal prints it.")
]
AcceptOption = Annotated[bool, typer.Option("--accept", help="Take the mapping that would be proposed.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Read and check everything, send nothing.")]
UrlOption = Annotated[str, typer.Option(help="The running backend.", envvar="FOOTFALL_URL")]
TokenOption = Annotated[
    Path | None, typer.Option("--token-file", help=f"With a marketer's token; else ${TOKEN_VARIABLE}.")
]
AuthorityOption = Annotated[
    Path | None, typer.Option("--ca", help="The authority behind the backend's HTTPS.")
]
DelimiterOption = Annotated[str | None, typer.Option(help="Of columns, also `tab`; found out without it.")]
EncodingOption = Annotated[str | None, typer.Option(help="Such as cp1252; found out without it.")]
DecimalOption = Annotated[str, typer.Option(help="auto, comma or point.")]
DateFormatOption = Annotated[str | None, typer.Option(help="Such as %d/%m/%Y, in the letters of strptime.")]
ZoneOption = Annotated[str, typer.Option(help="Of dates that name none, such as Europe/Vienna.")]
AsOfOption = Annotated[str | None, typer.Option(help="When the file was true; else when it was written.")]
YesOption = Annotated[list[str] | None, typer.Option("--yes-word", help="One more word that means yes.")]
NoOption = Annotated[list[str] | None, typer.Option("--no-word", help="One more word that means no.")]
CountryOption = Annotated[
    str | None, typer.Option(help="Of telephone numbers without a country's code, such as AT.")
]
CurrencyOption = Annotated[str | None, typer.Option(help="Of amounts that name none, such as EUR.")]


@import_.command("contacts")
def contacts(  # noqa: PLR0913 - each is an option
    file: FileArgument,
    *,
    map_: MapOption = None,
    mapping_file: MappingOption = None,
    accept: AcceptOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = HERE,
    token_file: TokenOption = None,
    ca: AuthorityOption = None,
    delimiter: DelimiterOption = None,
    encoding: EncodingOption = None,
    date_format: DateFormatOption = None,
    timezone: ZoneOption = "UTC",
    as_of: AsOfOption = None,
    country: CountryOption = None,
    yes_word: YesOption = None,
    no_word: NoOption = None,
) -> None:
    """Imports customers: identifiers, traits and consents.

    Fields: user_id, loyalty_id, email, phone, created_at, consent_at, trait.NAME, consent.PURPOSE.
    """
    with _one_line_for_mistakes():
        source = _table(file, "contacts", _Told(map_, mapping_file, accept, delimiter, encoding))
        options = _options(file, timezone, date_format, as_of, country=country, yes=yes_word, no=no_word)
        job = _Job("contacts", source, options, _Where(url, token_file, ca, dry_run))
        job.run(reading.contacts(source.records(), source.mapping, options))


@import_.command("orders")
def orders(  # noqa: PLR0913 - each is an option
    file: FileArgument,
    *,
    map_: MapOption = None,
    mapping_file: MappingOption = None,
    accept: AcceptOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = HERE,
    token_file: TokenOption = None,
    ca: AuthorityOption = None,
    delimiter: DelimiterOption = None,
    encoding: EncodingOption = None,
    decimal: DecimalOption = "auto",
    date_format: DateFormatOption = None,
    timezone: ZoneOption = "UTC",
    as_of: AsOfOption = None,
    currency: CurrencyOption = None,
    country: CountryOption = None,
    from_line: Annotated[
        bool, typer.Option("--order-id-from-line", help="A row is an order; its id is FILE's name and line.")
    ] = False,
    yes_word: YesOption = None,
    no_word: NoOption = None,
) -> None:
    """Imports orders and refunds, each with its own date. The rows of one order stand together.

    Fields: order_id, user_id, loyalty_id, email, phone, ordered_at, total or amount, currency, refund,
    cancelled, coupon, product_id, sku, product_name, brand, category, price, quantity.
    """
    with _one_line_for_mistakes():
        told = _Told(map_, mapping_file, accept, delimiter, encoding)
        source = _table(file, "orders", told, ("order_id",) if from_line else ())
        options = _options(
            file,
            timezone,
            date_format,
            as_of,
            decimal=_mark(decimal),
            currency=currency,
            country=country,
            numbered=file.stem if from_line else None,
            yes=yes_word,
            no=no_word,
        )
        job = _Job("orders", source, options, _Where(url, token_file, ca, dry_run))
        job.run(reading.orders(source.records(), source.mapping, options))


@import_.command("catalogue")
def catalogue(  # noqa: PLR0913 - each is an option
    file: FileArgument,
    *,
    map_: MapOption = None,
    mapping_file: MappingOption = None,
    accept: AcceptOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = HERE,
    token_file: TokenOption = None,
    ca: AuthorityOption = None,
    delimiter: DelimiterOption = None,
    encoding: EncodingOption = None,
    decimal: DecimalOption = "auto",
    timezone: ZoneOption = "UTC",
    currency: CurrencyOption = None,
    feed: Annotated[str, typer.Option(help="Which of a shop's several feeds this is.")] = "catalogue",
    complete: Annotated[
        bool, typer.Option("--complete", help="This is the whole feed: what it lacks becomes unavailable.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --complete, also where more than half is missing.")
    ] = False,
) -> None:
    """Imports products: a table, or a Google Merchant feed (RSS, Atom, text), which needs no mapping.

    Fields: product_id, name, sku, brand, price, sale_price, sale_dates, currency, category, google_category,
    url, image_url, availability, parent_id.
    """
    with _one_line_for_mistakes():
        told = _Told(map_, mapping_file, accept, delimiter, encoding)
        source = feed_in_xml(file) if is_xml(file) else _table(file, "catalogue", told)
        mark: DecimalMark = "point" if source.is_googles else _mark(decimal)
        options = _options(file, timezone, None, None, decimal=mark, currency=currency)
        end = {"force": force} if complete else None
        job = _Job("catalogue", source, options, _Where(url, token_file, ca, dry_run), {"feed": feed}, end)
        job.run(reading.products(source.records(), source.mapping, options))


# What to read, and how ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Told:
    """What the command line says of the columns."""

    pairs: list[str] | None
    file: Path | None
    accept: bool
    delimiter: str | None
    encoding: str | None


def _table(file: Path, kind: Kind, told: _Told, given: tuple[str, ...] = ()) -> Source:
    """The file with its mapping; without one, prints a proposal and ends. Raises what tells of mistakes."""
    layout = layout_of(file, told.encoding, told.delimiter)
    if told.pairs and told.file:
        raise MappingInvalid("give either --map or --mapping")
    if told.pairs:
        mapping = mappings.told(kind, told.pairs)
    elif told.file:
        mapping = mappings.from_toml(kind, told.file.read_text("utf-8"))
    elif told.accept or (kind == "catalogue" and mappings.is_googles(layout.header)):
        mapping = mappings.guess(kind, layout.header)
    else:
        _propose(Source(file, ColumnMapping(kind, {}), layout))
    mappings.check(mapping, layout.header, given)
    return Source(file, mapping, layout)


def _propose(source: Source) -> NoReturn:
    if source.layout is None:
        raise RuntimeError("only tables need a mapping")
    typer.echo(f"# {source.path.name}: {source.described}")
    typer.echo(
        "# Nothing was imported yet. Run again with --accept, or change this and give it as --mapping."
    )
    typer.echo(proposal(source.mapping.kind, source.layout), nl=False)
    raise typer.Exit(2)


def _options(  # noqa: PLR0913 - each is an option
    file: Path,
    timezone: str,
    date_format: str | None,
    as_of: str | None,
    *,
    decimal: DecimalMark = "auto",
    currency: str | None = None,
    country: str | None = None,
    numbered: str | None = None,
    yes: list[str] | None = None,
    no: list[str] | None = None,
) -> Options:
    """Raises ValueUnreadable for an option that says nothing."""
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueUnreadable(f"--timezone: {timezone} is unknown; it may be Europe/Vienna") from error
    if country is not None and not is_country(country.upper()):
        raise ValueUnreadable(f"--country: {country} is unknown; it may be AT")
    now = unix_ms()
    written = file.stat().st_mtime_ns // 1_000_000
    return Options(
        dates=DateReader(zone, date_format),
        as_of=min(now, DateReader(zone).read(as_of) if as_of else written),
        now=now,
        decimal=decimal,
        currency=currency.upper() if currency else None,
        country=country.upper() if country else None,
        yes=YES | {word.casefold() for word in yes or ()},
        no=NO | {word.casefold() for word in no or ()},
        numbered=numbered,
    )


def _mark(told: str) -> DecimalMark:
    marks: dict[str, DecimalMark] = {"auto": "auto", "comma": "comma", "point": "point"}
    if told not in marks:
        raise ValueUnreadable(f"--decimal: {told} is unknown; it may be auto, comma or point")
    return marks[told]


# Sending --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Where:
    """The backend to ask, or nobody."""

    url: str
    token_file: Path | None
    ca: Path | None
    dry_run: bool

    def backend(self) -> Backend:
        """Raises SendingStopped without a token or a usable address."""
        if not self.url.startswith(("http://", "https://")):
            raise SendingStopped("--url begins with http:// or https://")
        trust = ssl.create_default_context()
        try:
            token = self.token_file.read_text("utf-8") if self.token_file else _token_of_environment()
            if self.ca is not None:
                trust.load_verify_locations(self.ca)
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            raise SendingStopped(f"--token-file or --ca cannot be read: {error}") from error
        if not token.strip():
            raise SendingStopped(f"give a marketer's token: in ${TOKEN_VARIABLE}, or with --token-file")
        return Backend(self.url, token.strip(), trust)


def _token_of_environment() -> str:
    return os.environ.get(TOKEN_VARIABLE) or os.environ.get(TOKEN_VARIABLE_TOO, "")


@dataclass(frozen=True, slots=True)
class _Job:
    """One file on its way to the backend. `end`: what to say of a feed that is whole."""

    kind: Kind
    source: Source
    options: Options
    where: _Where
    more: dict[str, Any] | None = None
    end: dict[str, Any] | None = None

    @property
    def _name(self) -> str:
        return "".join(sign if sign.isprintable() else "?" for sign in self.source.path.name)[-200:]

    def run(self, reads: Iterator[Read]) -> None:
        """Raises SendingStopped and RunUnusable; ends with 1 where the file broke off."""
        typer.echo(f"{self._name}: {self.source.described}; dates in {self.options.dates.zone}")
        if self.where.dry_run:
            self._try(reads)
        else:
            self._send(reads)
        if self.source.broken is not None:
            _fail(f"{self._name}: {self.source.broken}; what came before is imported")

    def _try(self, reads: Iterator[Read]) -> None:
        rows = errors = shown = 0
        for batch in batches(reads):
            for row in batch.rows[: max(0, SHOWN_ROWS - rows)]:
                typer.echo(bytes(row).decode())
            for error in batch.errors[: max(0, SHOWN_ERRORS - shown)]:
                typer.echo(f"line {error.line}: {error.reason}", err=True)
                shown += 1
            rows, errors = rows + len(batch.rows), errors + len(batch.errors)
        typer.echo(f"nothing was sent: {rows} {self.kind} can be imported, {errors} rows cannot")

    def _send(self, reads: Iterator[Read]) -> None:
        backend = self.where.backend()
        backend.check()
        options = self.options
        about = repr((self.kind, self.source.mapping.columns, self.more, options.dates, options.as_of))
        more = repr((options.decimal, options.currency, options.country, options.numbered))
        words = repr((sorted(options.yes), sorted(options.no)))
        mark = fingerprint(self.source.path, about, more, words)
        run = ImportRun(self.source.path, mark, lambda: uuid7(unix_ms()))
        if run.is_resumed:
            typer.echo(f"going on behind the first {run.saved.done}, which are acknowledged")
        frame = {"import_id": run.saved.import_id, "file": self._name}

        def send(batch: Batch) -> Imported:
            body = {**frame, **(self.more or {}), "rows": batch.rows}
            if batch.present:
                body["present"] = batch.present
            return backend.post(f"/api/import/{self.kind}", body, Imported)

        with _progress(self.source, run.saved) as moved:
            saved = run.go(reads, send, moved)
        typer.echo(f"{saved.new} imported, {saved.known} known before, {saved.errors} rows with errors")
        if saved.errors:
            typer.echo(f"the errors are in {run.errors_file}", err=True)
        if self.source.broken is not None:
            return
        if self.end is not None:
            body = {**frame, **(self.more or {}), **self.end}
            gone = backend.post("/api/import/catalogue/complete", body, dict[str, int])["vanished"]
            typer.echo(f"{gone} products are in the feed no more, and unavailable")
        run.finish()


@contextmanager
def _progress(source: Source, saved: Saved) -> Iterator[Callable[[], None]]:
    """A bar on a terminal; elsewhere a line now and then."""
    total = max(source.path.stat().st_size, 1)
    position = 0

    def watch(now_at: int) -> None:
        nonlocal position
        position = min(now_at, total)

    source.watch = watch
    if sys.stdout.isatty():
        with typer.progressbar(length=total, label="importing") as bar:
            yield lambda: bar.update(position - bar.pos)
        return
    told_at = time.monotonic()

    def line() -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= LINE_EVERY_S:
            told_at = time.monotonic()
            done = saved.new + saved.known
            typer.echo(f"{100 * position // total} %: {done} acknowledged, {saved.errors} with errors")

    yield line


@contextmanager
def _one_line_for_mistakes() -> Iterator[None]:
    mistakes = (FileUnreadable, MappingInvalid, ValueUnreadable, RunUnusable, SendingStopped, OSError)
    try:
        yield
    except mistakes as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on from here")


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(2)
