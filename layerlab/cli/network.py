"""Where the services are: the devnet of this directory, or addresses that the user gives.

Responsible for finding addresses, the fault token and the L1 genesis. Must not know what is asked of a service.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from layerlab.config import HOST, DevnetError
from layerlab.layout import MARK, named
from layerlab.models import MODELS, USUAL

DEFAULT_URLS: Final = {
    "validator-0": f"http://{HOST}:8545",
    "sequencer": f"http://{HOST}:9545",
    "verifier": f"http://{HOST}:9546",
    "bridge": f"http://{HOST}:10545",
}
FIRST_VALIDATOR: Final = "validator-0"


@dataclass(frozen=True)
class Network:
    """Addresses by service name. ``directory`` is that of a local devnet, None without one."""

    urls: dict[str, str]
    directory: Path | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def l1_urls(self) -> list[str]:
        return [url for name, url in self.urls.items() if name.startswith("validator-")]

    @property
    def fault_token(self) -> str | None:
        token = self.config.get("fault_token")
        return token if isinstance(token, str) else None

    @property
    def genesis_file(self) -> Path | None:
        """L1's genesis on this machine: it need not be believed of a node."""
        file = None if self.directory is None else self.directory / "genesis" / "l1.json"
        return file if file is not None and file.is_file() else None

    @property
    def model(self) -> str:
        """The devnet's model; without a devnet the usual one."""
        return str(self.config.get("model", USUAL))

    def service(self, name: str) -> str:
        """The address of a service; ``l1`` is the first validator, ``l2`` carries the application on a second chain.

        Raises `DevnetError`.
        """
        if name == "l2":
            name = MODELS[self.model].app
            if name == FIRST_VALIDATOR:
                raise DevnetError(f"the model {self.model!r} has one chain; leave out --l2")
        name = FIRST_VALIDATOR if name == "l1" else name
        try:
            return self.urls[name]
        except KeyError:
            raise DevnetError(
                f"no service {name!r} in the model {self.model!r}; there are l1, {', '.join(self.urls)}"
            ) from None


def find_network(directory: Path) -> Network:
    """The devnet in ``directory``, or the usual addresses if there is none. Raises `DevnetError`."""
    mark = directory / MARK
    try:
        content = json.loads(mark.read_text())
    except FileNotFoundError:
        return Network(dict(DEFAULT_URLS))
    except (OSError, ValueError) as error:
        raise DevnetError(
            f"{str(mark)!r} cannot be read ({error}); start anew with layerlab up --fresh{named(directory)}"
        ) from None
    urls = content.get("urls") if isinstance(content, dict) else None
    if not isinstance(urls, dict) or not all(isinstance(url, str) for url in urls.values()):
        raise DevnetError(
            f"{str(mark)!r} names no addresses; start anew with layerlab up --fresh{named(directory)}"
        )
    return Network(urls, directory, content.get("config") or {})
