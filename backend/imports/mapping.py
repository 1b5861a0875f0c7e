"""Which column is which field: as told, or guessed from the columns' names in English and German."""

import difflib
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["contacts", "orders", "catalogue"]

# Each field, what it is, and names that columns have for it; the first field to claim a column gets it.
_WHO = {
    "user_id": ("the shop's number of the customer", "userid customerid customer customernumber customerno "
        "clientid kdnr kundennr kundennummer kundenid kunde"),
    "loyalty_id": ("the number of the loyalty card", "loyaltyid loyaltynumber loyaltycard cardnumber cardid "
        "kartennummer kundenkarte kundenkartennummer kartennr"),
    "email": ("the e-mail address", "email emailaddress mail mailaddress emailadresse mailadresse"),
    "phone": ("the telephone number", "phone phonenumber mobile mobilephone telephone tel telefon "
        "telefonnummer handy handynummer mobil mobiltelefon"),
}  # fmt: skip
FIELDS: Mapping[Kind, Mapping[str, tuple[str, str]]] = {
    "contacts": {
        **_WHO,
        "created_at": ("since when a customer", "createdat created createddate signupdate registered "
            "registeredat angelegt angelegtam erstellt erstelltam kundeseit registriertam"),
        "consent_at": ("when the person agreed", "consentat consentdate optindate optinat einwilligungam "
            "optindatum einwilligungsdatum"),
    },
    "orders": {
        "order_id": ("the number of the order; its rows stand together", "orderid ordernumber orderno order "
            "invoice receipt receiptid bestellnr bestellnummer bestellung auftrag auftragsnr auftragsnummer "
            "belegnr belegnummer bonnr bonnummer"),
        **_WHO,
        "ordered_at": ("when it was ordered", "orderedat orderdate ordertime date datetime timestamp "
            "createdat purchasedat bestelldatum datum auftragsdatum belegdatum kaufdatum zeitpunkt"),
        "total": ("the whole order's amount, on each of its rows", "total ordertotal grandtotal gesamt "
            "gesamtbetrag gesamtsumme summe bestellwert rechnungsbetrag"),
        "amount": ("this row's amount; an order's rows are added up", "amount lineamount linetotal rowtotal "
            "dollarvalue betrag umsatz zeilenbetrag positionsbetrag"),
        "currency": ("its currency, as EUR", "currency currencycode waehrung"),
        "refund": ("yes, or the amount that went back", "refund refunded return returned retoure erstattung "
            "storno gutschrift"),
        "cancelled": ("yes, or since when it is called off", "cancelled canceled cancelledat canceledat "
            "storniert storniertam stornodatum"),
        "coupon": ("the code that was used", "coupon couponcode voucher discountcode gutscheincode "
            "aktionscode"),
        "product_id": ("the product", "productid itemid product artikelnr artikelnummer artikel produktid"),
        "sku": ("its stock-keeping unit", "sku variantsku"),
        "product_name": ("its name", "productname itemname title artikelname artikelbezeichnung bezeichnung "
            "produktname"),
        "brand": ("its brand", "brand marke hersteller"),
        "category": ("its category", "category productcategory kategorie warengruppe"),
        "price": ("one piece's price", "price unitprice itemprice preis einzelpreis stueckpreis"),
        "quantity": ("how many", "quantity qty count pieces numberofcds menge anzahl stueck stueckzahl"),
    },
    "catalogue": {
        "product_id": ("the product's id, as apps and sites send it", "productid id itemid artikelnr "
            "artikelnummer produktid"),
        "name": ("its name", "name title productname itemname artikelname bezeichnung artikelbezeichnung "
            "produktname"),
        "sku": ("its stock-keeping unit", "sku mpn variantsku"),
        "brand": ("its brand", "brand marke hersteller"),
        "price": ("the regular price, \"12.50\" or \"12.50 EUR\"", "price regularprice preis listenpreis"),
        "sale_price": ("what it costs now", "saleprice specialprice aktionspreis angebotspreis sonderpreis"),
        "currency": ("the prices' currency, as EUR", "currency currencycode waehrung"),
        "category": ("its category, \"Shoes > Running\"", "category producttype productcategory "
            "categorypath kategorie warengruppe kategoriepfad"),
        "google_category": ("Google's category, where there is no other", "googleproductcategory"),
        "url": ("its page", "url link producturl productlink seite"),
        "image_url": ("its picture", "imageurl imagelink image picture bild bildurl bildlink"),
        "availability": ("in_stock, out_of_stock, preorder, backorder; or how many", "availability stock "
            "instock verfuegbarkeit verfuegbar bestand lagerbestand"),
        "parent_id": ("what its variants share", "parentid itemgroupid groupid parent vaterartikel "
            "modellnummer"),
        "sale_dates": ("when the sale price holds, two dates with / between", "salepriceeffectivedate"),
    },
}  # fmt: skip
_TRAITS = {
    "firstName": "firstname givenname vorname",
    "lastName": "lastname surname familyname nachname familienname",
    "name": "name fullname kundenname",
    "gender": "gender sex geschlecht anrede",
    "birthday": "birthday birthdate dateofbirth geburtstag geburtsdatum",
    "city": "city town ort stadt wohnort",
    "postalCode": "zip zipcode postalcode postcode plz postleitzahl",
    "country": "country land",
    "language": "language locale sprache",
}
_CONSENTS = {
    "push": "push pushconsent pushoptin pusheinwilligung",
    "proximity": "proximity proximityconsent",
    "email": "newsletter newsletteroptin emailoptin emailconsent optin marketing marketingconsent werbung "
    "werbeeinwilligung newsletteranmeldung acceptsmarketing",
    "sms": "smsoptin smsconsent acceptssms",
}
_REQUIRED: Mapping[Kind, tuple[tuple[str, ...], ...]] = {
    "contacts": (("user_id", "loyalty_id", "email", "phone"),),
    "orders": (("user_id", "loyalty_id", "email", "phone"), ("ordered_at",), ("total", "amount", "price")),
    "catalogue": (("product_id",), ("name",)),
}
_FREE = re.compile(r"(trait\.[^\x00-\x1f\x7f.]{1,100}|consent\.[A-Za-z0-9_-]{1,64})")


class MappingInvalid(ValueError):
    """The mapping does not fit the file; the text says where, and what it may be."""


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """The column of each field. Besides the kind's own, contacts have `trait.NAME` and `consent.PURPOSE`."""

    kind: Kind
    columns: Mapping[str, str]

    def cell(self, cells: Mapping[str, str], field: str) -> str:
        """What a row says of a field; empty where it says nothing."""
        column = self.columns.get(field)
        return "" if column is None else cells.get(column, "")

    def free(self, prefix: str) -> dict[str, str]:
        """The columns of traits or of consents, by their names."""
        return {
            field.removeprefix(prefix): column
            for field, column in self.columns.items()
            if field.startswith(prefix)
        }

    def as_toml(self, header: Sequence[str] = ()) -> str:
        """As a file that --mapping takes; columns of the header that it leaves out as comments."""
        told = [
            f"{field if field.isidentifier() else _quoted(field)} = {_quoted(column)}"
            for field, column in self.columns.items()
        ]
        used = set(self.columns.values())
        left = [f"# left out: {_quoted(name)}" for name in header if name and name not in used]
        return "\n".join(["[columns]", *told, *left]) + "\n"


def told(kind: Kind, pairs: Iterable[str]) -> ColumnMapping:
    """From `field=Column` pairs. Raises MappingInvalid."""
    columns: dict[str, str] = {}
    for pair in pairs:
        field, equals, column = (part.strip() for part in pair.partition("="))
        if not (field and equals and column):
            raise MappingInvalid(f"--map {pair}: write it as field=Column")
        if field in columns:
            raise MappingInvalid(f"--map {pair}: {field} is mapped twice")
        columns[field] = column
    return _known(ColumnMapping(kind, columns))


def from_toml(kind: Kind, text: str) -> ColumnMapping:
    """From the file that a proposal printed. Raises MappingInvalid."""
    try:
        columns = tomllib.loads(text).get("columns")
    except tomllib.TOMLDecodeError as error:
        raise MappingInvalid(str(error)) from error
    if not isinstance(columns, dict) or not all(isinstance(column, str) for column in columns.values()):
        raise MappingInvalid('the file needs a table [columns] with lines such as email = "E-Mail"')
    return _known(ColumnMapping(kind, columns))


def guess(kind: Kind, header: Sequence[str]) -> ColumnMapping:
    """The mapping that the columns' names suggest; a column that suggests nothing is left out."""
    names = {plain: name for name in reversed(header) if (plain := _plain(name))}
    wanted = {field: synonyms for field, (_, synonyms) in FIELDS[kind].items()}
    if kind == "contacts":
        wanted |= {f"trait.{name}": synonyms for name, synonyms in _TRAITS.items()}
        wanted |= {f"consent.{purpose}": synonyms for purpose, synonyms in _CONSENTS.items()}
    columns: dict[str, str] = {}
    for field, synonyms in wanted.items():
        column = next((names[word] for word in synonyms.split() if word in names), None)
        if column is not None and column not in columns.values():
            columns[field] = column
    return ColumnMapping(kind, columns)


def check(mapping: ColumnMapping, header: Sequence[str], given: Iterable[str] = ()) -> None:
    """That every column exists, and no needed field is missing; `given` are told by options.

    Raises MappingInvalid.
    """
    for field, column in mapping.columns.items():
        if column not in header:
            close = difflib.get_close_matches(column, header, 1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; the file has {', '.join(header)}"
            raise MappingInvalid(f"{field}: the file has no column {column!r}{hint}")
    have = {*mapping.columns, *given}
    for options in _REQUIRED[mapping.kind]:
        if have.isdisjoint(options):
            raise MappingInvalid(f"no column is {' or '.join(options)}; say --map {options[0]}=Column")
    if mapping.kind == "orders" and "order_id" not in have:
        raise MappingInvalid(
            "no column is order_id; say --map order_id=Column, or --order-id-from-line for an order a row"
        )


def is_googles(header: Sequence[str]) -> bool:
    """Whether these are the columns of a Merchant feed in text form, which need no mapping."""
    return {"id", "title", "link"} <= set(header)


def _known(mapping: ColumnMapping) -> ColumnMapping:
    for field in mapping.columns:
        if field in FIELDS[mapping.kind] or (mapping.kind == "contacts" and _FREE.fullmatch(field)):
            continue
        close = difflib.get_close_matches(field, FIELDS[mapping.kind], 1)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(FIELDS[mapping.kind])}"
        more = ", trait.NAME and consent.PURPOSE" if mapping.kind == "contacts" and not close else ""
        raise MappingInvalid(f"{field} is no field of {mapping.kind}; {hint}{more}")
    return mapping


def _plain(name: str) -> str:
    """A column's name without case, blanks, marks and umlauts."""
    spelled = name.casefold().replace("ä", "ae").replace("ö", "oe").replace("ü", "ue").replace("ß", "ss")
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", spelled))


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'
