"""Messages, codec and topics of the wire. Imports nothing else of Footfall's."""
