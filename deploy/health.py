"""Exit status 0 when the service of this container says that it is ready: HEALTHCHECK without curl."""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4.0


def main() -> int:
    """0 when ready, 1 with the reason on standard error otherwise."""
    tls = "REPCENTER_DOOR_TLS_CERT_FILE" in os.environ
    url = f"{'https' if tls else 'http'}://127.0.0.1:{os.environ['REPCENTER_HTTP_PORT']}/health/ready"
    itself = ssl.create_default_context()
    itself.check_hostname, itself.verify_mode = False, ssl.CERT_NONE  # its own process, by the loopback
    cert, key = (os.environ.get(f"REPCENTER_CLIENT_TLS_{name}_FILE") for name in ("CERT", "KEY"))
    if cert and key:
        itself.load_cert_chain(cert, key)
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),  # never by way of HTTP_PROXY
        urllib.request.HTTPSHandler(context=itself),
    )
    try:
        with direct.open(url, timeout=TIMEOUT_S):
            return 0
    except urllib.error.HTTPError as error:
        with error:
            reason = error.read(500).decode("utf-8", "replace")
        print(f"{url}: {error.code} {reason}", file=sys.stderr)
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
