"""Contacts, orders and catalogues out of files: read, mapped, checked row by row, sent and resumed."""
