"""The life of gateways: the authority behind their certificates, enrolment, remote configuration."""
