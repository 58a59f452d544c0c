"""`python -m services.auth`: serves. `… keys FILE` makes keys, `… config FILE` tells the server's part of them."""

import sys

from services.auth import verbs

if __name__ == "__main__":
    sys.exit(verbs.main(sys.argv[1:]))
