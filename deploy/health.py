"""Exit status 0 when the service of this container says that it is ready: HEALTHCHECK without curl."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 4.0


def main() -> int:
    """0 when ready, 1 with the reason on standard error otherwise."""
    url = f"http://127.0.0.1:{os.environ['REPCENTER_HTTP_PORT']}/health/ready"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by way of HTTP_PROXY
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
