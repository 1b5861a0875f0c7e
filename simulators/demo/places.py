"""Where the demo's files lie, and the settings files that its programs read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STORE = "demo"


@dataclass(frozen=True, slots=True)
class Places:
    """One folder with everything: settings, databases, logs."""

    folder: Path

    @property
    def backend_config(self) -> Path:
        return self.folder / "backend.toml"

    @property
    def backend_data(self) -> Path:
        return self.folder / "backend"

    @property
    def fcm(self) -> Path:
        return self.folder / "fcm"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def gateway_config(self, gateway: str) -> Path:
        return self.folder / f"{gateway}.toml"

    def write_backend(self, http_port: int, mqtt_port: int, send_url: str, service_account: Path) -> None:
        """`backend.toml`, with FCM's address turned to the simulator."""
        self.backend_config.write_text(
            f"data_dir = {_quoted(self.backend_data)}\n"
            f"[http]\nport = {http_port}\n"
            f"[mqtt]\nport = {mqtt_port}\n"
            f"[push]\nservice_account = {_quoted(service_account)}\n"
            f'send_url = "{send_url}"\n',
            encoding="utf-8",
        )

    def write_gateway(
        self, gateway: str, mqtt_port: int, uuid: str, namespace: str, fixed: Sequence[str]
    ) -> Path:
        """A gateway's settings: the shop's own namespaces only."""
        path = self.gateway_config(gateway)
        path.write_text(
            f'store = "{STORE}"\ngateway = "{gateway}"\n'
            f"data_dir = {_quoted(self.folder / gateway)}\n"
            f'[mqtt]\nhost = "127.0.0.1"\nport = {mqtt_port}\n'
            f'[allow]\nibeacon = ["{uuid}"]\neddystone = ["{namespace}"]\n'
            f"[zone_beacons]\nkeys = {json.dumps(list(fixed))}\n",
            encoding="utf-8",
        )
        return path


def _quoted(path: Path) -> str:
    return json.dumps(str(path))
